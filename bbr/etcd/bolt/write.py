"""Writing a bolt file in bulk: one large bucket in key order, then the small ones, then the metas.

Leaves go from page 2 upward as their keys come, then branch pages level by level up to one root, then the leaf page
that lists the buckets, and the two metas last: until those are there, the file is none. No free list is kept, as etcd
on Linux does. Source: bbolt's page layout (page.py) and what its own check demands.

Onto an existing file, pages are written behind its last one, and its leaves can be kept where they lie; what the new
metas do not reach any more is free to bbolt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.page import (
    BRANCH_ELEMENT,
    BRANCH_PAGE,
    BUCKET_ELEMENT,
    BUCKET_HEADER,
    ELEMENT_BYTES,
    HEADER_BYTES,
    KEY_LIMIT_BYTES,
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

Buffer = bytes | bytearray | memoryview
Child = tuple[bytes, int]

COUNT_LIMIT = 0xFFFF
"""Elements of one page: its count has 16 bits."""


class BoltWriter:
    """Writes to a seekable file at its start. Keys come in ascending order; `SnapshotDamaged` where they do not."""

    def __init__(
        self, out: BinaryIO, *, page_size: int = 4096, leaf_bytes: int = 16384, onto: BoltReader | None = None
    ) -> None:
        """With ``onto``, a reader of the very file that ``out`` writes to, whose page size it then has."""
        self._page_size = onto.page_size if onto else page_size
        self._out, self._leaf_bytes = out, max(leaf_bytes, self._page_size)
        self._next_page = onto.high_water if onto else 2
        self._txid = (onto.txid // 2 + 1) * 2 if onto else 2
        self._children: list[Child] = []
        self._last_key = b""
        self._pending: list[tuple[bytes, Buffer]] = []
        self._pending_bytes = HEADER_BYTES
        if onto:
            out.seek(self._next_page * self._page_size)
        else:
            out.write(bytes(2 * page_size))

    def add(self, key: Buffer, value: Buffer) -> None:
        """The next element of the large bucket."""
        own = bytes(key)
        self._advance(own)
        size = ELEMENT_BYTES + len(own) + len(value)
        if self._pending and (self._pending_bytes + size > self._leaf_bytes or len(self._pending) == COUNT_LIMIT):
            self._flush()
        self._pending.append((own, value))
        self._pending_bytes += size

    def keep_leaf(self, page_id: int, first_key: bytes) -> None:
        """A leaf page of the file that is written onto, as it is. ``first_key``: the lowest that it may hold."""
        self._advance(first_key)
        self._flush()
        self._children.append((first_key, page_id))

    def keep_bucket(self, onto: BoltReader, name: bytes) -> None:
        """Every leaf page of a bucket of the file that is written onto."""
        for first_key, page_id in onto.spans(name):
            self.keep_leaf(page_id, first_key)
        if not self._children:
            for key, value in onto.items(name):
                self.add(key, value)

    def finish(self, big_bucket: bytes, small: Mapping[bytes, Sequence[tuple[bytes, bytes]]]) -> int:
        """Write the branches, the other buckets and the metas. Returns the size in bytes to which the file is cut."""
        self._flush()
        if not self._children:
            self._write_leaf([])
        buckets = {big_bucket: BUCKET_HEADER.pack(self._branches(), 0)}
        for name, pairs in small.items():
            buckets[name] = self._small_bucket(pairs)
        root = self._next_page
        self._write_page(_leaf_image(sorted(buckets.items()), BUCKET_ELEMENT))
        self._write_metas(root)
        return self._next_page * self._page_size

    def _advance(self, key: bytes) -> None:
        if not self._last_key < key or len(key) > KEY_LIMIT_BYTES:
            raise SnapshotDamaged(f"keys out of order, or too long: {key[:40].hex()} after {self._last_key[:40].hex()}")
        self._last_key = key

    def _flush(self) -> None:
        if self._pending:
            self._write_leaf(self._pending)
            self._pending = []
            self._pending_bytes = HEADER_BYTES

    def _write_leaf(self, pairs: Sequence[tuple[bytes, Buffer]]) -> None:
        self._children.append((pairs[0][0] if pairs else b"", self._next_page))
        self._write_page(_leaf_image(pairs, 0))

    def _branches(self) -> int:
        """Levels of branch pages over the leaves. Returns the page of the root."""
        children, self._children = self._children, []
        while len(children) > 1:
            parents: list[Child] = []
            for group in _groups(children, self._page_size):
                parents.append((group[0][0], self._next_page))
                self._write_page(_branch_image(group))
            children = parents
        return children[0][1]

    def _small_bucket(self, pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The value of a bucket: inline when bbolt would have it so, else the page of its tree."""
        image = _leaf_image(pairs, 0)
        if BUCKET_HEADER.size + len(image) <= self._page_size // 4:
            return BUCKET_HEADER.pack(0, 0) + image
        for group in _leaf_groups(pairs, self._leaf_bytes):
            self._write_leaf(group)
        return BUCKET_HEADER.pack(self._branches(), 0)

    def _write_page(self, image: Buffer) -> None:
        pages = -(-len(image) // self._page_size)
        _, flags, count, _ = PAGE_HEADER.unpack_from(image)
        self._out.write(PAGE_HEADER.pack(self._next_page, flags, count, pages - 1))
        self._out.write(memoryview(image)[HEADER_BYTES:])
        padding = pages * self._page_size - len(image)
        if padding:
            self._out.write(bytes(padding))
        self._next_page += pages

    def _write_metas(self, root: int) -> None:
        self._out.seek(0)
        for page, txid in ((0, self._txid), (1, self._txid - 1)):
            body = META.pack(MAGIC, VERSION, self._page_size, 0, root, 0, NO_FREELIST, self._next_page, txid, 0)
            checked = body[:META_CHECKED_BYTES]
            meta = PAGE_HEADER.pack(page, META_PAGE, 0, 0) + checked + fnv1a(checked).to_bytes(8, "little")
            self._out.write(meta + bytes(self._page_size - len(meta)))
        self._out.flush()
        self._out.truncate(self._next_page * self._page_size)


def _leaf_image(pairs: Sequence[tuple[bytes, Buffer]], flags: int) -> bytes:
    elements = bytearray(PAGE_HEADER.pack(0, LEAF_PAGE, len(pairs), 0))
    bodies: list[Buffer] = []
    position = len(pairs) * ELEMENT_BYTES
    for key, value in pairs:
        elements += LEAF_ELEMENT.pack(flags, position, len(key), len(value))
        bodies += (key, value)
        position += len(key) + len(value) - ELEMENT_BYTES
    return b"".join((elements, *bodies))


def _branch_image(children: Sequence[Child]) -> bytes:
    elements = bytearray(PAGE_HEADER.pack(0, BRANCH_PAGE, len(children), 0))
    position = len(children) * ELEMENT_BYTES
    for key, page in children:
        elements += BRANCH_ELEMENT.pack(position, len(key), page)
        position += len(key) - ELEMENT_BYTES
    return b"".join((elements, *(key for key, _ in children)))


def _groups(children: Sequence[Child], page_size: int) -> list[Sequence[Child]]:
    """Children for each branch page: as many as fit, at least two, so that every level has fewer pages."""
    groups: list[Sequence[Child]] = []
    start, used = 0, HEADER_BYTES
    for at, (key, _) in enumerate(children):
        used += ELEMENT_BYTES + len(key)
        if at - start >= 2 and (used > page_size or at - start == COUNT_LIMIT):
            groups.append(children[start:at])
            start, used = at, HEADER_BYTES + ELEMENT_BYTES + len(key)
    groups.append(children[start:])
    if len(groups[-1]) == 1 and len(groups) > 1:  # bbolt's check wants more than one child in a branch
        groups[-2:] = [[*groups[-2], *groups[-1]]]
    return groups


def _leaf_groups(pairs: Sequence[tuple[bytes, bytes]], leaf_bytes: int) -> list[Sequence[tuple[bytes, bytes]]]:
    groups: list[Sequence[tuple[bytes, bytes]]] = []
    start, used = 0, HEADER_BYTES
    for at, (key, value) in enumerate(pairs):
        size = ELEMENT_BYTES + len(key) + len(value)
        if at > start and (used + size > leaf_bytes or at - start == COUNT_LIMIT):
            groups.append(pairs[start:at])
            start, used = at, HEADER_BYTES
        used += size
    groups.append(pairs[start:])
    return groups
