"""Keys, identities and configuration that are wrong: refused before anything is touched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bbr.repository.keys import Identity
from bbr.servers.etcd import EtcdServers
from tests.bad_input.conftest import Bbr, Host, snapshot_of


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_two_different_recovery_identities_are_refused(bbr: Bbr, tmp_path: Path, count: int) -> None:
    one = Identity.generate().recipient
    recovery = [word for _ in range(count) for word in ("--recovery", one)]
    ended = bbr(
        "init", "--repo", tmp_path / "r", "--keys-dir", tmp_path / "k", "--state-dir", tmp_path / "s", *recovery
    )
    assert ended.code == 2
    assert ended.err == (
        "bbr: a repository needs at least two different recovery identities: one can be lost\n"
        "  hint: give two, and keep one of them offline; `bbr init` makes both if given none\n"
    )
    assert not (tmp_path / "r" / "root").exists()
    assert not (tmp_path / "k").exists()


def test_wrong_identity_is_exit_12(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.txt"
    stranger.write_text(Identity.generate().secret() + "\n")
    stranger.chmod(0o600)
    target = tmp_path / "x.db"
    before = snapshot_of(host.repository)
    ended = bbr("restore", "etcd", "latest", *host.where(), "--identity", stranger, "--to-snapshot", target)
    assert ended.code == 12
    assert re.search(
        r"^bbr: none of the 1 identities given reads epoch \d{8}T\d{6}Z-[0-9a-f]{8}\n"
        r"  hint: its readers are: recovery-1 \(age1[0-9a-z]{8}\.\.\.\), recovery-2 \(age1[0-9a-z]{8}\.\.\.\)$",
        ended.err,
        re.MULTILINE,
    )
    assert not target.exists()
    assert snapshot_of(host.repository) == before
    assert "AGE-SECRET-KEY" not in ended.err + ended.out


def test_no_identity_is_exit_12_and_says_which_flag(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    ended = bbr("restore", "etcd", "latest", *host.where(), "--to-snapshot", tmp_path / "x.db")
    assert ended.code == 12
    assert "--identity" in ended.err


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_key_file_that_others_can_read_is_exit_12(bbr: Bbr, host: Host, etcd: EtcdServers, mode: int) -> None:
    before = snapshot_of(host.repository)
    host.writer_key.chmod(mode)
    ended = bbr(*host.backup(etcd.endpoints))
    assert ended.code == 12
    assert f"chmod 600 {host.writer_key}" in ended.err
    assert snapshot_of(host.repository) == before


def test_identity_file_that_others_can_read_is_exit_12(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    host.identity.chmod(0o644)
    ended = bbr(*host.restore("latest", "--to-snapshot", tmp_path / "x.db"))
    assert ended.code == 12
    assert "chmod 600" in ended.err


def test_key_file_that_is_none_is_exit_12(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    host.writer_key.write_text("not a key\n")
    ended = bbr(*host.backup(etcd.endpoints))
    assert ended.code == 12
    assert str(host.writer_key) in ended.err


def test_unknown_config_key_names_line_and_nearest_key(bbr: Bbr, tmp_path: Path) -> None:
    config = tmp_path / "bbr.yaml"
    config.write_text("cluster: prod\nrepositry: /mnt/backups\n")
    ended = bbr("list", "--config", config)
    assert ended.code == 2
    assert "bbr.yaml, line 2" in ended.err
    assert "repositry" in ended.err
    assert "did you mean 'repository'?" in ended.err


def test_duplicate_config_key_names_its_line(bbr: Bbr, tmp_path: Path) -> None:
    config = tmp_path / "bbr.yaml"
    config.write_text("cluster: prod\nrepository: /mnt/backups\ncluster: test\n")
    ended = bbr("list", "--config", config)
    assert ended.code == 2
    assert "bbr.yaml, line 3" in ended.err
    assert "cluster" in ended.err


def test_missing_config_file_is_exit_2(bbr: Bbr, tmp_path: Path) -> None:
    ended = bbr("list", "--config", tmp_path / "absent.yaml")
    assert ended.code == 2
    assert "absent.yaml" in ended.err


def test_credentials_in_a_url_are_refused_and_not_repeated(bbr: Bbr, tmp_path: Path) -> None:
    ended = bbr("list", "--repo", "minio://user:hunter2@store.example:9000/bucket", "--state-dir", tmp_path)
    assert ended.code == 2
    assert "credentials" in ended.err
    assert "hunter2" not in ended.err
