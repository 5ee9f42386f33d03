"""How much of what the living etcd holds a backup does not have: counts by kind, and the newest objects. Cheap.

etcd counts a range without reading its values. One question for each kind that the backup knows, some side by side,
and one for everything: what is left over is of kinds that came since.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from bbr.etcd.client import EtcdClient
from bbr.threads import pool

ABREAST = 4
SLOW_S = 0.5
"""Where counting everything once takes longer, its parts are not counted: a plan is made in seconds, or in an incident
not at all."""

NEWEST = 5
LOOKED_AT = 20_000
"""Keys that are looked at for what is newest, of all kinds together: the kinds that grew most first."""

_PASSING = frozenset({"/registry/events/", "/registry/leases/", "/registry/masterleases/"})
"""They come and go all the time, and nobody misses one."""


@dataclass(frozen=True, slots=True)
class Counted:
    """``counts`` by key prefix, ``others`` under none of those prefixes, ``newest`` keys made since, newest first."""

    counts: Mapping[str, int] = field(default_factory=dict)
    others: int = 0
    newest: tuple[str, ...] = ()


def count_objects(client: EtcdClient, before: Mapping[str, int], *, since: int) -> Counted:
    """Count by the prefixes of ``before``. ``since`` is the backup's revision. Raises what the client raises."""
    if not before:
        return Counted()
    began = time.monotonic()
    everything = client.range(b"\0", b"\0", limit=1, keys_only=True, serializable=True).count
    if time.monotonic() - began > SLOW_S:
        return Counted()
    with pool(ABREAST, "count") as threads:
        counts = dict(zip(before, threads.map(lambda prefix: _count(client, prefix), before), strict=True))
    made: list[tuple[int, bytes]] = []
    left = LOOKED_AT
    # Also of a kind that has no more than before: one may have gone, and another come.
    for prefix in sorted(counts.keys() - _PASSING, key=lambda one: (before[one] - counts[one], one)):
        if 0 < counts[prefix] <= left:
            left -= counts[prefix]
            made += _made_since(client, prefix, since)
    newest = tuple(key.decode(errors="backslashreplace") for _, key in sorted(made, reverse=True)[:NEWEST])
    return Counted(counts, max(everything - sum(counts.values()), 0), newest)


def _count(client: EtcdClient, prefix: str) -> int:
    key = prefix.encode()
    return client.range(key, _end(key), limit=1, keys_only=True, serializable=True).count


def _made_since(client: EtcdClient, prefix: str, since: int) -> list[tuple[int, bytes]]:
    key = prefix.encode()
    found = client.range(key, _end(key), limit=LOOKED_AT, keys_only=True, serializable=True)
    return [(one.create_revision, one.key) for one in found.kvs if one.create_revision > since]


def _end(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix; prefixes of keys end with a slash."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
