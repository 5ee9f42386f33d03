"""`bbr writer`: adding, listing and revoking the hosts that may write."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.repository.keyfiles import read_writer_key

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr

IDENTITY = ("--identity", "keys/recovery-2.txt")


def writers(bbr: Bbr) -> dict[str, dict[str, object]]:
    return {one["label"]: one for one in bbr("writer", "list", "-o", "json").json["writers"]}


def test_a_new_writer_gets_a_private_key_file_and_a_place_in_the_root(bbr: Bbr, repository: Path, here: Path) -> None:
    said = bbr("writer", "add", "m2", "--cluster", "prod", "--key-file", "m2.key", *IDENTITY, "-o", "json")
    assert said.code == 0, said.err
    assert said.json["schema"] == "bbr.writer-add/1"
    assert stat.S_IMODE((here / "m2.key").stat().st_mode) == 0o600
    file = read_writer_key(here / "m2.key")
    assert file.key.key_id == said.json["key_id"] == writers(bbr)["m2"]["key_id"]
    assert writers(bbr)["m2"]["clusters"] == ["prod"]
    assert (repository / "root" / "2.json").exists()


def test_a_label_cannot_lead_its_key_file_elsewhere(bbr: Bbr, repository: Path, here: Path) -> None:
    assert bbr("writer", "add", "../../m2 é", *IDENTITY).code == 0
    assert [path.name for path in here.glob("writer-*")] == ["writer--..-m2-é.key"]


def test_without_an_administrators_identity_nothing_changes(bbr: Bbr, repository: Path, here: Path) -> None:
    assert bbr("init", "--repo", "second", "--keys-dir", "others", "--state-dir", "third").code == 0
    stranger = here / "stranger.txt"
    lines = (here / "others" / "recovery-1.txt").read_text().splitlines(keepends=True)
    stranger.write_text("".join(line for line in lines if not line.startswith("#")))
    stranger.chmod(0o600)
    said = bbr("writer", "add", "m2", "--key-file", "m2.key", "--identity", str(stranger))
    assert (said.code, "administrator" in said.err) == (12, True)
    assert not (here / "m2.key").exists()
    assert list(writers(bbr)) == ["m1"]


def test_a_label_that_is_taken_leaves_no_key_file(bbr: Bbr, repository: Path, here: Path) -> None:
    said = bbr("writer", "add", "m1", "--key-file", "again.key", *IDENTITY)
    assert (said.code, "there is a writer called m1" in said.err) == (2, True)
    assert not (here / "again.key").exists()


def test_a_key_file_that_exists_is_left_as_it_is(bbr: Bbr, repository: Path, here: Path) -> None:
    (here / "m2.key").write_text("mine")
    said = bbr("writer", "add", "m2", "--key-file", "m2.key", *IDENTITY)
    assert said.code == 5
    assert (here / "m2.key").read_text() == "mine"
    assert list(writers(bbr)) == ["m1"]


def test_a_revoked_writer_stays_listed_as_such_and_is_refused(bbr: Bbr, repository: Path) -> None:
    said = bbr("writer", "revoke", "m1", "--at", "2026-01-02T03:04:05Z", *IDENTITY)
    assert said.code == 0, said.err
    assert writers(bbr)["m1"]["revoked"] == "2026-01-02T03:04:05Z"
    assert "revoked 2026-01-02 03:04:05Z" in bbr("writer", "list").out
    refused = bbr("backup", "--endpoints", "http://127.0.0.1:1")
    assert (refused.code, "was revoked" in refused.err) == (12, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "no signer has the label or id 'nobody'"),
        (["m1", "--at", "yesterday"], "'yesterday' is not a time"),
    ],
)
def test_what_cannot_be_revoked_is_named(bbr: Bbr, repository: Path, arguments: list[str], message: str) -> None:
    said = bbr("writer", "revoke", *arguments, *IDENTITY)
    assert (said.code, message in said.err) == (2, True)


@pytest.mark.parametrize(
    ("clusters", "flags"), [((), ""), (("prod",), " --cluster prod"), (("prod", "staging"), " --cluster NAME")]
)
def test_the_command_for_the_other_host_names_the_whole_path_and_the_cluster(
    bbr: Bbr, repository: Path, clusters: tuple[str, ...], flags: str
) -> None:
    named = [word for one in clusters for word in ("--cluster", one)]
    said = bbr("writer", "add", "m2", "--repo", "./repository", "--key-file", "my keys.key", *named, *IDENTITY)
    assert said.code == 0, said.err
    assert said.err.splitlines()[-1] == f"  bbr backup --repo {repository} --writer-key 'my keys.key'{flags}"
    assert f"that host must reach it as {repository} too" in said.err
