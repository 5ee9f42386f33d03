"""From the archive to a snapshot file: fetch a chain, merge it by revision, write a new bolt file and its trailer.

Restore, verify and drills share this. A chain of a base alone gives back the very file that was taken. With
increments, the base's leaf pages stay where they lie wherever no increment touches their range, which is nearly
everywhere; the others are written anew behind them, with new branches and metas. The HashKV of the result must be the
one that the signed manifest promises, or nothing is handed out.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bbr.durable import sync_file, sync_folder
from bbr.errors import HashMismatch, SnapshotDamaged, TargetNotEmpty
from bbr.etcd.bolt.read import BoltReader, Leaf
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import KEY_BUCKET
from bbr.etcd.snapshot import Snapshot, append_trailer
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.repository.frames import REVISION_KEY_BYTES, Increment, Pair, decode
from bbr.repository.keys import Identity
from bbr.repository.manifest import EtcdEntry
from bbr.repository.transfer import Meter, fetch_into
from bbr.scratch import scratch_folder
from bbr.stores.store import Store
from bbr.threads import pool

_WRITE_BUFFER_BYTES = 4 * 1024 * 1024


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
    `SnapshotDamaged`, `HashMismatch`, `KeyRefused`, `NoSpace`, or what the store raises.
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
                _merge(snapshot.reader, Collapsed.of(buffers), base)
        progress.step("checking HashKV and the trailing hash")
        rebuilt = _checked(base, entries[-1], has_trailer=not increments)
        _publish(base, target)
        return replace(rebuilt, path=target)


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Several increments as one: what to leave out of the base, what to put in, and the small buckets at the end."""

    removed: list[bytes]
    added: list[tuple[bytes, memoryview]]
    buckets: dict[bytes, list[Pair]]

    @classmethod
    def of(cls, streams: Sequence[memoryview]) -> Collapsed:
        """Apply the increments in their order: what one adds, a later one may remove again."""
        removed: set[bytes] = set()
        added: dict[bytes, tuple[bytes, memoryview]] = {}
        increment = Increment([], [], {})
        for stream in streams:
            increment = decode(stream)
            for revision in increment.removed:
                if added.pop(revision, None) is None:
                    removed.add(revision)
            for key, start, end in increment.records:
                added[key[:REVISION_KEY_BYTES]] = (key, stream[start:end])
        return cls(sorted(removed), [added[revision] for revision in sorted(added)], increment.buckets)


def _merge(base: BoltReader, changes: Collapsed, path: Path) -> None:
    """Make the base's own file hold base minus removed plus added. Its trailing hash goes: it is another file now."""
    with path.open("r+b", buffering=_WRITE_BUFFER_BYTES) as out:
        writer = BoltWriter(out, onto=base)
        pending = _Pending(changes)
        for leaf in base.leaves(KEY_BUCKET):
            first, last = leaf.first_key, leaf.last_key
            pending.write_below(writer, first)
            if pending.reach(last):
                _merge_leaf(writer, leaf, pending)
            else:
                writer.keep_leaf(leaf, first, last)
        pending.write_rest(writer)
        writer.finish(KEY_BUCKET, changes.buckets)


def _merge_leaf(writer: BoltWriter, leaf: Leaf, pending: _Pending) -> None:
    image = leaf.image
    for key_start, value_start, value_end in leaf.places():
        key = bytes(image[key_start:value_start])
        pending.write_below(writer, key)
        if not pending.remove(key):
            writer.add(key, image[value_start:value_end])


class _Pending:
    """The changes that the merge has not come to yet. Two sorted lists and how far each is done."""

    def __init__(self, changes: Collapsed) -> None:
        self._removed, self._added = changes.removed, changes.added
        self._next_removed = self._next_added = 0

    def reach(self, last: bytes) -> bool:
        """Whether a change that is not yet done lies at or below the key ``last``."""
        removed, added = self._next_removed, self._next_added
        return (removed < len(self._removed) and self._removed[removed] <= last) or (
            added < len(self._added) and self._added[added][0] <= last
        )

    def write_below(self, writer: BoltWriter, key: bytes) -> None:
        """Write the added records below ``key``. One that the base holds too is out of order to the writer: damage."""
        while self._next_added < len(self._added) and self._added[self._next_added][0] < key:
            writer.add(*self._added[self._next_added])
            self._next_added += 1

    def remove(self, key: bytes) -> bool:
        """Whether the base's record ``key`` is left out."""
        if self._next_removed == len(self._removed):
            return False
        removed, revision = self._removed[self._next_removed], key[:REVISION_KEY_BYTES]
        if removed < revision:
            raise SnapshotDamaged("an increment removes a revision that the chain before it does not hold")
        self._next_removed += removed == revision
        return removed == revision

    def write_rest(self, writer: BoltWriter) -> None:
        """Write what lies above the whole base; nothing may be left to remove there."""
        if self._next_removed != len(self._removed):
            raise SnapshotDamaged("an increment removes a revision that the chain before it does not hold")
        for key, value in self._added[self._next_added :]:
            writer.add(key, value)


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
        os.link(path, target)
    except FileExistsError as err:
        raise TargetNotEmpty(f"{target} exists; it was left as it is") from err
    sync_folder(target.parent)


def _mapped(path: Path) -> memoryview:
    """The file's bytes without reading them. The mapping goes with the last view of it."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
