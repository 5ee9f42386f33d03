"""A snapshot file, or a raw copy of ``member/snap/db``: mapped, not read; what its buckets say about it.

A snapshot is the bolt file followed by its SHA-256; the hash is there exactly when the size leaves 32 over 512.
``etcdutl snapshot status`` does not check it; `Snapshot.check_trailer` does. The revision is taken from the file, its
last record: a question to the server before or after would give another one.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.mvcc import KEY_BUCKET, META_BUCKET, REVISION_BYTES, RevisionKey

TRAILER_BYTES = 32
"""SHA-256 of all before it, at the end of every snapshot stream and file."""

SECTOR_BYTES = 512

_BEYOND_ALL = b"\xff" * REVISION_BYTES
"""Above every revision key: etcd's revisions are positive int64."""

_Pair = tuple[bytes, bytes]


class Snapshot:
    """An open snapshot.

    Revisions are 0 where the file has none; ``compact_revision`` is the last finished compaction.
    """

    def __init__(self, whole: memoryview, what: str) -> None:
        self.whole = whole
        self.has_trailer = len(whole) % SECTOR_BYTES == TRAILER_BYTES
        self.size_bytes = len(whole) - (TRAILER_BYTES if self.has_trailer else 0)
        self._what = what
        self.reader = BoltReader(whole[: self.size_bytes])
        meta = {bytes(key): bytes(value) for key, value in self.reader.items(META_BUCKET)}
        self.revision = _last_revision(self.reader)
        self.compact_revision = _revision(meta.get(b"finishedCompactRev"))
        self.scheduled_compact_revision = _revision(meta.get(b"scheduledCompactRev"))
        self.consistent_index = int.from_bytes(meta.get(b"consistent_index", b""))
        self.term = int.from_bytes(meta.get(b"term", b""))
        self.storage_version = meta.get(b"storageVersion", b"").decode(errors="replace")

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Map a file for as long as the context lasts. Raises `SnapshotDamaged` when it is no bolt file."""
        with path.open("rb") as file:
            try:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as err:  # an empty file cannot be mapped
                raise SnapshotDamaged(f"{path.name} is empty") from err
            # Not closed by hand: views of it may live on in an error or an iterator, and it goes with the last of them.
            yield cls(memoryview(mapped), path.name)

    @property
    def trailer(self) -> bytes:
        """The trailing hash as it stands in the file; empty where there is none."""
        return bytes(self.whole[self.size_bytes :])

    def digest(self) -> bytes:
        """SHA-256 of the bolt file: what the trailing hash should be."""
        return hashlib.sha256(self.whole[: self.size_bytes]).digest()

    def check_trailer(self) -> None:
        """Raises `SnapshotDamaged` when the trailing hash is missing or wrong."""
        if not self.has_trailer:
            raise SnapshotDamaged(f"{self._what} has no trailing hash: it is cut, or a raw copy")
        if self.digest() != self.trailer:
            raise SnapshotDamaged(f"{self._what}: the trailing hash does not match its content")

    def small_buckets(self) -> dict[bytes, list[_Pair]]:
        """Every bucket but ``key``, whole."""
        return {
            name: [(bytes(key), bytes(value)) for key, value in self.reader.items(name)]
            for name in self.reader.bucket_names()
            if name != KEY_BUCKET
        }


def append_trailer(path: Path, digest: bytes) -> None:
    """Make a snapshot file of a bolt file, given its `Snapshot.digest`."""
    with path.open("ab") as out:
        out.write(digest)


def _last_revision(reader: BoltReader) -> int:
    last = deque(reader.leaves(KEY_BUCKET, start=_BEYOND_ALL), maxlen=1)
    return RevisionKey.decode(last[0].last_key).main if last else 0


def _revision(key: bytes | None) -> int:
    return RevisionKey.decode(key).main if key else 0
