"""Merging by revision, held against a dictionary: any base, any chain of increments, any depth of the base's tree."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter
from bbr.merge import Collapsed, merge
from bbr.repository.frames import encode

Records = dict[bytes, bytes]
SIZE = 17
SMALL = {b"meta": [(b"consistent_index", bytes(8))]}
DEPTHS = {"inline or one page": 2, "one branch": 300, "two levels of branches": 20_000}


def record_key(main: int, *, tombstone: bool = False) -> bytes:
    return main.to_bytes(8) + b"_" + bytes(8) + (b"t" if tombstone else b"")


def base_file(path: Path, records: Records, page_size: int) -> None:
    """A bolt file of leaves that hold few records each, so that a small one has many."""
    out = io.BytesIO()
    writer = BoltWriter(out, page_size=page_size, leaf_bytes=page_size)
    for key, value in sorted(records.items()):
        writer.add(key, value)
    writer.finish(b"key", SMALL)
    path.write_bytes(out.getvalue())


def increment(removed: Sequence[bytes], added: Records) -> memoryview:
    return memoryview(b"".join(encode(sorted(removed), sorted(added.items()), SMALL)))


def merged(path: Path, increments: Sequence[memoryview]) -> Records:
    """What the file holds after the merge; its tree is checked as ``bbolt check`` would."""
    merge(BoltReader(path.read_bytes()), Collapsed.of(increments), path)
    reader = BoltReader(path.read_bytes())
    reader.check()
    assert {bytes(key): bytes(value) for key, value in reader.items(b"meta")} == dict(SMALL[b"meta"])
    return {bytes(key): bytes(value) for key, value in reader.items(b"key")}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("page_size", [4096, 16384])
@pytest.mark.parametrize("seed", range(4))
def test_a_merge_is_what_a_dictionary_would_hold(depth: str, page_size: int, seed: int, tmp_path: Path) -> None:
    chosen = random.Random(f"{depth} {seed}")
    count = DEPTHS[depth]
    state = {
        record_key(chosen.randrange(10 * count), tombstone=chosen.random() < 0.1): bytes(chosen.randrange(400))
        for _ in range(chosen.randrange(count // 2, count + 1))
    }
    state = {key: value for key, value in state.items() if len(key) == SIZE or key[:SIZE] not in state}
    path = tmp_path / "base"
    base_file(path, state, page_size)
    streams = []
    for _ in range(chosen.randrange(1, 5)):
        removed = chosen.sample(sorted(state), min(len(state), chosen.choice([0, 1, 20, count // 3])))
        state = {key: value for key, value in state.items() if key not in removed}
        held = {key[:SIZE] for key in state}
        # A revision that was removed may come again: a defragmented member, another one's snapshot.
        drawn = [record_key(chosen.randrange(11 * count)) for _ in range(chosen.choice([0, 1, 20, count // 3]))]
        again = {key[:SIZE]: key for key in [*drawn, *removed[:2]] if key[:SIZE] not in held}
        added = {key: chosen.randbytes(40) for key in again.values()}
        state |= added
        streams.append(increment([key[:SIZE] for key in removed], added))
    assert merged(path, streams) == state


def test_everything_removed_leaves_an_empty_bucket(tmp_path: Path) -> None:
    state = {record_key(main): bytes(900) for main in range(500)}
    base_file(tmp_path / "base", state, 4096)
    assert merged(tmp_path / "base", [increment(sorted(state), {})]) == {}


def test_pages_that_no_change_touches_stay_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "base"
    state = {record_key(main): bytes(900) for main in range(2000)}
    base_file(path, state, 4096)
    before = path.read_bytes()
    assert merged(path, [increment([record_key(700)], {record_key(3000): b"new"})])
    after = path.read_bytes()
    lying, reached = ({page for _, page in BoltReader(data).spans(b"key")} for data in (before, after))
    assert len(lying - reached) == 2  # that of the removed record, and the last
    assert after[2 * 4096 : len(before)] == before[2 * 4096 :]


@pytest.mark.parametrize("count", [3, 500])
@pytest.mark.parametrize("absent", [0, 251, 9999])
def test_a_removed_revision_that_is_not_there_is_damage(count: int, absent: int, tmp_path: Path) -> None:
    base_file(tmp_path / "base", {record_key(2 * main + 2): bytes(900) for main in range(count)}, 4096)
    with pytest.raises(SnapshotDamaged, match="removes a revision"):
        merged(tmp_path / "base", [increment([record_key(absent)], {})])


def test_a_revision_that_is_removed_twice_or_added_twice_is_damage(tmp_path: Path) -> None:
    base_file(tmp_path / "base", {record_key(main): b"" for main in range(9)}, 4096)
    for change in (increment([record_key(3)], {}), increment([], {record_key(30): b"new"})):
        with pytest.raises(SnapshotDamaged, match=r"an increment (removes|adds) a revision that the chain before it"):
            merged(tmp_path / "base", [change, change])


def test_the_bucket_of_records_is_no_small_one() -> None:
    stream = memoryview(b"".join(encode([], [], {b"key": [(b"a", b"b")]})))
    with pytest.raises(SnapshotDamaged, match="bucket of the records"):
        Collapsed.of([stream])


@pytest.mark.parametrize("count", [3, 500])
def test_an_added_revision_that_is_there_already_is_damage(count: int, tmp_path: Path) -> None:
    base_file(tmp_path / "base", {record_key(main): bytes(900) for main in range(count)}, 4096)
    with pytest.raises(SnapshotDamaged, match="out of order"):
        merged(tmp_path / "base", [increment([], {record_key(1): b"again"})])
