"""`bbr verify` and `bbr restore etcd`, on a backup of a real etcd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.demo.keyspace import Keyspace, apply_changes
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.write import raise_alarm
from bbr.servers.etcd import EtcdServers, boot_etcd

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr

IDENTITY = ("--identity", "keys/recovery-1.txt")
MEMBER = ("--name", "m0", "--initial-advertise-peer-urls", "http://127.0.0.1:2380")


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


@pytest.fixture
def backup_id(bbr: Bbr, repository: Path, small_etcd: EtcdServers, keyspace: Keyspace) -> Iterator[str]:
    """A base and an increment; the id of the increment."""
    with small_etcd.client() as client:
        apply_changes(client, keyspace.create(300))
        assert bbr("backup", "--endpoints", small_etcd.endpoints[0]).code == 0
        apply_changes(client, keyspace.churn(20))
    said = bbr("backup", "--endpoints", small_etcd.endpoints[0], "-o", "json")
    assert said.json["etcds"][0]["kind"] == "increment"
    yield said.json["id"]


def test_everything_stored_is_verified_without_a_key(bbr: Bbr, backup_id: str) -> None:
    said = bbr("verify", "-o", "json")
    assert said.code == 0, said.err
    assert (said.json["schema"], said.json["id"], said.json["passed"]) == ("bbr.verify/1", None, True)
    assert len([check for check in said.json["checks"] if check["name"].endswith(": parts")]) == 2


def test_a_real_etcd_proves_the_level_bootable(bbr: Bbr, backup_id: str) -> None:
    said = bbr("verify", backup_id, "--level", "bootable", *IDENTITY, "-o", "json")
    assert said.code == 0, said.err
    assert said.json["checks"][-1]["name"] == f"{backup_id}: etcd main bootable"
    readable = bbr("verify", backup_id, "--level", "readable", *IDENTITY)
    assert readable.code == 0
    assert "bootable" not in readable.out
    assert f"bbr restore etcd {backup_id}" in readable.err


@pytest.mark.parametrize("level", ["stored", "readable"])
def test_a_changed_part_ends_with_4_and_the_report_says_which(
    bbr: Bbr, backup_id: str, repository: Path, level: str
) -> None:
    part = max(repository.glob("clusters/*/*/*"), key=lambda path: path.stat().st_size)
    body = bytearray(part.read_bytes())
    body[len(body) // 2] ^= 1
    part.write_bytes(body)
    said = bbr("verify", backup_id, "--level", level, *(IDENTITY if level == "readable" else ()), "-o", "json")
    assert said.code == 4
    failed = [check for check in said.json["checks"] if not check["passed"]]
    assert any(part.name in check["detail"] for check in failed)
    assert f"backup {backup_id}" in said.err
    refused = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-snapshot", "etcd.db")
    assert refused.code == 4
    assert not (repository.parent / "etcd.db").exists()


def test_a_deep_level_needs_a_backup_and_a_key(bbr: Bbr, repository: Path) -> None:
    assert bbr("verify", "--level", "readable", *IDENTITY).code == 2
    assert bbr("verify", "latest", "--level", "readable").code == 12


def test_a_snapshot_file_is_written_once_and_has_its_trailing_hash(bbr: Bbr, backup_id: str, here: Path) -> None:
    said = bbr("restore", "etcd", "latest", *IDENTITY, "--to-snapshot", "etcd.db", "-o", "json")
    assert said.code == 0, said.err
    assert (said.json["schema"], said.json["id"]) == ("bbr.restore-etcd/1", backup_id)
    assert said.json["snapshot"] == str(here / "etcd.db")
    with Snapshot.open(here / "etcd.db") as snapshot:
        snapshot.check_trailer()
        assert snapshot.revision == said.json["revision"]
    before = (here / "etcd.db").read_bytes()
    again = bbr("restore", "etcd", "latest", *IDENTITY, "--to-snapshot", "etcd.db")
    assert (again.code, "left as it is" in again.err) == (5, True)
    assert (here / "etcd.db").read_bytes() == before


def test_a_data_directory_boots_with_the_hash_that_was_foretold(
    bbr: Bbr, backup_id: str, here: Path, etcd_binary: Path, keyspace: Keyspace
) -> None:
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-data-dir", "data", *MEMBER, "-o", "json")
    assert said.code == 0, said.err
    assert said.json["bump"] == 1_000_000_000
    assert said.json["initial_cluster"] == "m0=http://127.0.0.1:2380"
    assert said.json["initial_cluster_token"] == f"bbr-{backup_id}"
    with boot_etcd(etcd_binary, here / "data", name="m0") as member, member.client() as client:
        assert client.hash_kv(said.json["bumped_revision"]).hash == said.json["bumped_hash_kv"]
        pairs = client.range(b"\0", b"\0").kvs
    assert {pair.key: pair.value for pair in pairs} == {one.key: one.value for one in keyspace.contents()}


def test_the_bump_and_the_token_can_be_given(bbr: Bbr, backup_id: str) -> None:
    flags = (
        "--bump-revision",
        "5000",
        "--initial-cluster-token",
        "mine",
        "--initial-cluster",
        "m0=http://127.0.0.1:2380",
    )
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-data-dir", "data", *MEMBER, *flags, "-o", "json")
    assert said.code == 0, said.err
    assert said.json["bumped_revision"] == said.json["revision"] + 5000
    assert said.json["initial_cluster_token"] == "mine"


def test_a_data_directory_that_holds_something_is_left_as_it_is(bbr: Bbr, backup_id: str, here: Path) -> None:
    (here / "data").mkdir()
    (here / "data" / "member").write_text("mine")
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-data-dir", "data", *MEMBER)
    assert (said.code, "not empty" in said.err) == (5, True)
    assert (here / "data" / "member").read_text() == "mine"


def test_what_to_do_next_is_said_with_the_members_own_flags(bbr: Bbr, backup_id: str, here: Path) -> None:
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-data-dir", "data", *MEMBER)
    assert said.code == 0, said.err
    assert f"--data-dir {here}/data --name m0 --initial-cluster m0=http://127.0.0.1:2380" in said.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of --to-snapshot FILE and --to-data-dir DIR"),
        (["--to-snapshot", "a", "--to-data-dir", "b"], "give one of"),
        (["--to-snapshot", "a", "--name", "m0"], "--name is for --to-data-dir"),
        (["--to-snapshot", "a", "--bump-revision", "5"], "--bump-revision is for --to-data-dir"),
        (["--to-data-dir", "b"], "--to-data-dir needs --name"),
        (["--to-data-dir", "b", "--name", "m0"], "--to-data-dir needs --initial-advertise-peer-urls"),
        (["--to-data-dir", "b", *MEMBER, "--bump-revision", "0"], "'--bump-revision'"),
    ],
)
def test_forms_that_do_not_go_together_are_refused(bbr: Bbr, flags: list[str], message: str) -> None:
    said = bbr("restore", "etcd", "latest", *IDENTITY, *flags)
    assert (said.code, message in said.err) == (2, True)


def test_an_etcd_that_the_backup_does_not_hold_is_named(bbr: Bbr, backup_id: str) -> None:
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-snapshot", "etcd.db", "--etcd", "events")
    assert (said.code, "no etcd named 'events'" in said.err, "it has: main" in said.err) == (2, True, True)


def test_a_missing_etcdutl_is_found_out_before_anything_is_written(
    bbr: Bbr, backup_id: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-data-dir", "data", *MEMBER)
    assert (said.code, "etcdutl" in said.err) == (5, True)
    assert not (here / "data").exists()


def test_an_alarm_that_comes_back_with_the_data_is_announced(
    bbr: Bbr, repository: Path, small_etcd: EtcdServers
) -> None:
    with small_etcd.client() as client:
        apply_changes(client, Keyspace().create(50))
        raise_alarm(client, client.status().member_id, "NOSPACE")
    assert bbr("backup", "--endpoints", small_etcd.endpoints[0]).code == 0
    said = bbr("restore", "etcd", "latest", *IDENTITY, "--to-snapshot", "etcd.db")
    assert said.code == 0, said.err
    assert "etcdctl alarm disarm" in said.err
