"""Reading a bolt file that may be damaged or hostile: pages in key order, nothing believed before it is checked.

Every page id, count, position and size is held against what is there; a tree that is deeper than any real one, or that
reaches more pages than the file has, ends in `SnapshotDamaged`, and so do elements that share bytes: bbolt writes them
one after the other. So a whole bucket is never more bytes than the file, and no small file is long work. Memory is that
of one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.page import (
    BRANCH_ELEMENT,
    BRANCH_PAGE,
    BUCKET_ELEMENT,
    BUCKET_HEADER,
    ELEMENT_BYTES,
    HEADER_BYTES,
    LEAF_ELEMENT,
    LEAF_PAGE,
    MAGIC,
    META,
    META_CHECKED_BYTES,
    META_PAGE,
    PAGE_HEADER,
    PAGE_SIZES,
    VERSION,
    fnv1a,
)

DEPTH_LIMIT = 40
"""Deeper than any tree of real keys: a branch page holds at least two children."""

Buffer = bytes | bytearray | memoryview


@dataclass(slots=True)
class Leaf:
    """One leaf page, its overflow included; ``page_id`` is 0 for one that lies inline in its parent.

    Nobody changes one. It is not frozen because a gigabyte has 150,000 of them, and that makes each twice as dear.
    """

    page_id: int
    image: memoryview
    count: int

    def places(self) -> list[tuple[int, int, int]]:
        """Of each element: where its key starts, its value starts, and its value ends, in ``image``."""
        image = self.image
        size = len(image)
        at = HEADER_BYTES
        body = HEADER_BYTES + self.count * ELEMENT_BYTES
        found = []
        value_end = body
        for _, pos, key_bytes, value_bytes in LEAF_ELEMENT.iter_unpack(image[HEADER_BYTES:body]):
            key_start = at + pos
            value_start = key_start + key_bytes
            if key_start < value_end or not key_bytes:
                raise SnapshotDamaged(f"page {self.page_id}: an element has no key, or lies within the one before it")
            value_end = value_start + value_bytes
            if value_end > size:
                raise SnapshotDamaged(f"page {self.page_id}: an element lies outside of its page")
            found.append((key_start, value_start, value_end))
            at += ELEMENT_BYTES
        return found

    def items(self) -> Iterator[tuple[memoryview, memoryview]]:
        """Every key and value, in order."""
        image = self.image
        for key_start, value_start, value_end in self.places():
            yield image[key_start:value_start], image[value_start:value_end]

    @property
    def first_key(self) -> bytes:
        """The lowest key of the page."""
        return self._key(0)

    @property
    def last_key(self) -> bytes:
        """The highest key of the page."""
        return self._key(self.count - 1)

    def flags(self) -> Iterator[int]:
        """The flags of each element."""
        body = HEADER_BYTES + self.count * ELEMENT_BYTES
        return (element[0] for element in LEAF_ELEMENT.iter_unpack(self.image[HEADER_BYTES:body]))

    def _key(self, index: int) -> bytes:
        at = HEADER_BYTES + index * ELEMENT_BYTES
        _, pos, key_bytes, _ = LEAF_ELEMENT.unpack_from(self.image, at)
        key = bytes(self.image[at + pos : at + pos + key_bytes])
        if len(key) != key_bytes or not key:
            raise SnapshotDamaged(f"page {self.page_id}: a key lies outside of its page")
        return key


class BoltReader:
    """A bolt file in a buffer, without a snapshot's trailing hash. Raises `SnapshotDamaged` for what is none."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")
        self.page_size, self.txid, self.high_water, self._root = _newest_meta(self._data)
        if self.high_water * self.page_size > len(self._data):
            raise SnapshotDamaged(
                f"the file is cut: {len(self._data):,} bytes, {self.high_water} pages of {self.page_size} are promised"
            )

    def bucket_names(self) -> list[bytes]:
        """The buckets at the top, in order."""
        return [name for name, _ in self._top()]

    def leaves(self, bucket: bytes, *, start: bytes = b"") -> Iterator[Leaf]:
        """The leaf pages of a bucket that have elements, in key order; none when the bucket is absent.

        With ``start``, from the page on in which that key lies or would lie: what comes before is not read.
        """
        for name, value in self._top():
            if name == bucket:
                yield from self._bucket_leaves(name, value, start)

    def spans(self, bucket: bytes) -> Iterator[tuple[bytes, int]]:
        """The lowest key that each leaf page of a bucket may hold, and its page, in key order: what the branches say.

        No leaf is read here; `leaf` reads one, and checks it. A bucket without branches, of one page or less, has none.
        """
        for name, value in self._top():
            root, _ = BUCKET_HEADER.unpack_from(value)
            if name == bucket and root and self._page(root)[1] & BRANCH_PAGE:
                for image, count in self._lowest_branches(root):
                    yield from _spans(image, count)

    def leaf(self, page_id: int) -> Leaf:
        """One leaf page. Raises `SnapshotDamaged` when it is none."""
        image, flags, count = self._page(page_id)
        if not flags & LEAF_PAGE:
            raise SnapshotDamaged(f"page {page_id} is no leaf page")
        return Leaf(page_id, image, count)

    def items(self, bucket: bytes) -> Iterator[tuple[memoryview, memoryview]]:
        """Every key and value of a bucket, in order."""
        for leaf in self.leaves(bucket):
            yield from leaf.items()

    def check(self) -> None:
        """What ``bbolt check`` checks: every page reached once, ids in place, keys in order within and across pages."""
        reached: set[int] = {0, 1}
        self._check_tree(self._root, reached)
        for name, value in self._top():
            root, _ = BUCKET_HEADER.unpack_from(value)
            if root:
                self._check_tree(root, reached)
            else:
                _check_order(self._bucket_leaves(name, value), name)
        if max(reached, default=0) >= self.high_water:
            raise SnapshotDamaged("a page lies above the high water mark")

    def _top(self) -> Iterator[tuple[bytes, memoryview]]:
        for leaf in self._tree_leaves(self._root):
            image = leaf.image
            for flags, (key_start, value_start, value_end) in zip(leaf.flags(), leaf.places(), strict=True):
                if flags & BUCKET_ELEMENT:
                    if value_end - value_start < BUCKET_HEADER.size:
                        raise SnapshotDamaged(f"page {leaf.page_id}: a bucket of {value_end - value_start} bytes")
                    yield bytes(image[key_start:value_start]), image[value_start:value_end]

    def _bucket_leaves(self, name: bytes, value: memoryview, start: bytes = b"") -> Iterator[Leaf]:
        root, _ = BUCKET_HEADER.unpack_from(value)
        if root:
            yield from self._tree_leaves(root, start)
            return
        image = value[BUCKET_HEADER.size :]
        if len(image) < HEADER_BYTES:
            raise SnapshotDamaged(f"inline bucket {name!r} is cut")
        _, flags, count, _ = PAGE_HEADER.unpack_from(image)
        if not flags & LEAF_PAGE or HEADER_BYTES + count * ELEMENT_BYTES > len(image):
            raise SnapshotDamaged(f"inline bucket {name!r} is not a leaf page")
        if count:
            yield Leaf(0, image, count)

    def _tree_leaves(self, root: int, start: bytes = b"") -> Iterator[Leaf]:
        """Left to right. Children that are one page would reach more pages than there are."""
        if not self._page(root)[1] & BRANCH_PAGE:
            lone = self.leaf(root)
            if lone.count:
                yield lone
            return
        left = self.high_water
        for image, count in self._lowest_branches(root, start):
            for page_id in _children(image, count, _child_of(image, count, start) if start else 0):
                start = b""
                leaf = self.leaf(page_id)
                left -= len(leaf.image) // self.page_size
                if left < 0:
                    raise SnapshotDamaged(f"page {page_id} is reached again: the tree is no tree")
                if leaf.count:
                    yield leaf

    def _lowest_branches(self, root: int, start: bytes = b"") -> Iterator[tuple[memoryview, int]]:
        """The image and count of each branch page over leaves, left to right; all leaves of a tree lie equally deep.

        A loop would reach more pages than there are.
        """
        left = self.high_water
        stack: list[Iterator[int]] = [iter((root,))]
        while stack:
            for page_id in stack[-1]:
                image, flags, count = self._page(page_id)
                left -= len(image) // self.page_size
                if left < 0 or not flags & BRANCH_PAGE:
                    raise SnapshotDamaged(f"page {page_id} is reached again, or a leaf among branches: no tree")
                if not count or self._page(next(_children(image, count)))[1] & LEAF_PAGE:
                    start = b""
                    yield image, count
                    continue
                if len(stack) == DEPTH_LIMIT:
                    raise SnapshotDamaged(f"page {page_id} lies deeper than any real tree goes")
                stack.append(_children(image, count, _child_of(image, count, start) if start else 0))
                break
            else:
                stack.pop()

    def _page(self, page_id: int) -> tuple[memoryview, int, int]:
        """The image of a branch or leaf page with its overflow, its flags, and its count of elements."""
        if not 2 <= page_id < self.high_water:
            raise SnapshotDamaged(f"page {page_id} does not exist")
        start = page_id * self.page_size
        own_id, flags, count, overflow = PAGE_HEADER.unpack_from(self._data, start)
        if own_id != page_id or flags & (BRANCH_PAGE | LEAF_PAGE) not in (BRANCH_PAGE, LEAF_PAGE):
            raise SnapshotDamaged(f"page {page_id} says that it is page {own_id} with flags {flags:#x}")
        if page_id + overflow >= self.high_water:
            raise SnapshotDamaged(f"page {page_id} goes on past the end of the file")
        image = self._data[start : start + (overflow + 1) * self.page_size]
        if HEADER_BYTES + count * ELEMENT_BYTES > len(image):
            raise SnapshotDamaged(f"page {page_id} claims {count} elements, more than fit into it")
        return image, flags, count

    def _check_tree(self, root: int, reached: set[int]) -> None:
        stack = [root]
        while stack:
            page_id = stack.pop()
            image, flags, count = self._page(page_id)
            pages = range(page_id, page_id + len(image) // self.page_size)
            if not reached.isdisjoint(pages):
                raise SnapshotDamaged(f"page {page_id} is reached twice")
            reached.update(pages)
            if flags & BRANCH_PAGE:
                stack.extend(_children(image, count))
        _check_order(self._tree_leaves(root), b"")


def _newest_meta(data: memoryview) -> tuple[int, int, int, int]:
    """Page size, transaction, high water and root page of the valid meta with the higher transaction."""
    found = [meta for start in (0, *PAGE_SIZES) if (meta := _meta(data, start)) is not None]
    if not found:
        raise SnapshotDamaged("not a bolt file: neither of its two meta pages is valid")
    page_size = found[0][0]
    return max((meta for meta in found if meta[0] == page_size), key=lambda meta: meta[1])


def _meta(data: memoryview, start: int) -> tuple[int, int, int, int] | None:
    at = start + HEADER_BYTES
    if at + META.size > len(data):
        return None
    _, flags, _, _ = PAGE_HEADER.unpack_from(data, start)
    magic, version, page_size, _, root, _, _, high_water, txid, checksum = META.unpack_from(data, at)
    if magic != MAGIC or version != VERSION or not flags & META_PAGE or page_size not in PAGE_SIZES:
        return None
    if start not in (0, page_size) or checksum != fnv1a(data[at : at + META_CHECKED_BYTES]):
        return None
    return page_size, txid, high_water, root


def _children(image: memoryview, count: int, first: int = 0) -> Iterator[int]:
    begin, end = HEADER_BYTES + first * ELEMENT_BYTES, HEADER_BYTES + count * ELEMENT_BYTES
    return (child for _, _, child in BRANCH_ELEMENT.iter_unpack(image[begin:end]))


def _spans(image: memoryview, count: int) -> Iterator[tuple[bytes, int]]:
    at, end = HEADER_BYTES, HEADER_BYTES + count * ELEMENT_BYTES
    for position, key_bytes, child in BRANCH_ELEMENT.iter_unpack(image[at:end]):
        yield bytes(image[at + position : at + position + key_bytes]), child
        at += ELEMENT_BYTES


def _child_of(image: memoryview, count: int, key: bytes) -> int:
    """The index of the child that ``key`` lies under: the last whose first key is not above it."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        at = HEADER_BYTES + middle * ELEMENT_BYTES
        position, key_bytes, _ = BRANCH_ELEMENT.unpack_from(image, at)
        if bytes(image[at + position : at + position + key_bytes]) <= key:
            low = middle
        else:
            high = middle - 1
    return low


def _check_order(leaves: Iterator[Leaf], name: bytes) -> None:
    last = b""
    for leaf in leaves:
        for key_start, value_start, _ in leaf.places():
            key = bytes(leaf.image[key_start:value_start])
            if key <= last:
                raise SnapshotDamaged(f"page {leaf.page_id}: keys of bucket {name!r} out of order")
            last = key
