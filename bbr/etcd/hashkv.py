"""HashKV, computed from a file: equal to what a member answers for the same revision and compact revision.

CRC-32C over ``key``, then over key and value of every record in order with a main revision of at most ``revision``.
Of those at or below ``compact_revision`` only the one counts that is its key's newest at ``revision``, and no
tombstone at the compact revision itself. Where no key at all is alive at ``revision``, etcd leaves out only that
tombstone: it takes an empty set of what to keep for none. Source: etcd's ``server/storage/mvcc/hash.go``
(``unsafeHashByRev``, which keeps what is live at the revision asked for, not at the compaction).

A file that was compacted further than ``compact_revision`` lacks records that counted then: its hash is another one.

Keys and values lie back to back in a bolt page, in the order of its elements. So a page in which every record counts is
one run of bytes and one CRC. Above the compact revision that is every page. Below it, a record is left out when its key
was changed since; after a finished compaction there is one record a key there, so the few keys above decide. When
the compaction is not finished in this file, every key has to be looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from google_crc32c import extend, value

from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.mvcc import KEY_BUCKET, META_BUCKET, REVISION_BYTES, RevisionKey, record_key


def hash_kv(reader: BoltReader, revision: int, compact_revision: int, *, put_above: Collection[bytes] = ()) -> int:
    """The HashKV at ``revision`` with everything to ``compact_revision`` compacted; below 1 means nothing was.

    ``put_above``: etcd keys with a live record above all that is in this file, such as the one that a bump of the
    revision puts on top; what the file has of them is out of date.
    """
    hasher = Hasher(reader, revision, compact_revision, put_above=put_above)
    for leaf in reader.leaves(KEY_BUCKET):
        page = Page(leaf.image, leaf.places())
        if hasher.wants_keys(page):
            page.keys = [record_key(leaf.image[start:end]) for _, start, end in page.places]
        if not hasher.add(page):
            break
    return hasher.value


@dataclass(slots=True)
class Page:
    """A leaf page and the places of its elements; ``keys`` are their etcd keys, empty where nobody needs them."""

    image: memoryview
    places: list[tuple[int, int, int]]
    keys: list[bytes] = field(default_factory=list)
    first: bytes = b""
    last: bytes = b""

    def __post_init__(self) -> None:
        """Take the first and the last key, once."""
        (first_start, first_end, _), (last_start, last_end, _) = self.places[0], self.places[-1]
        self.first = bytes(self.image[first_start:first_end])
        self.last = bytes(self.image[last_start:last_end])


class Hasher:
    """HashKV on the way: `add` every page of bucket ``key`` in order, then take ``value``.

    ``changed`` holds the etcd keys with a record above the compact revision and at most ``revision``, and whether each
    is alive at ``revision``; those of ``put_above`` too.
    """

    def __init__(
        self, reader: BoltReader, revision: int, compact_revision: int, *, put_above: Collection[bytes] = ()
    ) -> None:
        self.value = int(value(b"key"))
        self._above = RevisionKey(revision + 1, 0).encode()
        self._border = max(compact_revision, 0).to_bytes(8)
        self._beyond = RevisionKey(max(compact_revision, 0) + 1, 0).encode()
        # Only what lies at or below the compact revision is held against it.
        self.changed = _changed(reader, self._beyond, self._above) if compact_revision > 0 else dict[bytes, bool]()
        self.changed.update(dict.fromkeys(put_above, True))
        self._newest = None if _is_compacted(reader, compact_revision) else _newest(reader, self._beyond)
        self._keeps = any(self.changed.values()) or self._keeps_below(reader)

    def wants_keys(self, page: Page) -> bool:
        """Whether `add` needs the etcd keys of this page."""
        return page.first < self._beyond

    def add(self, page: Page) -> bool:
        """The next page. False once it lies above the revision: what follows does not count."""
        if page.first >= self._above:
            return False
        if page.last < self._above and (page.first >= self._beyond or self.all_newest(page)):
            self.value = _page_crc(self.value, page)
        else:
            self._add_records(page)
        return True

    def all_newest(self, page: Page) -> bool:
        """Whether each record of this page is surely its key's newest, and lies below the compact revision.

        True for nearly every page: no key of it was changed since, and the compaction has removed what was older.
        """
        return self._newest is None and page.last[:8] < self._border and self.changed.keys().isdisjoint(page.keys)

    def _keeps_below(self, reader: BoltReader) -> bool:
        """Whether a key is alive at the revision that did not change above the compact revision.

        The first record says so, nearly always: it is read far only where nearly everything is deleted.
        """
        for view, record in reader.items(KEY_BUCKET):
            own = bytes(view)
            if own >= self._beyond:
                break
            if len(own) == REVISION_BYTES and self._is_newest(own, record_key(record)):
                return True
        return False

    def _add_records(self, page: Page) -> None:
        image = page.image
        for index, (key_start, value_start, value_end) in enumerate(page.places):
            own = bytes(image[key_start:value_start])
            if own >= self._above:
                break
            if own < self._beyond and not self._counts(own, page.keys[index]):
                continue
            self.value = int(extend(self.value, bytes(image[key_start:value_end])))

    def _counts(self, own: bytes, key: bytes) -> bool:
        """Whether a record at or below the compact revision counts."""
        is_tombstone = len(own) > REVISION_BYTES
        if is_tombstone and own[:8] == self._border:
            return False
        return not self._keeps or (self._is_newest(own, key) and not (is_tombstone and self._newest is not None))

    def _is_newest(self, own: bytes, key: bytes) -> bool:
        """Whether a record at or below the compact revision is its key's newest at the revision."""
        return key not in self.changed and (self._newest is None or self._newest[key] == own)


def _changed(reader: BoltReader, beyond: bytes, above: bytes) -> dict[bytes, bool]:
    changed: dict[bytes, bool] = {}
    for leaf in reader.leaves(KEY_BUCKET, start=beyond):
        if leaf.first_key >= above:
            break
        image = leaf.image
        for key_start, value_start, value_end in leaf.places():
            if beyond <= bytes(image[key_start:value_start]) < above:
                changed[record_key(image[value_start:value_end])] = value_start - key_start == REVISION_BYTES
    return changed


def _is_compacted(reader: BoltReader, compact_revision: int) -> bool:
    """Whether the file holds nothing that a compaction at ``compact_revision`` would still remove."""
    if compact_revision < 1:
        return True
    finished = next((bytes(v) for k, v in reader.items(META_BUCKET) if bytes(k) == b"finishedCompactRev"), None)
    return finished is not None and RevisionKey.decode(finished).main >= compact_revision


def _newest(reader: BoltReader, beyond: bytes) -> dict[bytes, bytes]:
    """For each etcd key, its newest record below ``beyond``."""
    newest: dict[bytes, bytes] = {}
    for view, record in reader.items(KEY_BUCKET):
        own = bytes(view)
        if own >= beyond:
            break
        newest[record_key(record)] = own
    return newest


def _page_crc(crc: int, page: Page) -> int:
    """Every record of a page: as one run where they lie back to back, as bbolt writes them."""
    places = page.places
    start, end = places[0][0], places[-1][2]
    if end - start == sum([value_end - key_start for key_start, _, value_end in places]):
        return int(extend(crc, bytes(page.image[start:end])))
    for key_start, _, value_end in places:
        crc = int(extend(crc, bytes(page.image[key_start:value_end])))
    return crc
