"""The golden repository of format 1, made once: today's code and a reader of the document restore it, for ever."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bbr.etcd.hashkv import hash_kv
from bbr.etcd.snapshot import Snapshot
from bbr.progress import Silent
from bbr.rebuild import rebuild
from bbr.repository.archive import Archive
from bbr.repository.catalog import Catalog
from bbr.repository.keyfiles import read_identities
from bbr.repository.root import load_roots
from bbr.servers.etcd import boot_etcd
from bbr.stores.directory import DirectoryStore
from bbr.verify import verify_stored
from tests.conftest import program

GOLDEN = Path(__file__).parent / "golden" / "format-1"
READER = Path(__file__).parents[1] / "docs" / "restore_by_hand.py"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
READER_LINES = 200
HASHKV_ETCD = "3.7.3"
ANSWERED = {"hash": "hash_kv", "hashRevision": "revision", "compactRevision": "compact_revision"}
"""What `etcdutl hashkv` calls the fields of expected.json."""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy with the modes that a checkout does not keep."""
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    (folder / "recovery.txt").chmod(0o600)
    return folder


def run_reader(golden: Path, backup: str, target: Path) -> subprocess.CompletedProcess[str]:
    """The document's reader, as a stranger runs it."""
    arguments = [str(golden / "repository"), str(golden / "recovery.txt"), backup, str(target)]
    return subprocess.run(
        [sys.executable, str(READER), *arguments], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("number", range(len(EXPECTED["backups"])))
def test_todays_code_restores_every_backup(golden: Path, tmp_path: Path, number: int) -> None:
    expected = EXPECTED["backups"][number]
    store = DirectoryStore(golden / "repository")
    keys = read_identities(golden / "recovery.txt")
    trusted = load_roots(store, keys.pin)
    assert trusted.repository_id == EXPECTED["repository_id"]
    archive = Archive(store, trusted, Catalog.load(store, trusted), keys.identities)
    assert [backup.manifest.backup_id for backup in archive.catalog.backups] == [
        one["id"] for one in EXPECTED["backups"]
    ]
    assert [check for check in verify_stored(archive, None, progress=Silent()) if not check.passed] == []
    rebuilt = rebuild(archive, archive.catalog.backups[number], "main", tmp_path / "x.db", progress=Silent())
    assert (rebuilt.revision, rebuilt.hash_kv) == (expected["revision"], expected["hash_kv"])
    with Snapshot.open(rebuilt.path) as snapshot:
        assert len(list(snapshot.reader.items(b"key"))) == expected["records"]


@pytest.mark.parametrize("number", range(len(EXPECTED["backups"])))
def test_the_reader_of_the_document_restores_every_backup(
    golden: Path, etcd_binary: Path, etcdutl_binary: Path, search: tuple[Path, ...], tmp_path: Path, number: int
) -> None:
    expected = EXPECTED["backups"][number]
    target = tmp_path / "etcd.db"
    run_reader(golden, expected["id"], target).check_returncode()
    with Snapshot.open(target) as snapshot:
        snapshot.check_trailer()
        snapshot.reader.check()
        assert hash_kv(snapshot.reader, expected["revision"], expected["compact_revision"]) == expected["hash_kv"]
        assert len(list(snapshot.reader.items(b"key"))) == expected["records"]
    restore = [str(etcdutl_binary), "snapshot", "restore", str(target), "--data-dir", str(tmp_path / "data")]
    subprocess.run(restore, check=True, capture_output=True, timeout=30)
    with boot_etcd(etcd_binary, tmp_path / "data", name="default") as member, member.client() as client:
        assert client.hash_kv(expected["revision"]).hash == expected["hash_kv"]
    # Last, for it writes to the file. That of 3.6 panics where a key has a lease, and 3.5 has none.
    hashkv = [str(program("etcdutl", search, HASHKV_ETCD)), "hashkv", str(target), "--write-out", "json"]
    said = subprocess.run(hashkv, check=True, capture_output=True, text=True, timeout=30).stdout
    assert json.loads(said) == {name: expected[ours] for name, ours in ANSWERED.items()}


def test_the_reader_stops_at_a_damaged_part(golden: Path, tmp_path: Path) -> None:
    part = sorted((golden / "repository" / "clusters").rglob("*.age"))[0]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    ended = run_reader(golden, EXPECTED["backups"][2]["id"], tmp_path / "etcd.db")
    assert ended.returncode == 1
    assert "is damaged" in ended.stderr
    assert not (tmp_path / "etcd.db").exists()


def test_the_reader_is_short_and_stands_alone() -> None:
    text = READER.read_text()
    assert len(text.splitlines()) <= READER_LINES
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported.isdisjoint({"bbr", "restore", "schedules", "tests"})
