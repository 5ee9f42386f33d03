"""A stream into a file: whole and right, or nothing at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bbr.capture.spool import spool_snapshot
from bbr.errors import EtcdUnavailable, NoSpace, SnapshotDamaged
from bbr.progress import Silent

MIB = 1 << 20


def blobs(body: bytes, *, size: int = 32 * 1024) -> Iterator[memoryview]:
    view = memoryview(body)
    return (view[start : start + size] for start in range(0, len(view), size))


def sealed(database: bytes) -> bytes:
    return database + hashlib.sha256(database).digest()


def spool(stream: Iterator[memoryview], path: Path, *, expected_bytes: int = 0) -> int:
    return spool_snapshot(stream, path, expected_bytes=expected_bytes, progress=Silent())


@pytest.mark.parametrize(
    "size", [1, 31, 32, 33, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 4 * MIB + 32, 4 * MIB + 33, 13 * MIB]
)
def test_streams_of_every_size_are_written_whole(size: int, tmp_path: Path) -> None:
    whole = sealed(os.urandom(size))
    assert spool(blobs(whole), tmp_path / "spool.db") == len(whole)
    assert (tmp_path / "spool.db").read_bytes() == whole
    assert (tmp_path / "spool.db").stat().st_mode & 0o777 == 0o600


def test_a_trailer_in_pieces_is_still_the_trailer(tmp_path: Path) -> None:
    whole = sealed(os.urandom(100_000))
    assert spool(blobs(whole, size=7), tmp_path / "spool.db") == len(whole)


@pytest.mark.parametrize("at", [0, 5 * MIB, 9 * MIB - 1, 9 * MIB, 9 * MIB + 31])
def test_one_flipped_bit_is_refused_and_nothing_is_left(at: int, tmp_path: Path) -> None:
    whole = bytearray(sealed(bytes(9 * MIB)))
    whole[at] ^= 4
    with pytest.raises(SnapshotDamaged, match="trailing hash"):
        spool(blobs(bytes(whole)), tmp_path / "spool.db")
    assert not (tmp_path / "spool.db").exists()


@pytest.mark.parametrize("size", [0, 1, 32])
def test_a_stream_with_nothing_but_a_trailer_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(SnapshotDamaged):
        spool(blobs(sealed(b"")[:size]), tmp_path / "spool.db")
    assert not (tmp_path / "spool.db").exists()


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def breaking() -> Iterator[memoryview]:
        yield from blobs(bytes(6 * MIB))
        raise EtcdUnavailable("gone")

    with pytest.raises(EtcdUnavailable, match="gone"):
        spool(breaking(), tmp_path / "spool.db")
    assert not (tmp_path / "spool.db").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "spool.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        spool(blobs(sealed(b"database")), tmp_path / "spool.db")
    assert not (tmp_path / "elsewhere").exists()


def test_too_little_space_is_told_before_a_byte_is_read(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="are free"):
        spool(blobs(sealed(b"database")), tmp_path / "spool.db", expected_bytes=1 << 60)
    assert not (tmp_path / "spool.db").exists()


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bbr.capture.spool.SPARE_BYTES", 0)
    with pytest.raises(NoSpace, match="full"):
        spool(blobs(bytes(40 * MIB)), small_disk / "spool.db")
    assert list(small_disk.iterdir()) == []
