"""Parts: at most 16 MiB of a stream, compressed and sealed into one stored object, and back.

    part = age( zstd( raw ) ), one zstd frame with its content size and checksum

So ``age -d -i KEY part | zstd -d`` opens one anywhere. Sealing opens what it made again and compares (a zstd library
has written frames that it could not read); opening believes no length before it is checked, so a small object cannot
grow past what the signed manifest promises.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass

import zstandard

from bbr.errors import KeyRefused, PartDamaged, VerificationFailed
from bbr.repository.keys import Identity, seal_to
from bbr.repository.manifest import PART_RAW_BYTES, PartRef
from bbr.stores.store import Buffer

__all__ = ["PART_RAW_BYTES", "Sealed", "open_part", "seal"]

COMPRESSION_LEVEL = 3
"""zstd -3: 640 MB/s and a ratio of 6 on etcd pages; -1 is faster than age, so it would win nothing."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A part ready to be stored. ``raw_bytes`` is the size of what went in."""

    body: bytes
    sha256: str
    raw_bytes: int


def seal(raw: Buffer, recipient: str) -> Sealed:
    """Compress and seal up to `PART_RAW_BYTES`, then open and compare it.

    An epoch's identity is not here to open it with, so it is sealed to one more, that is made for this part and
    forgotten. Raises `PartDamaged` when what comes out is not what went in: a broken library or memory.
    """
    size = memoryview(raw).nbytes
    if not 1 <= size <= PART_RAW_BYTES:
        raise PartDamaged(f"a part holds 1 to {PART_RAW_BYTES} bytes, not {size}")
    check = Identity.generate()
    body = seal_to((recipient, check.recipient), _TOOLS.compressor.compress(raw))
    try:
        # As bytes: two memoryviews are compared one item at a time, ten times slower.
        same = _decompress(check.opens(body), size, "the part just sealed") == bytes(raw)
    except VerificationFailed as err:
        raise PartDamaged(f"a part does not open right after it was sealed: {err}", hint=_BROKEN_HOST) from err
    if not same:
        raise PartDamaged("a part opens with another content right after it was sealed", hint=_BROKEN_HOST)
    return Sealed(body, hashlib.sha256(body).hexdigest(), size)


def open_part(body: bytes, ref: PartRef, identity: Identity) -> bytes:
    """The raw bytes of a stored part. Raises `PartDamaged`, or `KeyRefused` when it is sealed to others."""
    check_part(body, ref)
    try:
        frame = identity.opens(body)
    except KeyRefused as err:
        raise KeyRefused(f"part {ref.name} is {err}", hint="give an identity that reads this backup's epoch") from err
    except VerificationFailed as err:
        raise PartDamaged(f"part {ref.name}: {err}") from err
    return _decompress(frame, ref.raw_bytes, f"part {ref.name}")


def check_part(body: bytes, ref: PartRef) -> None:
    """Compare a stored part with its manifest; needs no key. Raises `PartDamaged`."""
    if len(body) != ref.size_bytes:
        raise PartDamaged(f"part {ref.name} has {len(body):,} bytes; its manifest says {ref.size_bytes:,}")
    if hashlib.sha256(body).hexdigest() != ref.sha256:
        raise PartDamaged(f"part {ref.name} is not what its manifest names: its SHA-256 differs")


_BROKEN_HOST = "nothing was stored; check this host's memory, and the zstandard and pyrage packages"


class _Tools(threading.local):
    """A compressor and a decompressor for each thread: neither may be shared while it works."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=COMPRESSION_LEVEL, write_checksum=True, write_content_size=True
        )
        self.decompressor = zstandard.ZstdDecompressor()


_TOOLS = _Tools()


def _decompress(frame: bytes, raw_bytes: int, what: str) -> bytes:
    """The content of one zstd frame of exactly ``raw_bytes``; allocates no more than that."""
    try:
        size = zstandard.frame_content_size(frame)
        if size != raw_bytes or raw_bytes > PART_RAW_BYTES:
            raise PartDamaged(f"{what} decompresses to {size:,} bytes; its manifest says {raw_bytes:,}")
        content = _TOOLS.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as err:
        raise PartDamaged(f"{what} is not a whole zstd frame: {err}") from err
    if len(content) != raw_bytes:
        raise PartDamaged(f"{what} holds {len(content):,} bytes; its manifest says {raw_bytes:,}")
    return content
