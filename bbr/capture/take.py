"""Taking etcds: each spooled, scanned, compared with its server and with the chain; nothing is stored yet."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bbr.capture.cache import Cache, Live
from bbr.capture.etcd import DEFAULT_PREFIX, Capture, capture_etcd
from bbr.capture.examine import Examined, examine
from bbr.capture.increment import Difference, HistoryDiffers, difference
from bbr.errors import BbrError, EtcdCompacted
from bbr.etcd.client import Credentials, connect
from bbr.etcd.snapshot import Snapshot
from bbr.progress import Progress

SNAPSHOT_TRIES = 3
"""How often a snapshot is taken when the server compacts past it meanwhile."""


@dataclass(frozen=True, slots=True)
class Source:
    """One etcd of the cluster: its name in backups ("main", "events"), and how its members are reached.

    ``prefix`` is kube-apiserver's ``--etcd-prefix``, under which the cluster's own identity is found.
    """

    name: str
    endpoints: tuple[str, ...]
    credentials: Credentials
    prefix: str = DEFAULT_PREFIX


@dataclass(frozen=True, slots=True)
class Taken:
    """One etcd, spooled and examined, not yet stored. ``live`` is what the chain holds of it, if it can go on."""

    source: Source
    capture: Capture
    snapshot: Snapshot
    examined: Examined
    seed: int
    live: Live | None
    change: Difference | HistoryDiffers | None

    def to_remember(self, sequence: int) -> Live:
        """What the next backup compares itself with, once this one is committed as ``sequence``."""
        return Live(
            name=self.source.name,
            cluster_id=self.capture.cluster_id,
            revision=self.snapshot.revision,
            sequence=sequence,
            seed=self.seed,
            revisions=self.examined.scan.revisions,
            digests=self.examined.scan.digests,
        )


@dataclass(frozen=True, slots=True)
class Caution:
    """``compare``: ask servers for HashKV. ``accept_disagreement``: go on where members differ, and say so."""

    compare: bool = True
    accept_disagreement: bool = False


def take_all(
    sources: Sequence[Source],
    cache: Cache | None,
    spool: Path,
    opened: ExitStack,
    *,
    caution: Caution,
    progress: Progress,
) -> tuple[list[Taken], list[str]]:
    """Every etcd that could be taken, and a line for each that could not. Raises when none could."""
    taken: list[Taken] = []
    missing: list[str] = []
    for source in sources:
        live = next((live for live in cache.etcds if live.name == source.name), None) if cache else None
        try:
            taken.append(_take(source, live, spool / f"{source.name}.db", opened, caution=caution, progress=progress))
        except BbrError as err:  # whatever is wrong with one etcd, the others are still worth having
            if len(sources) == 1:
                raise
            progress.warn(f"etcd {source.name}: {err}")
            missing.append(f"etcd {source.name} is missing: {err}")
            failure = err
    if not taken:
        raise failure
    return taken, missing


def _take(
    source: Source, live: Live | None, path: Path, opened: ExitStack, *, caution: Caution, progress: Progress
) -> Taken:
    """Spool one etcd, scan it, compare it with its server and with the chain."""
    clients = connect(source.endpoints, source.credentials)
    for client in clients:
        opened.callback(client.close)
    seed = live.seed if live else secrets.randbits(64)
    for attempt in range(1, SNAPSHOT_TRIES + 1):
        progress.step(f"etcd {source.name}: asking {len(clients)} endpoints and streaming a snapshot")
        capture = capture_etcd(
            clients,
            path,
            compare=caution.compare,
            accept_disagreement=caution.accept_disagreement,
            prefix=source.prefix,
            progress=progress,
        )
        snapshot = opened.enter_context(Snapshot.open(path))
        member = next(client for client in clients if client.endpoint == capture.source.endpoint)
        progress.step(f"etcd {source.name}: reading revision {snapshot.revision} and comparing it with the server")
        try:
            examined = examine(snapshot, member, seed=seed, compare=caution.compare)
            break
        except EtcdCompacted:
            if attempt == SNAPSHOT_TRIES:
                raise
            path.unlink()
    change = difference(live, examined.scan.revisions, examined.scan.digests) if live else None
    return Taken(source, capture, snapshot, examined, seed, live, change)
