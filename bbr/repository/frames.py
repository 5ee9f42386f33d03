"""The increment stream: what an etcd snapshot holds that the chain before it lacks, and what it no longer holds.

    stream   16 bytes "bbr increment 1\\n", then frames
    frame    tag (1 byte), payload length (u32), payload
    "D"      removed: revision keys of 17 bytes each (main u64, "_", sub u64), ascending over all "D" frames
    "R"      records, each: key length (u8: 17, or 18 with the tombstone's "t"), key, value length (u32), value;
             ascending by key over all "R" frames
    "B"      one small bucket, whole: name length (u16), name, then pairs of length (u32), key, length (u32), value;
             one frame for each bucket, ascending by name
    "E"      the end: counts of removed (u64), records (u64) and buckets (u32), SHA-256 of every byte before this frame

Integers are big-endian. Frames come in the order D, R, B, E; the end is the last byte. docs/format.md says the same
for readers that are not this one. Both directions are here; neither does I/O. What is decoded may be hostile: every
length is checked against what is there before it is believed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bbr.errors import PartDamaged

MAGIC = b"bbr increment 1\n"
REVISION_KEY_BYTES = 17
BATCH_BYTES = 1024 * 1024
"""A "D" or "R" frame is closed once its payload has grown past this; one record may be larger alone."""

Buffer = bytes | bytearray | memoryview
Pair = tuple[bytes, bytes]

_HEAD = struct.Struct(">cI")
_RECORD_LENGTH = struct.Struct(">I")
_NAME_LENGTH = struct.Struct(">H")
_END = struct.Struct(">QQI32s")
_ORDER = {b"D": 0, b"R": 1, b"B": 2, b"E": 3}


@dataclass(frozen=True, slots=True)
class Increment:
    """A decoded stream. ``records`` holds (key, start, end), the value's place in the buffer that was decoded."""

    removed: list[bytes]
    records: list[tuple[bytes, int, int]]
    buckets: dict[bytes, list[Pair]]


def encode(
    removed: Iterable[bytes], records: Iterable[tuple[Buffer, Buffer]], buckets: Mapping[bytes, Sequence[Pair]]
) -> Iterator[bytes]:
    """The stream, in pieces of any size. ``removed`` and ``records`` come in ascending order of their keys."""
    digest = hashlib.sha256(MAGIC)
    yield MAGIC
    counts = [0, 0]
    for tag, payload, count in _batches(removed, records):
        counts[0 if tag == b"D" else 1] += count
        head = _HEAD.pack(tag, len(payload))
        digest.update(head)
        digest.update(payload)
        yield head
        yield payload
    for name in sorted(buckets):
        frame = _bucket_frame(name, buckets[name])
        digest.update(frame)
        yield frame
    yield _HEAD.pack(b"E", _END.size) + _END.pack(counts[0], counts[1], len(buckets), digest.digest())


def decode(data: Buffer) -> Increment:
    """Read a whole stream. Raises `PartDamaged` where it breaks any rule of the format."""
    view = memoryview(data).cast("B")
    if view[: len(MAGIC)] != MAGIC:
        raise PartDamaged("not an increment: the stream does not begin as one")
    increment = Increment([], [], {})
    at, order = len(MAGIC), 0
    while True:
        tag, start, end = _frame(view, at)
        if _ORDER[tag] < order:
            raise PartDamaged(f"increment: a frame of kind {tag.decode()} out of order at byte {at}")
        order = _ORDER[tag]
        if tag == b"D":
            _decode_removed(view, start, end, increment.removed)
        elif tag == b"R":
            _decode_records(view, start, end, increment.records)
        elif tag == b"B":
            _decode_bucket(view, start, end, increment.buckets)
        else:
            _check_end(view, at, start, end, increment)
            return increment
        at = end


def _batches(removed: Iterable[bytes], records: Iterable[tuple[Buffer, Buffer]]) -> Iterator[tuple[bytes, bytes, int]]:
    payload, count = bytearray(), 0
    for key in removed:
        payload += key
        count += 1
        if len(payload) >= BATCH_BYTES:
            yield b"D", bytes(payload), count
            payload, count = bytearray(), 0
    if payload:
        yield b"D", bytes(payload), count
    payload, count = bytearray(), 0
    for record_key, value in records:
        payload.append(len(record_key))
        payload += record_key
        payload += _RECORD_LENGTH.pack(len(value))
        payload += value
        count += 1
        if len(payload) >= BATCH_BYTES:
            yield b"R", bytes(payload), count
            payload, count = bytearray(), 0
    if payload:
        yield b"R", bytes(payload), count


