"""What a writer remembers of its last backup of a cluster: which records live there, and a digest of each.

Its only use is to cut the next increment. It is believed only when its head is the writer's newest manifest in the
repository; else, and when it is lost or damaged, the next backup is a base. It holds no content: revision numbers
and 64-bit digests keyed by a random seed.

    cache file   "bbr cache 1\\n", header length (u32, big-endian), header (JSON), then for each etcd of the header:
                 its revision keys (17 bytes a record), its digests (8 bytes a record, big-endian), and at the end
                 the SHA-256 of all before

The file of a run is written as ``next`` before the manifest is put, and takes the place of ``current`` after. A run
killed between the two finds, by the head, which of them is true.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bbr.repository.frames import REVISION_KEY_BYTES

MAGIC = b"bbr cache 1\n"
_LENGTH = struct.Struct(">I")
_SHA256_BYTES = 32
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Live:
    """The records of one etcd at the last backup: ``revisions`` and ``digests`` in step, in order."""

    name: str
    cluster_id: str
    revision: int
    sequence: int
    seed: int
    revisions: bytes
    digests: array[int]


@dataclass(frozen=True, slots=True)
class Cache:
    """One cluster's last backup by this writer. ``head`` is the SHA-256 of its manifest as stored."""

    head: str
    generation: str
    opened: datetime
    sequence: int
    epoch: str
    etcds: tuple[Live, ...]


class CacheFiles:
    """The two cache files of a cluster in the state directory."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self._current = folder / f"{cluster}.current"
        self._next = folder / f"{cluster}.next"

    def load(self, head: str | None) -> Cache | None:
        """The cache whose head is ``head``, or None: then the next backup is a base."""
        for path in (self._next, self._current):
            cache = _read(path)
            if cache is not None and cache.head == head:
                return cache
        return None

    def write_next(self, cache: Cache) -> None:
        """Before the manifest is put. Durable on return, readable by the owner only."""
        temporary = self._next.with_suffix(".writing")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            digest = hashlib.sha256()
            for piece in _encode(cache):
                digest.update(piece)
                out.write(piece)
            out.write(digest.digest())
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self._next)

    def promote(self) -> None:
        """After the manifest is in the store."""
        self._next.replace(self._current)


def _encode(cache: Cache) -> Iterator[bytes]:
    header = json.dumps(
        {
            "head": cache.head,
            "generation": cache.generation,
            "opened": cache.opened.isoformat(),
            "sequence": cache.sequence,
            "epoch": cache.epoch,
            "etcds": [
                {
                    "name": live.name,
                    "cluster_id": live.cluster_id,
                    "revision": live.revision,
                    "sequence": live.sequence,
                    "seed": live.seed,
                    "records": len(live.digests),
                }
                for live in cache.etcds
            ],
        }
    ).encode()
    yield MAGIC + _LENGTH.pack(len(header)) + header
    for live in cache.etcds:
        yield live.revisions
        yield _big_endian(live.digests).tobytes()


def _read(path: Path) -> Cache | None:
    """The cache in a file; None when there is none, or when it is torn: its loss only costs a base."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return None
    content, digest = body[:-_SHA256_BYTES], body[-_SHA256_BYTES:]
    if not content.startswith(MAGIC) or hashlib.sha256(content).digest() != digest:
        return None
    at = len(MAGIC) + _LENGTH.size
    end = at + _LENGTH.unpack_from(content, len(MAGIC))[0]
    header = json.loads(content[at:end])
    return Cache(
        head=header["head"],
        generation=header["generation"],
        opened=datetime.fromisoformat(header["opened"]),
        sequence=header["sequence"],
        epoch=header["epoch"],
        etcds=tuple(_lives(memoryview(content)[end:], header["etcds"])),
    )


def _lives(body: memoryview, headers: Sequence[dict[str, int | str]]) -> Iterator[Live]:
    at = 0
    for header in headers:
        middle = at + int(header["records"]) * REVISION_KEY_BYTES
        end = middle + int(header["records"]) * _DIGEST_BYTES
        digests = array("Q", bytes(body[middle:end]))
        yield Live(
            name=str(header["name"]),
            cluster_id=str(header["cluster_id"]),
            revision=int(header["revision"]),
            sequence=int(header["sequence"]),
            seed=int(header["seed"]),
            revisions=bytes(body[at:middle]),
            digests=_big_endian(digests),
        )
        at = end


def _big_endian(digests: array[int]) -> array[int]:
    """The same numbers with their bytes as the file holds them; the array itself on a big-endian host."""
    if sys.byteorder == "big":
        return digests
    swapped = array("Q", digests)
    swapped.byteswap()
    return swapped
