"""The bolt format both ways: what is written is read back and passes the check; what is damaged is refused."""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.page import PAGE_HEADER
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter

Pairs = Sequence[tuple[bytes, bytes]]
PAGE_SIZES = (4096, 16384, 65536)


def bolt(
    big: Pairs, small: Mapping[bytes, Pairs] | None = None, *, page_size: int = 4096, leaf_bytes: int = 16384
) -> bytes:
    """A file with the bucket "key" and some small ones."""
    out = io.BytesIO()
    writer = BoltWriter(out, page_size=page_size, leaf_bytes=leaf_bytes)
    for key, value in big:
        writer.add(key, value)
    size = writer.finish(b"key", small or {})
    assert size == len(out.getvalue())
    return out.getvalue()


def contents(data: bytes) -> dict[bytes, list[tuple[bytes, bytes]]]:
    reader = BoltReader(data)
    reader.check()
    return {name: [(bytes(k), bytes(v)) for k, v in reader.items(name)] for name in reader.bucket_names()}


keys = st.binary(min_size=1, max_size=40)
values = st.one_of(st.binary(max_size=200), st.integers(0, 40_000).map(bytes))
pairs = st.dictionaries(keys, values, max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    big=pairs,
    small=st.dictionaries(st.binary(min_size=1, max_size=10).filter(lambda name: name != b"key"), pairs, max_size=4),
    page_size=st.sampled_from(PAGE_SIZES),
)
def test_what_is_written_is_read_back(
    big: dict[bytes, bytes], small: dict[bytes, dict[bytes, bytes]], page_size: int
) -> None:
    expected = {name: sorted(content.items()) for name, content in small.items()} | {b"key": sorted(big.items())}
    data = bolt(expected[b"key"], {n: p for n, p in expected.items() if n != b"key"}, page_size=page_size)
    assert BoltReader(data).page_size == page_size
    assert contents(data) == dict(sorted(expected.items()))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_values_over_1_mib_and_several_branch_levels_are_read_back(page_size: int) -> None:
    big = [(b"%012d" % number, bytes([number % 251]) * (number % 300)) for number in range(30_000)]
    big.append((b"9" * 13, b"x" * 3_000_000))
    data = bolt(big, page_size=page_size, leaf_bytes=page_size)
    assert contents(data)[b"key"] == big


@pytest.mark.parametrize("count", [3000, 3])
def test_leaf_pages_of_the_file_that_is_written_onto_are_kept(count: int) -> None:
    big = [(b"%06d" % number, b"v" * (number % 5000)) for number in range(count)]
    before = bolt(big, {b"meta": [(b"a", b"old")], b"lease": [(b"%04d" % n, b"x" * 90) for n in range(200)]})
    source = BoltReader(before)
    out = io.BytesIO(before + bytes(32))
    writer = BoltWriter(out, onto=source)
    writer.keep_bucket(source, b"key")
    writer.add(b"999999", b"after")
    size = writer.finish(b"key", {b"meta": [(b"a", b"new")]})
    assert len(out.getvalue()) == size
    assert contents(out.getvalue()) == {b"key": [*big, (b"999999", b"after")], b"meta": [(b"a", b"new")]}
    assert BoltReader(out.getvalue()).txid > source.txid


def test_leaves_from_a_key_on_skip_what_lies_before() -> None:
    big = [(b"%06d" % number, b"v" * 500) for number in range(3000)]
    reader = BoltReader(bolt(big, leaf_bytes=4096))
    for wanted in (0, 1, 1234, 2999):
        first = next(iter(reader.leaves(b"key", start=b"%06d" % wanted)))
        assert first.first_key <= b"%06d" % wanted <= first.last_key
    assert list(reader.leaves(b"absent")) == []


@pytest.mark.parametrize("second", [b"a", b"b"])
def test_keys_out_of_order_are_not_written(second: bytes) -> None:
    writer = BoltWriter(io.BytesIO())
    writer.add(b"b", b"")
    with pytest.raises(SnapshotDamaged, match="out of order"):
        writer.add(second, b"")


SMALL = bolt([(b"%02d" % number, b"v" * 300) for number in range(40)], {b"meta": [(b"a", b"b")], b"lease": []})


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_byte_is_refused_or_harmless(seed: int) -> None:
    """bolt has no checksum over its data: some flips change a value. None may crash, loop or read outside."""
    chosen = random.Random(seed)
    for _ in range(400):
        at = chosen.randrange(len(SMALL))
        damaged = bytearray(SMALL)
        damaged[at] ^= 1 << chosen.randrange(8)
        try:
            found = contents(bytes(damaged))
        except SnapshotDamaged:
            continue
        assert sum(len(key) + len(value) for content in found.values() for key, value in content) < 2 * len(SMALL)


@pytest.mark.parametrize("length", [0, 1, 100, 4095, 4096, 8192, len(SMALL) - 1])
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(SnapshotDamaged):
        contents(SMALL[:length])


def test_a_page_that_points_at_its_parent_is_refused() -> None:
    data = bytearray(bolt([(b"%04d" % number, b"v" * 100) for number in range(2000)], leaf_bytes=4096))
    reader = BoltReader(bytes(data))
    pages = [PAGE_HEADER.unpack_from(data, at) for at in range(2 * 4096, len(data), 4096)]
    branch = next(page_id for page_id, flags, _, _ in pages if flags == 1)
    data[branch * 4096 + 16 + 8 : branch * 4096 + 16 + 16] = branch.to_bytes(8, "little")
    assert reader.bucket_names() == [b"key"]
    with pytest.raises(SnapshotDamaged):
        list(BoltReader(bytes(data)).items(b"key"))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_real_etcdutl_reads_what_is_written(page_size: int, etcdutl_binary: Path, tmp_path: Path) -> None:
    import hashlib

    from bbr.etcd.hashkv import hash_kv
    from bbr.etcd.mvcc import KeyValue, RevisionKey

    records = [
        (RevisionKey(main, 0).encode(), KeyValue(b"/k/%d" % main, main, main, 1, b"v" * (main % 9000)).encode())
        for main in range(2, 400)
    ]
    data = bolt(records, {b"meta": [(b"consistent_index", (5).to_bytes(8))], b"cluster": []}, page_size=page_size)
    path = tmp_path / "snapshot.db"
    path.write_bytes(data + hashlib.sha256(data).digest())
    answer = subprocess.run(
        [etcdutl_binary, "hashkv", path], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert answer.split(",")[0] == str(hash_kv(BoltReader(data), 399, 0))
