"""Cutting an increment: what a snapshot holds that the chain lacks, and what the chain holds that it lacks.

An etcd record never changes once written, so both sides are sorted lists of revision keys, and the difference is one
merge. Where a revision is on both sides with another content, the histories differ (a machine was reverted, or its
revisions were written anew): then there is no increment between them, and `HistoryDiffers` says at which revision.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bbr.capture.cache import Live
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.mvcc import KEY_BUCKET
from bbr.repository.frames import REVISION_KEY_BYTES

_RUN = 128
"""Records compared at once: most of two snapshots an hour apart are the same, run after run."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``removed``: revision keys that only the chain has. ``added``: places, in order, of records that only the
    snapshot has."""

    removed: list[bytes]
    added: list[int]


@dataclass(frozen=True, slots=True)
class HistoryDiffers:
    """The two sides hold other content under one revision."""

    revision: int


def difference(chain: Live, revisions: bytes, digests: array[int]) -> Difference | HistoryDiffers:
    """Compare the chain's live records with a snapshot's (17 bytes and one digest for each record, in order)."""
    size = REVISION_KEY_BYTES
    old_keys, old_digests, new_keys, new_digests = chain.revisions, chain.digests, revisions, digests
    old_count, new_count = len(old_digests), len(new_digests)
    result = Difference([], [])
    old = new = 0
    while old < old_count and new < new_count:
        run = min(_RUN, old_count - old, new_count - new)
        if (
            old_keys[old * size : (old + run) * size] == new_keys[new * size : (new + run) * size]
            and old_digests[old : old + run] == new_digests[new : new + run]
        ):
            old, new = old + run, new + run
            continue
        for _ in range(run):
            old_key = old_keys[old * size : (old + 1) * size]
            new_key = new_keys[new * size : (new + 1) * size]
            if old_key == new_key:
                if old_digests[old] != new_digests[new]:
                    return HistoryDiffers(int.from_bytes(new_key[:8]))
                old, new = old + 1, new + 1
            elif old_key < new_key:
                result.removed.append(old_key)
                old += 1
            else:
                result.added.append(new)
                new += 1
            if old == old_count or new == new_count:
                break
    result.removed.extend(old_keys[at * size : (at + 1) * size] for at in range(old, old_count))
    result.added.extend(range(new, new_count))
    return result


def added_records(
    reader: BoltReader, revisions: bytes, added: Sequence[int]
) -> Iterator[tuple[memoryview, memoryview]]:
    """The records at the given places (ascending) of ``revisions``, as (key, value) views of the snapshot.

    Begins at the first of them: nearly all lie at the end, and what lies before is not read.
    """
    size = REVISION_KEY_BYTES
    wanted = (revisions[place * size : (place + 1) * size] for place in added)
    revision = next(wanted, None)
    if revision is None:
        return
    for leaf in reader.leaves(KEY_BUCKET, start=revision):
        image = leaf.image
        for key_start, value_start, value_end in leaf.places():
            if image[key_start : key_start + size] == revision:
                yield image[key_start:value_start], image[value_start:value_end]
                revision = next(wanted, None)
                if revision is None:
                    return
