"""A restore that cannot be done: refused with a message and an exit code, and what is there stays as it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_input.conftest import Bbr, Host, snapshot_of
from tests.bad_input.test_etcd import small_disk  # noqa: F401 - a fixture

MEMBER = ("--name", "m0", "--initial-cluster", "m0=http://127.0.0.1:2380")
PEERS = ("--initial-advertise-peer-urls", "http://127.0.0.1:2380")


def test_existing_snapshot_file_is_exit_5_and_stays(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    target = tmp_path / "etcd.db"
    target.write_text("precious")
    ended = bbr(*host.restore("latest", "--to-snapshot", target))
    assert ended.code == 5
    assert f"{target} exists" in ended.err
    assert target.read_text() == "precious"


def test_directory_that_is_not_empty_is_exit_5_and_stays(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    target = tmp_path / "member"
    target.mkdir()
    (target / "old").write_text("precious")
    ended = bbr(*host.restore("latest", "--to-data-dir", target, *MEMBER, *PEERS))
    assert ended.code == 5
    assert "is not empty" in ended.err
    assert snapshot_of(target) == {"old": b"precious"}


def test_disk_without_space_is_exit_5_and_left_clean(
    bbr: Bbr,
    host: Host,
    small_disk: Path,  # noqa: F811 - the fixture
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(23 << 20))
    ended = bbr(*host.restore("latest", "--to-data-dir", small_disk / "member", *MEMBER, *PEERS))
    assert ended.code == 5
    assert str(small_disk) in ended.err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_missing_etcdutl_is_exit_5(bbr: Bbr, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    ended = bbr(*host.restore("latest", "--to-data-dir", tmp_path / "member", *MEMBER, *PEERS))
    assert ended.code == 5
    assert "etcdutl" in ended.err
    assert "--bin-dir" in ended.err
    assert not (tmp_path / "member").exists()


def test_etcdutl_too_old_for_the_bump_is_exit_5(
    bbr: Bbr, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "etcdutl").write_text("#!/bin/sh\necho 'etcdutl version: 3.5.9'\necho 'API version: 3.5'\n")
    (old / "etcdutl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{old}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = bbr(*host.restore("latest", "--to-data-dir", tmp_path / "member", *MEMBER, *PEERS))
    assert ended.code == 5
    assert "3.5.9" in ended.err
    assert not (tmp_path / "member").exists()


@pytest.mark.parametrize("text", ["prod-2019", "nonsense", "2019-01-01T00:00:00Z"])
def test_unknown_backup_is_exit_2_and_names_what_is_near(bbr: Bbr, host: Host, tmp_path: Path, text: str) -> None:
    ended = bbr(*host.restore(text, "--to-snapshot", tmp_path / "x.db"))
    assert ended.code == 2
    assert "prod-20" in ended.err
    assert not (tmp_path / "x.db").exists()


def test_ambiguous_backup_is_exit_2_and_lists_them(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    ended = bbr(*host.restore("prod-", "--to-snapshot", tmp_path / "x.db"))
    assert ended.code == 2
    assert "means 2 backups" in ended.err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_restore_is_exit_130_and_leaves_nothing(host: Host, tmp_path: Path, stop: signal.Signals) -> None:
    target = tmp_path / "to" / "x.db"
    target.parent.mkdir()
    command = [sys.executable, "-c", SLOW_STORE, *host.restore("latest", "--to-snapshot", target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetching\n"
        process.send_signal(stop)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert list(target.parent.iterdir()) == []


def test_killed_restore_starts_again_and_sweeps(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    target = tmp_path / "to" / "x.db"
    target.parent.mkdir()
    command = [sys.executable, "-c", SLOW_STORE, *host.restore("latest", "--to-snapshot", target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fetching\n"
        os.kill(process.pid, signal.SIGKILL)
    assert len(list(target.parent.iterdir())) == 1
    assert bbr(*host.restore("latest", "--to-snapshot", target)).code == 0
    assert [path.name for path in target.parent.iterdir()] == ["x.db"]


SLOW_STORE = """
import sys, time
from bbr.stores.directory import DirectoryStore
from bbr.cli.main import main
get = DirectoryStore.get
def slow(self, name, *, limit_bytes):
    if name.startswith("clusters/"):
        print("fetching", flush=True)
        time.sleep(60)
    return get(self, name, limit_bytes=limit_bytes)
DirectoryStore.get = slow
sys.argv[0] = "bbr"
main()
"""
"""The command line on a store that is slow with parts, so that there is time to end it."""
