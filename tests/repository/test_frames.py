"""The increment stream: what goes in comes out, and nothing that is damaged does."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import PartDamaged
from bbr.repository.frames import MAGIC, decode, encode


def revision_key(main: int, sub: int = 0, *, tombstone: bool = False) -> bytes:
    return main.to_bytes(8) + b"_" + sub.to_bytes(8) + (b"t" if tombstone else b"")


REMOVED = [revision_key(1), revision_key(2, 1)]
RECORDS = [(revision_key(5), b"five"), (revision_key(6, 3, tombstone=True), b"")]
BUCKETS = {b"lease": [(b"a", b"1"), (b"b", b"")], b"meta": []}
STREAM = b"".join(encode(REMOVED, RECORDS, BUCKETS))

revisions = st.tuples(st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1))
buckets = st.dictionaries(
    st.binary(min_size=1, max_size=20),
    st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=50), max_size=5),
    max_size=5,
)


@given(
    removed=st.sets(revisions, max_size=30),
    records=st.dictionaries(revisions, st.tuples(st.booleans(), st.binary(max_size=200)), max_size=30),
    small=buckets,
)
def test_what_goes_in_comes_out(
    removed: set[tuple[int, int]],
    records: dict[tuple[int, int], tuple[bool, bytes]],
    small: dict[bytes, dict[bytes, bytes]],
) -> None:
    keys = [revision_key(main, sub) for main, sub in sorted(removed)]
    pairs = [
        (revision_key(main, sub, tombstone=tombstone), value)
        for (main, sub), (tombstone, value) in sorted(records.items())
    ]
    named = {name: sorted(content.items()) for name, content in small.items()}

    stream = b"".join(encode(keys, pairs, named))
    increment = decode(stream)

    assert increment.removed == keys
    assert [(key, stream[start:end]) for key, start, end in increment.records] == pairs
    assert increment.buckets == named


def test_large_records_are_split_into_frames_and_come_back() -> None:
    pairs = [(revision_key(main), bytes([main]) * 700_000) for main in range(1, 6)]
    stream = b"".join(encode([], pairs, {}))
    assert stream.count(b"R", 0, 17) == 1
    assert [(key, stream[start:end]) for key, start, end in decode(stream).records] == pairs


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_a_flipped_byte_is_refused(at: int) -> None:
    damaged = bytearray(STREAM)
    damaged[at] ^= 0x41
    with pytest.raises(PartDamaged):
        decode(damaged)


@pytest.mark.parametrize("length", range(len(STREAM)))
def test_a_cut_stream_is_refused(length: int) -> None:
    with pytest.raises(PartDamaged):
        decode(STREAM[:length])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(PartDamaged, match="bytes after its end"):
        decode(STREAM + b"\0")


def test_frames_out_of_order_are_refused() -> None:
    record = revision_key(1)
    payload = bytes([len(record)]) + record + struct.pack(">I", 0)
    body = MAGIC + struct.pack(">cI", b"R", len(payload)) + payload + struct.pack(">cI", b"D", 17) + revision_key(2)
    stream = body + struct.pack(">cIQQI32s", b"E", 52, 1, 1, 0, hashlib.sha256(body).digest())
    with pytest.raises(PartDamaged, match="out of order"):
        decode(stream)


@pytest.mark.parametrize(
    ("removed", "records"),
    [
        ([revision_key(2), revision_key(1)], []),
        ([revision_key(2), revision_key(2)], []),
        ([], [(revision_key(2), b""), (revision_key(1), b"")]),
        ([], [(revision_key(2), b""), (revision_key(2, tombstone=True), b"")]),
    ],
)
def test_keys_out_of_order_are_refused(removed: list[bytes], records: list[tuple[bytes, bytes]]) -> None:
    stream = b"".join(encode(removed, records, {}))
    with pytest.raises(PartDamaged, match="out of order"):
        decode(stream)
