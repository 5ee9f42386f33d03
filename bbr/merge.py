"""A base and its increments as one bolt file, merged by revision onto the base's own file.

The base's leaf pages stay where they lie, unread, wherever no increment touches what they may hold, which is nearly
everywhere; the others are written anew behind them, with new branches and metas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.mvcc import KEY_BUCKET
from bbr.repository.frames import REVISION_KEY_BYTES, Increment, Pair, decode

_WRITE_BUFFER_BYTES = 4 * 1024 * 1024
_ABSENT = "an increment removes a revision that the chain before it does not hold"
_ABOVE_ALL = b"\xff" * (REVISION_KEY_BYTES + 2)
"""Above every revision key, its mark included."""


@dataclass(frozen=True, slots=True)
class Collapsed:
    """Several increments as one: what to leave out of the base, what to put in, and the small buckets at the end."""

    removed: list[bytes]
    added: list[tuple[bytes, memoryview]]
    buckets: dict[bytes, list[Pair]]

    @classmethod
    def of(cls, streams: Sequence[memoryview]) -> Collapsed:
        """Apply the increments in their order: what one adds, a later one may remove again.

        Raises `SnapshotDamaged` where one does not follow from those before it, `PartDamaged` for a torn stream.
        """
        removed: set[bytes] = set()
        added: dict[bytes, tuple[bytes, memoryview]] = {}
        increment = Increment([], [], {})
        for stream in streams:
            increment = decode(stream)
            for revision in increment.removed:
                if added.pop(revision, None) is not None:
                    continue
                if revision in removed:
                    raise SnapshotDamaged(_ABSENT)
                removed.add(revision)
            for key, start, end in increment.records:
                revision = key[:REVISION_KEY_BYTES]
                if revision in added:
                    raise SnapshotDamaged("an increment adds a revision that the chain before it holds")
                added[revision] = (key, stream[start:end])
            if KEY_BUCKET in increment.buckets:
                raise SnapshotDamaged("an increment holds the bucket of the records as a small one")
        return cls(sorted(removed), [added[revision] for revision in sorted(added)], increment.buckets)


def merge(base: BoltReader, changes: Collapsed, path: Path) -> None:
    """Make the base's own file hold base minus removed plus added. Its trailing hash goes: it is another file now."""
    with path.open("r+b", buffering=_WRITE_BUFFER_BYTES) as out:
        writer = BoltWriter(out, onto=base)
        pending = _Pending(changes)
        last = b""
        for (first, page_id), (end, _) in pairwise(chain(base.spans(KEY_BUCKET), [(_ABOVE_ALL, 0)])):
            if pending.reach(end):
                _merge_records(writer, base.leaf(page_id).items(), pending)
                pending.write_below(writer, end)
            else:
                writer.keep_leaf(page_id, first)
            last = end
        if not last:  # a bucket of one page, or none
            _merge_records(writer, base.items(KEY_BUCKET), pending)
        pending.write_below(writer, _ABOVE_ALL)
        writer.finish(KEY_BUCKET, changes.buckets)


def _merge_records(writer: BoltWriter, records: Iterable[tuple[memoryview, memoryview]], pending: _Pending) -> None:
    for view, value in records:
        key = bytes(view)
        pending.write_below(writer, key)
        if not pending.remove(key):
            writer.add(key, value)


class _Pending:
    """The changes that the merge has not come to yet. Two sorted lists and how far each is done."""

    def __init__(self, changes: Collapsed) -> None:
        self._removed, self._added = changes.removed, changes.added
        self._next_removed = self._next_added = 0

    def reach(self, end: bytes) -> bool:
        """Whether a change that is not yet done lies below the key ``end``."""
        return self._to_remove() < end or self._to_add() < end

    def write_below(self, writer: BoltWriter, key: bytes) -> None:
        """Write the added records below ``key``; nothing may be left there to remove.

        An added record that the base holds too is out of order to the writer: damage.
        """
        while self._to_add() < key:
            writer.add(*self._added[self._next_added])
            self._next_added += 1
        if self._to_remove() < key[:REVISION_KEY_BYTES]:
            raise SnapshotDamaged(_ABSENT)

    def remove(self, key: bytes) -> bool:
        """Whether the base's record ``key`` is left out."""
        if self._to_remove() != key[:REVISION_KEY_BYTES]:
            return False
        self._next_removed += 1
        return True

    def _to_remove(self) -> bytes:
        return self._removed[self._next_removed] if self._next_removed < len(self._removed) else _ABOVE_ALL

    def _to_add(self) -> bytes:
        return self._added[self._next_added][0] if self._next_added < len(self._added) else _ABOVE_ALL
