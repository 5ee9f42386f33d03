"""Where a backup goes: on in the generation that this writer remembers, or into a new one, and why."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bbr.capture.cache import Cache
from bbr.capture.increment import HistoryDiffers
from bbr.capture.take import Taken
from bbr.repository import names
from bbr.repository.manifest import GENERATION_TERM

TERM_MARGIN = timedelta(hours=1)
"""A run that begins with less of the term left starts a new generation, so that it need not race the deadline."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this run writes. Its nonce is its own, so no other run can have chosen the same names."""

    cluster: str
    generation: str
    opened: datetime
    sequence: int
    nonce: str


def why_new_generation(
    cache: Cache | None, taken: Sequence[Taken], *, began: datetime, epoch: str, is_known: bool, is_lost: bool
) -> str:
    """Why a run that began at ``began`` (store time) cannot go on where this writer left off; empty when it can.

    ``is_known``: the repository has a backup by this writer; ``is_lost``: this host remembers one that it has not.
    """
    if is_lost:
        return "the writer's newest backup is gone from the store"
    if cache is None:
        return (
            "this host does not remember the writer's newest backup in the repository"
            if is_known
            else "it is the first"
        )
    if cache.epoch != epoch:
        return "the repository has a new epoch"
    if began > cache.opened + GENERATION_TERM - TERM_MARGIN:
        return f"the generation of {cache.opened:%Y-%m-%d %H:%M} UTC has reached its term"
    for one in taken:
        if one.live is None:
            continue
        if one.live.cluster_id != one.capture.cluster_id:
            return f"etcd {one.source.name} has another cluster id"
        if one.snapshot.revision < one.live.revision:
            return (
                f"etcd {one.source.name} is at revision {one.snapshot.revision}, "
                f"behind {one.live.revision} of the last backup"
            )
        if isinstance(one.change, HistoryDiffers):
            return f"etcd {one.source.name} holds another history at revision {one.change.revision}"
    return ""


def place_run(cluster: str, nonce: str, *, began: datetime, writer: str, chain: Cache | None) -> Place:
    """The next place in the generation of ``chain``, or the first of a new one."""
    if chain is not None:
        return Place(cluster, chain.generation, chain.opened, chain.sequence + 1, nonce)
    return Place(cluster, names.generation(began, writer, secrets.token_hex(8)), began, 0, nonce)
