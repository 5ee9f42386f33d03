from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bbr.repository.manifest_cache import ManifestCache, Row


def row(name: str) -> Row:
    return Row(name, 100, "ab" * 32, "cd" * 32, b"payload of " + name.encode() * 50, "0" * 16, bytes(64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifests.db"


def test_rows_are_found_again_by_prefix(path: Path) -> None:
    cache = ManifestCache(path)
    assert cache.load("") == {}
    assert cache.remember([row("manifests/a/1"), row("manifests/b/1"), row("manifests/b/2")]) == ""
    assert ManifestCache(path).load("manifests/b/") == {
        "manifests/b/1": row("manifests/b/1"),
        "manifests/b/2": row("manifests/b/2"),
    }


def test_row_is_replaced_and_forgotten(path: Path) -> None:
    cache = ManifestCache(path)
    cache.remember([row("a"), row("b")])
    changed = replace(row("a"), root="ef" * 32)
    cache.remember([changed], forget=["b"])
    assert cache.load("") == {"a": changed}


def test_row_that_was_changed_on_disk_is_passed_over(path: Path) -> None:
    cache = ManifestCache(path)
    cache.remember([row("a"), row("b")])
    for column, value in (("payload", b"other"), ("sha256", "0" * 64), ("payload", None), ("signature", None)):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE manifests SET {column} = ? WHERE name = 'a'", (value,))  # noqa: S608
        assert cache.load("") == {"b": row("b")}
        cache.remember([row("a")])


def test_file_of_another_version_is_made_anew(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE manifests (x)")
        connection.execute("PRAGMA user_version = 99")
    cache = ManifestCache(path)
    assert cache.load("") == {}
    assert cache.remember([row("a")]) == ""
    assert cache.load("") == {"a": row("a")}


def test_file_that_is_no_database_is_made_anew(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    cache = ManifestCache(path)
    assert cache.load("") == {}
    assert cache.remember([row("a")]) == ""
    assert cache.load("") == {"a": row("a")}


def test_no_damage_to_the_file_gives_a_wrong_row(path: Path) -> None:
    rows = {name: row(name) for name in map(str, range(200))}
    ManifestCache(path).remember(rows.values())
    whole = path.read_bytes()
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 100])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        found = ManifestCache(path).load("")
        assert all(rows[name] == found[name] for name in found)


def test_folder_that_is_gone_is_told_and_harmless(tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "gone" / "manifests.db")
    assert cache.load("") == {}
    assert "could not be written" in cache.remember([row("a")])
