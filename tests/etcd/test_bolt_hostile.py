"""Bolt files made to cost time: small ones whose elements or pages are the same bytes many times over."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

import pytest

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.page import (
    BRANCH_ELEMENT,
    BRANCH_PAGE,
    BUCKET_ELEMENT,
    BUCKET_HEADER,
    LEAF_ELEMENT,
    LEAF_PAGE,
    MAGIC,
    META,
    META_CHECKED_BYTES,
    META_PAGE,
    NO_FREELIST,
    PAGE_HEADER,
    VERSION,
    fnv1a,
)
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import KeyValue, RevisionKey
from bbr.etcd.scan import scan
from bbr.etcd.snapshot import Snapshot

PAGE = 4096
LEAF_PAGES = 2200
"""9 MB in one leaf: more pages than `COUNT`, so that it does not help to count the leaves that are reached."""
COUNT = 2000
CPU_LIMIT_S = 0.5

Element = tuple[int, int, int]


def meta_page(root: int, high_water: int) -> bytes:
    body = META.pack(MAGIC, VERSION, PAGE, 0, root, 0, NO_FREELIST, high_water, 2, 0)[:META_CHECKED_BYTES]
    return (PAGE_HEADER.pack(0, META_PAGE, 0, 0) + body + fnv1a(body).to_bytes(8, "little")).ljust(PAGE, b"\0")


def leaf_page(page_id: int, elements: Sequence[Element], body: bytes, pages: int, *, flags: int = 0) -> bytes:
    """``elements``: where each key starts behind the page's header, its size, and the size of its value."""
    image = PAGE_HEADER.pack(page_id, LEAF_PAGE, len(elements), pages - 1)
    for index, (at, key_bytes, value_bytes) in enumerate(elements):
        image += LEAF_ELEMENT.pack(flags, at - 16 * index, key_bytes, value_bytes)
    return (image + body).ljust(pages * PAGE, b"\0")


def file_with(tree: bytes, root: int = 3) -> bytes:
    """A file whose bucket "key" is that tree, which begins at page 3."""
    top = leaf_page(2, [(16, 3, BUCKET_HEADER.size)], b"key" + BUCKET_HEADER.pack(root, 0), 1, flags=BUCKET_ELEMENT)
    return meta_page(2, 3 + len(tree) // PAGE) + bytes(PAGE) + top + tree


def values_to_the_end_of_the_page() -> bytes:
    body = b"".join(RevisionKey(main, 0).encode() + b"\x0a\x00" for main in range(2, COUNT + 2))
    inside = LEAF_PAGES * PAGE - 16
    starts = [16 * COUNT + 19 * index for index in range(COUNT)]
    return file_with(leaf_page(3, [(at, 17, inside - at - 17) for at in starts], body, LEAF_PAGES))


def keys_to_the_end_of_the_page() -> bytes:
    """Zeros, each key one longer than the one before: in order."""
    inside = LEAF_PAGES * PAGE - 16
    starts = [17 * COUNT - index for index in range(COUNT)]
    return file_with(leaf_page(3, [(at, inside - at, 0) for at in starts], b"", LEAF_PAGES))


def one_leaf_under_every_branch_element() -> bytes:
    own = -(-(16 + 16 * COUNT) // PAGE)
    branch = PAGE_HEADER.pack(3, BRANCH_PAGE, COUNT, own - 1) + BRANCH_ELEMENT.pack(0, 1, 3 + own) * COUNT
    record = RevisionKey(2, 0).encode() + b"\x0a\x01x"
    leaf = leaf_page(3 + own, [(16, 17, LEAF_PAGES * PAGE - 16 - 16 - 17)], record, LEAF_PAGES)
    return file_with(branch.ljust(own * PAGE, b"\0") + leaf)


def check(data: bytes) -> None:
    BoltReader(data).check()


def scan_all(data: bytes) -> None:
    scan(Snapshot(memoryview(data), "hostile"), compact_revision=0, seed=1, group=bytes)


def hash_all(data: bytes) -> None:
    hash_kv(BoltReader(data), 1 << 40, 1)


def small_buckets(data: bytes) -> None:
    Snapshot(memoryview(data), "hostile").small_buckets()


@pytest.mark.parametrize("read", [check, scan_all, hash_all])
@pytest.mark.parametrize(
    "made", [values_to_the_end_of_the_page, keys_to_the_end_of_the_page, one_leaf_under_every_branch_element]
)
def test_bytes_that_count_many_times_are_refused_at_once(
    made: Callable[[], bytes], read: Callable[[bytes], None]
) -> None:
    data = made()
    began = time.process_time()
    with pytest.raises(SnapshotDamaged):
        read(data)
    assert time.process_time() - began < CPU_LIMIT_S


def small_snapshot() -> bytes:
    out = io.BytesIO()
    writer = BoltWriter(out, leaf_bytes=1024)
    for main in range(2, 40):
        key = b"/registry/pods/a/%d" % (main % 7)
        tombstone = main % 11 == 0
        record = KeyValue(key) if tombstone else KeyValue(key, main, main, 1, b"v" * (main * 3))
        writer.add(RevisionKey(main, 0, tombstone).encode(), record.encode())
    compacted = RevisionKey(2, 0).encode()
    writer.finish(b"key", {b"meta": [(b"finishedCompactRev", compacted), (b"scheduledCompactRev", compacted)]})
    return out.getvalue()


SMALL = small_snapshot()


@pytest.mark.parametrize("change", [0xFF, 0x01, 0x80])
def test_every_changed_byte_is_refused_or_read_by_every_reader(change: int) -> None:
    """Nothing but `SnapshotDamaged` comes out: no IndexError, no struct.error, no loop, no huge allocation."""
    refused = 0
    used = [at for at in range(len(SMALL)) if SMALL[at] or at % PAGE < 1100]  # the rest is padding
    for at in used:
        damaged = bytearray(SMALL)
        damaged[at] ^= change
        body = bytes(damaged)
        try:
            Snapshot(memoryview(body), "damaged")
        except SnapshotDamaged:
            refused += 1
            continue
        for read in (check, scan_all, hash_all, small_buckets):
            try:
                read(body)
            except SnapshotDamaged:
                refused += 1
    assert refused > 500
