"""`bbr verify` and `bbr restore etcd`, on a backup of a real etcd."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
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
        (["--to-data-dir", "b", *MEMBER, "--initial-cluster", "m1=http://a:1"], "has no member 'm0'; it has: m1"),
        (["--to-data-dir", "b", *MEMBER, "--initial-cluster", "m0=a:1"], "--initial-cluster: 'a:1' is not http(s)"),
        (["--to-data-dir", "b", *MEMBER, "--initial-cluster", "m0=http://a:1"], "gives m0 http://a:1, and --initial-"),
        (["--to-data-dir", "b", *MEMBER[:3], "10.0.0.1"], "--initial-advertise-peer-urls: '10.0.0.1' is not http(s)"),
    ],
)
def test_forms_that_do_not_go_together_are_refused(bbr: Bbr, flags: list[str], message: str) -> None:
    said = bbr("restore", "etcd", "latest", *IDENTITY, *flags)
    assert (said.code, message in said.err) == (2, True), said.err


def parts_of(repository: Path) -> list[Path]:
    return [path for path in repository.glob("clusters/*/*/*") if path.is_file()]


@pytest.fixture
def unreadable_parts(backup_id: str, repository: Path) -> str:
    """A backup whose parts are gone: who fetches ends with another error than who looks before."""
    for part in parts_of(repository):
        part.unlink()
    return backup_id


@pytest.mark.parametrize("bump", [2**62, 2**63 - 1, 2**64, 10**30])
def test_a_bump_that_leaves_etcd_no_room_is_refused_before_anything_is_fetched(
    bbr: Bbr, unreadable_parts: str, here: Path, bump: int
) -> None:
    said = bbr("restore", "etcd", "latest", *IDENTITY, "--to-data-dir", "data", *MEMBER, "--bump-revision", str(bump))
    assert said.code == 2, said.err
    assert f"--bump-revision {bump} on revision " in said.err
    assert "must stay below 2^62" in said.err
    assert "hint: give a smaller one" in said.err
    assert not (here / "data").exists()


def test_the_sum_with_the_revision_is_what_counts(bbr: Bbr, backup_id: str, here: Path) -> None:
    revision = bbr("restore", "etcd", "latest", *IDENTITY, "--to-snapshot", "x.db", "-o", "json").json["revision"]
    restore = ("restore", "etcd", "latest", *IDENTITY, "--to-data-dir", "data", *MEMBER, "-o", "json")
    assert bbr(*restore, "--bump-revision", str(2**62 - revision)).code == 2
    said = bbr(*restore, "--bump-revision", str(2**62 - revision - 1))
    assert (said.code, said.json["bumped_revision"]) == (0, 2**62 - 1)


@pytest.mark.parametrize("form", ["--to-snapshot", "--to-data-dir"])
def test_a_missing_parent_folder_is_named_before_anything_is_fetched(
    bbr: Bbr, unreadable_parts: str, here: Path, form: str
) -> None:
    flags = MEMBER if form == "--to-data-dir" else ()
    said = bbr("restore", "etcd", "latest", *IDENTITY, form, "my dir/target", *flags)
    assert said.code == 2, said.err
    assert f"{here}/my dir does not exist, and target is to be written there" in said.err
    assert f"mkdir -p '{here}/my dir'" in said.err
    assert not (here / "my dir").exists()


def test_an_empty_folder_keeps_owner_and_mode_and_what_is_in_it_gets_the_owner(
    bbr: Bbr, backup_id: str, here: Path, etcd_binary: Path
) -> None:
    data = here / "data"
    data.mkdir(mode=0o750)
    owner = (12345, 23456) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(data, *owner)
    said = bbr("restore", "etcd", "latest", *IDENTITY, "--to-data-dir", "data", *MEMBER)
    assert said.code == 0, said.err
    assert "warning" not in said.err
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (data, *data.rglob("*"))} == {owner}
    assert stat.S_IMODE(data.stat().st_mode) == 0o750
    assert stat.S_IMODE((data / "member").stat().st_mode) == 0o700
    assert [path.name for path in data.iterdir()] == ["member"]


def test_a_new_folder_is_private(bbr: Bbr, backup_id: str, here: Path) -> None:
    said = bbr("restore", "etcd", "latest", *IDENTITY, "--to-data-dir", "data", *MEMBER)
    assert said.code == 0, said.err
    assert stat.S_IMODE((here / "data").stat().st_mode) == 0o700
    assert (here / "data").stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can make another's folder")
def test_who_may_not_give_files_away_is_told_the_command(bbr: Bbr, backup_id: str, here: Path) -> None:
    data = here / "my data"
    data.mkdir()
    os.chown(data, 12345, 23456)
    program = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"
    command = ["setpriv", "--bounding-set", "-chown", sys.executable, "-c", program]
    command += ["restore", "etcd", "latest", *IDENTITY, "--to-data-dir", str(data), *MEMBER]
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert f"warning: {data} belongs to 12345:23456" in ended.stderr
    assert f"as root: chown -R 12345:23456 '{data}/member'" in ended.stderr
    assert (data / "member" / "snap" / "db").stat().st_uid == 0


def test_what_to_do_next_can_be_copied_whatever_the_folder_is_called(bbr: Bbr, backup_id: str, here: Path) -> None:
    token = ("--initial-cluster-token", "it's; mine")
    said = bbr("restore", "etcd", backup_id, *IDENTITY, "--to-data-dir", "my $data", *MEMBER, *token)
    assert said.code == 0, said.err
    words = shlex.split(said.err.partition("start etcd on the new directory with")[2].replace("\\\n", " "))
    assert words[:2] == ["--data-dir", f"{here}/my $data"]
    assert words[words.index("--initial-cluster-token") + 1] == "it's; mine"


def test_the_folder_that_is_named_wins_over_a_newer_program_elsewhere(
    bbr: Bbr, backup_id: str, here: Path, etcdutl_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version in {"named": "3.6.1", "unfitting": "3.5.35", "path": "3.6.99"}.items():
        (here / folder).mkdir()
        script = f"""#!/bin/sh
if [ "$1" = version ]; then echo 'etcdutl version: {version}'; else exec {etcdutl_binary} "$@"; fi
"""
        (here / folder / "etcdutl").write_text(script)
        (here / folder / "etcdutl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}/path:{os.environ['PATH']}")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    for number, (named, version) in enumerate({"named": "3.6.1", "unfitting": "3.6.99"}.items()):
        target = ("--to-data-dir", f"data-{number}")
        said = bbr("restore", "etcd", "latest", *IDENTITY, *target, *MEMBER, "--bin-dir", named, "-o", "json")
        assert said.code == 0, said.err
        assert said.json["etcdutl"]["version"] == version


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
