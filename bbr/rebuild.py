"""From the archive to a snapshot file: fetch a chain, merge it, check it, and give it its trailer and its name.

Restore, verify and drills share this. A chain of a base alone gives back the very file that was taken. The HashKV of
the result must be the one that the signed manifest promises, or nothing is handed out.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bbr.durable import publish, sync_file, sync_folder
from bbr.errors import HashMismatch, SnapshotDamaged, TargetNotEmpty
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.snapshot import Snapshot, append_trailer
from bbr.merge import Collapsed, merge
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.repository.keys import Identity
from bbr.repository.manifest import EtcdEntry
from bbr.repository.transfer import Meter, fetch_into
from bbr.scratch import scratch_folder
from bbr.stores.store import Store
from bbr.threads import pool


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A snapshot file, trailer included, whose HashKV at ``revision`` and ``compact_revision`` was checked."""

    path: Path
    revision: int
    compact_revision: int
    hash_kv: int
    sha256: str
    size_bytes: int
    records: int


def rebuild(archive: Archive, backup: Backup, etcd: str, target: Path, *, progress: Progress) -> Rebuilt:
    """Write the snapshot of one etcd, as it was at ``backup``, to ``target``.

    ``target`` must not exist; it appears whole (0600, fsynced, renamed) or not at all. Scratch files lie beside it and
    are removed on every exit, those of a killed run by the next. Raises `TargetNotEmpty`, `PartDamaged`,
    `SnapshotDamaged`, `HashMismatch`, `KeyRefused`, `NoSpace`, `PreconditionFailed` where the file system cannot do
    that, or what the store raises.
    """
    if os.path.lexists(target):
        raise TargetNotEmpty(f"{target} exists; it was left as it is")
    identity = archive.epoch_identity(backup)
    entries = [link.manifest.etcd(etcd) for link in archive.catalog.chain(backup, etcd)]
    streams_bytes = sum(part.raw_bytes for entry in entries for part in entry.parts)
    result_bytes = streams_bytes if len(entries) > 1 else 0
    with scratch_folder(target.parent, needed_bytes=streams_bytes + result_bytes) as scratch:
        progress.step(f"fetching etcd {etcd}: a base and {len(entries) - 1} increments")
        base, *increments = _fetched(archive.store, entries, identity, scratch, progress)
        if increments:
            buffers = [_mapped(path) for path in increments]
            progress.step(f"merging {len(increments)} increments by revision")
            with Snapshot.open(base) as snapshot:
                merge(snapshot.reader, Collapsed.of(buffers), base)
        progress.step("checking HashKV and the trailing hash")
        rebuilt = _checked(base, entries[-1], has_trailer=not increments)
        _publish(base, target)
        return replace(rebuilt, path=target)


def _fetched(
    store: Store, entries: Sequence[EtcdEntry], identity: Identity, scratch: Path, progress: Progress
) -> list[Path]:
    """Each entry's stream in a scratch file of its own, in order."""
    meter = Meter(progress, sum(part.raw_bytes for entry in entries for part in entry.parts))
    paths = []
    for number, entry in enumerate(entries):
        path = scratch / f"stream-{number}"
        with path.open("xb") as out:
            fetch_into(store, entry.parts, identity, out.fileno(), done=meter.add)
        paths.append(path)
    return paths


def _checked(path: Path, promised: EtcdEntry, *, has_trailer: bool) -> Rebuilt:
    """Check a bolt file against the manifest, and its trailing hash, or append that.

    HashKV, SHA-256 and the way to the disk run abreast: each waits for something else.
    """
    with pool(2, "checking") as threads, Snapshot.open(path) as snapshot:
        trailing = threads.submit(snapshot.digest)
        written = threads.submit(sync_file, path)
        actual = hash_kv(snapshot.reader, promised.revision, promised.compact_revision)
        if snapshot.has_trailer != has_trailer:
            raise SnapshotDamaged(f"{path.name}: the trailing hash is missing")
        if snapshot.revision != promised.revision or actual != promised.hash_kv:
            raise HashMismatch(
                f"rebuilt: revision {snapshot.revision}, HashKV {actual}; "
                f"the manifest promises {promised.revision}, {promised.hash_kv}"
            )
        digest = trailing.result()
        written.result()
        if has_trailer and snapshot.trailer != digest:
            raise SnapshotDamaged(f"{path.name}: the trailing hash does not match")
    if not has_trailer:
        append_trailer(path, digest)
    return Rebuilt(
        path=path,
        revision=promised.revision,
        compact_revision=promised.compact_revision,
        hash_kv=actual,
        sha256=digest.hex(),
        size_bytes=path.stat().st_size,
        records=promised.records,
    )


def _publish(path: Path, target: Path) -> None:
    """Give the finished file its name, durably, unless something took that name meanwhile."""
    sync_file(path)
    path.chmod(0o600)
    try:
        publish(path, target)
    except FileExistsError as err:
        raise TargetNotEmpty(f"{target} exists; it was left as it is") from err
    sync_folder(target.parent)


def _mapped(path: Path) -> memoryview:
    """The file's bytes without reading them. The mapping goes with the last view of it."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
