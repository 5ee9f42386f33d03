"""The writer's memory: believed when its head is the repository's, lost without harm."""

from __future__ import annotations

import stat
from array import array
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bbr.capture.cache import Cache, CacheFiles, Live


def cache_with(head: str, sequence: int = 3) -> Cache:
    live = Live("main", "a1", 42, sequence, 2**64 - 1, bytes(range(34)), array("Q", [1, 2**64 - 1]))
    empty = Live("events", "b2", 1, 0, 0, b"", array("Q"))
    return Cache(head, "generation", datetime(2026, 1, 2, 3, tzinfo=UTC), sequence, "epoch", (live, empty))


def test_promoted_cache_comes_back_equal(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, "prod")
    files.write_next(cache_with("aa"))
    files.promote()
    assert files.load("aa") == cache_with("aa")


def test_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    CacheFiles(tmp_path, "prod").write_next(cache_with("aa"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]


def test_killed_after_the_commit_finds_the_next_cache(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, "prod")
    files.write_next(cache_with("aa"))
    files.promote()
    files.write_next(cache_with("bb", 4))
    assert files.load("bb") == cache_with("bb", 4)


def test_killed_before_the_commit_keeps_the_current_cache(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, "prod")
    files.write_next(cache_with("aa"))
    files.promote()
    files.write_next(cache_with("bb", 4))
    assert files.load("aa") == cache_with("aa")


@pytest.mark.parametrize("head", [None, "cc"])
def test_another_head_is_not_believed(tmp_path: Path, head: str | None) -> None:
    files = CacheFiles(tmp_path, "prod")
    files.write_next(cache_with("aa"))
    assert files.load(head) is None


def test_no_file_is_no_cache(tmp_path: Path) -> None:
    assert CacheFiles(tmp_path, "prod").load("aa") is None


def test_every_flipped_or_cut_byte_loses_the_cache_and_nothing_else(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, "prod")
    files.write_next(cache_with("aa"))
    path = tmp_path / "prod.next"
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert files.load("aa") is None
        path.write_bytes(good[:at])
        assert files.load("aa") is None
