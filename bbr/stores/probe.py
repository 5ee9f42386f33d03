"""What a store can do, found out by doing it: for `bbr doctor`, and for `bbr init` before anything depends on it."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from threading import Barrier

from bbr.errors import AccessDenied, AlreadyExists, BodyWrong, StoreError, StoreUnavailable
from bbr.stores.retry import Retrying
from bbr.stores.store import Lifecycle, Retention, Store, Versions

RACERS = 8
PROBE_PREFIX = "probe/"


@dataclass(frozen=True, slots=True)
class Abilities:
    """``race_winners``: of 8 writers of one new name, how many were told that it was theirs; 1 is right.

    ``clock_difference_s``: the store's clock minus this host's. None where a store has no such ability, or may not
    tell.
    """

    race_winners: int
    refuses_overwrite: bool
    reads_back: bool
    may_delete: bool
    clock_difference_s: float
    versions: bool | None
    retention: bool | None
    expiry_rules: tuple[str, ...] | None

    @property
    def conditional_create(self) -> bool:
        """Whether a name can be taken once only."""
        return self.race_winners == 1 and self.refuses_overwrite

    @property
    def lacks(self) -> tuple[str, ...]:
        """A line for each thing that a person should know about this store."""
        lines = []
        if not self.conditional_create:
            lines.append(
                f"conditional create is ignored ({self.race_winners} of {RACERS} writers won one name): "
                "backups stay safe, since names never repeat; only one agent may run"
            )
        if not self.may_delete:
            lines.append("objects may not be deleted with these credentials: right for a backup host, not for prune")
        lines += [f"a lifecycle rule may delete parts of backups: {rule}" for rule in self.expiry_rules or ()]
        return tuple(lines)


def probe(store: Store) -> Abilities:
    """Write a few small objects under ``probe/`` and look.

    Raises what the store raises, `BodyWrong` for a wrong body.
    """
    inner = store.inner if isinstance(store, Retrying) else store
    token = secrets.token_hex(8)
    first = f"{PROBE_PREFIX}{token}-first"
    before = datetime.now(UTC)
    stored = store.put(first, b"first")
    after = datetime.now(UTC)
    refuses = _refuses(inner, first)
    # A store that took the second body as well is not to be trusted with conditions, but this is no damage.
    if store.get(first, limit_bytes=16) not in (b"first", b"second"):
        raise BodyWrong(f"{first} was read back other than it was written", hint="do not use this store")
    raced = f"{PROBE_PREFIX}{token}-race"
    winners = _race(inner, raced)
    may_delete = _may_delete(inner, (first, raced))
    return Abilities(
        race_winners=winners,
        refuses_overwrite=refuses,
        reads_back=True,
        may_delete=may_delete,
        clock_difference_s=(stored.time - before - (after - before) / 2).total_seconds(),
        versions=_versions(inner, first),
        retention=_retention(inner),
        expiry_rules=_rules(inner),
    )


def _refuses(store: Store, name: str) -> bool:
    try:
        store.put(name, b"second")
    except AlreadyExists:
        return True
    return False


def _race(store: Store, name: str) -> int:
    barrier = Barrier(RACERS)
    with ThreadPoolExecutor(RACERS, thread_name_prefix="race") as pool:
        return sum(pool.map(partial(_racer, store, name, barrier), range(RACERS)))


def _racer(store: Store, name: str, barrier: Barrier, number: int) -> bool:
    barrier.wait(30)
    try:
        store.put(name, b"racer %d" % number)
    except (AlreadyExists, StoreUnavailable):  # some stores tell the losers to try again
        return False
    return True


def _may_delete(store: Store, names: tuple[str, ...]) -> bool:
    try:
        for name in names:
            store.delete(name)
    except AccessDenied:
        return False
    return True


def _versions(store: Store, name: str) -> bool | None:
    if not isinstance(store, Versions):
        return None
    try:
        return bool(store.versions(name))
    except StoreError as err:  # not allowed, or the server has no such thing
        if err.retry_may_help:
            raise
        return None


def _retention(store: Store) -> bool | None:
    if not isinstance(store, Retention):
        return None
    try:
        return store.retention_enabled()
    except StoreError as err:  # not allowed, or the server has no such thing
        if err.retry_may_help:
            raise
        return None


def _rules(store: Store) -> tuple[str, ...] | None:
    if not isinstance(store, Lifecycle):
        return None
    try:
        return tuple(store.expiry_rules())
    except StoreError as err:  # not allowed, or the server has no such thing
        if err.retry_may_help:
            raise
        return None
