"""One pass over a snapshot for all that a backup wants to know: which records, a digest of each, HashKV, live objects.

Reading a gigabyte once costs less than reading it three times; the three answers need the same loop.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress

from xxhash import xxh3_64_intdigest

from bbr.etcd.hashkv import Hasher, Page
from bbr.etcd.mvcc import KEY_BUCKET, REVISION_BYTES, record_key
from bbr.etcd.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Scan:
    """``revisions`` (17 bytes each: main, "_", sub) and ``digests`` (64 bits each) of every record, in order.

    A digest is xxh3 over the record's key, mark included, and value, keyed by the seed. ``hash_kv`` is at the file's
    own revision and the compact revision that was given. ``live`` counts the objects that exist at the file's
    revision.
    """

    revisions: bytes
    digests: array[int]
    hash_kv: int
    live: Mapping[bytes, int]


def scan(snapshot: Snapshot, *, compact_revision: int, seed: int, group: Callable[[bytes], bytes]) -> Scan:
    """Read every record once. ``group`` says under what a key is counted. Raises `SnapshotDamaged`.

    ``group`` is asked about the part of a key up to its last slash, where it has one: there are few of those.
    """
    revisions = bytearray()
    digests = array("Q")
    counted: Counter[bytes] = Counter()
    undecided: dict[bytes, bool] = {}
    hasher = Hasher(snapshot.reader, snapshot.revision, compact_revision)
    for leaf in snapshot.reader.leaves(KEY_BUCKET):
        image = leaf.image
        page = Page(image, leaf.places())
        alive = []
        for key_start, value_start, value_end in page.places:
            revisions += image[key_start : key_start + REVISION_BYTES]
            digests.append(xxh3_64_intdigest(image[key_start:value_end], seed))
            page.keys.append(record_key(image[value_start:value_end]))
            alive.append(value_start - key_start == REVISION_BYTES)
        hasher.add(page)
        if hasher.all_newest(page):
            counted.update([_parent(key) for key in compress(page.keys, alive)])
        else:  # a later record of the same key may follow
            undecided.update(zip(page.keys, alive, strict=True))
    counted.update([_parent(key) for key, is_alive in undecided.items() if is_alive])
    live: Counter[bytes] = Counter()
    for parent, count in counted.items():
        live[group(parent)] += count
    return Scan(bytes(revisions), digests, hasher.value, dict(sorted(live.items())))


def _parent(key: bytes) -> bytes:
    """A key up to and with its last slash; the key itself when that is its first byte, or it has none."""
    cut = key.rfind(b"/")
    return key[: cut + 1] if cut > 0 else key