def _bucket_frame(name: bytes, pairs: Sequence[Pair]) -> bytes:
    payload = bytearray(_NAME_LENGTH.pack(len(name)) + name)
    for key, value in pairs:
        payload += _RECORD_LENGTH.pack(len(key)) + key + _RECORD_LENGTH.pack(len(value)) + value
    return _HEAD.pack(b"B", len(payload)) + bytes(payload)


def _frame(view: memoryview, at: int) -> tuple[bytes, int, int]:
    if at + _HEAD.size > len(view):
        raise PartDamaged(f"increment: cut at byte {at}, before its end frame")
    tag, length = _HEAD.unpack_from(view, at)
    start = at + _HEAD.size
    if tag not in _ORDER:
        raise PartDamaged(f"increment: unknown frame {tag!r} at byte {at}")
    if start + length > len(view):
        raise PartDamaged(f"increment: cut inside the frame at byte {at}")
    return tag, start, start + length


def _decode_removed(view: memoryview, start: int, end: int, removed: list[bytes]) -> None:
    if (end - start) % REVISION_KEY_BYTES:
        raise PartDamaged(f"increment: a torn list of removed revisions at byte {start}")
    last = removed[-1] if removed else b""
    for at in range(start, end, REVISION_KEY_BYTES):
        key = bytes(view[at : at + REVISION_KEY_BYTES])
        if key <= last:
            raise PartDamaged(f"increment: removed revisions out of order at byte {at}")
        removed.append(key)
        last = key


def _decode_records(view: memoryview, start: int, end: int, records: list[tuple[bytes, int, int]]) -> None:
    last = records[-1][0] if records else b""
    at = start
    while at < end:
        key_end = at + 1 + view[at]
        if view[at] not in (REVISION_KEY_BYTES, REVISION_KEY_BYTES + 1) or key_end + _RECORD_LENGTH.size > end:
            raise PartDamaged(f"increment: a torn record at byte {at}")
        key = bytes(view[at + 1 : key_end])
        value_start = key_end + _RECORD_LENGTH.size
        value_end = value_start + _RECORD_LENGTH.unpack_from(view, key_end)[0]
        if value_end > end:
            raise PartDamaged(f"increment: a torn record at byte {at}")
        if key[:REVISION_KEY_BYTES] <= last[:REVISION_KEY_BYTES]:
            raise PartDamaged(f"increment: records out of order at byte {at}")
        records.append((key, value_start, value_end))
        last, at = key, value_end


def _decode_bucket(view: memoryview, start: int, end: int, buckets: dict[bytes, list[Pair]]) -> None:
    if start + _NAME_LENGTH.size > end:
        raise PartDamaged(f"increment: a torn bucket at byte {start}")
    at = start + _NAME_LENGTH.size + _NAME_LENGTH.unpack_from(view, start)[0]
    name = bytes(view[start + _NAME_LENGTH.size : at])
    if at > end or not name or (buckets and name <= next(reversed(buckets))):
        raise PartDamaged(f"increment: a bucket torn or out of order at byte {start}")
    pairs: list[Pair] = []
    while at < end:
        key, at = _field(view, at, end)
        value, at = _field(view, at, end)
        if not key or (pairs and key <= pairs[-1][0]):
            raise PartDamaged(f"increment: keys of bucket {name!r} out of order at byte {at}")
        pairs.append((key, value))
    buckets[name] = pairs


def _field(view: memoryview, at: int, end: int) -> tuple[bytes, int]:
    start = at + _RECORD_LENGTH.size
    if start > end:
        raise PartDamaged(f"increment: a torn bucket at byte {at}")
    stop = start + _RECORD_LENGTH.unpack_from(view, at)[0]
    if stop > end:
        raise PartDamaged(f"increment: a torn bucket at byte {at}")
    return bytes(view[start:stop]), stop


def _check_end(view: memoryview, at: int, start: int, end: int, increment: Increment) -> None:
    if end - start != _END.size or end != len(view):
        raise PartDamaged(f"increment: bytes after its end, or a torn end frame at byte {at}")
    removed, records, buckets, digest = _END.unpack_from(view, start)
    if (removed, records, buckets) != (len(increment.removed), len(increment.records), len(increment.buckets)):
        raise PartDamaged("increment: the end frame counts other than what came before it")
    if digest != hashlib.sha256(view[:at]).digest():
        raise PartDamaged("increment: its SHA-256 does not match")
