"""Opening the repository that options and configuration name, and believing only the one that is meant."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.cli.access import place_of, state_dir
from bbr.cli.config import Config
from bbr.cli.options import Where
from bbr.errors import UsageError
from bbr.stores.retry import Retrying

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr

NOWHERE = Where(None, None, None, None)


def test_the_state_of_root_is_the_hosts_and_of_others_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_dir(NOWHERE, Config()) == Path("/var/lib/bbr")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/op")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_dir(NOWHERE, Config()) == Path("/home/op/.local/state/bbr")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_dir(NOWHERE, Config()) == Path("/state/bbr")


def test_a_flag_goes_before_the_configuration_and_that_before_the_default() -> None:
    told = Where(None, None, None, Path("/flag"))
    assert state_dir(told, Config(state_dir=Path("/config"))) == Path("/flag")
    assert state_dir(NOWHERE, Config(state_dir=Path("/config"))) == Path("/config")


def test_the_first_contact_shows_the_id_and_the_second_knows_it(bbr: Bbr, repository: Path) -> None:
    first = bbr("list", "--repo", str(repository), "--state-dir", "elsewhere")
    assert first.code == 0
    assert re.search(r"first contact .*\n  [0-9a-f]{64}\n", first.err)
    assert "first contact" not in bbr("list", "--repo", "./repository", "--state-dir", "elsewhere").err


def test_another_repository_at_a_known_address_is_refused(bbr: Bbr, repository: Path) -> None:
    assert bbr("list", "--repo", "repository", "--state-dir", "elsewhere").code == 0
    shutil.rmtree(repository)
    assert bbr("init", "--repo", "repository", "--keys-dir", "others", "--state-dir", "third").code == 0
    said = bbr("list", "--repo", "repository", "--state-dir", "elsewhere")
    assert said.code == 10
    assert "the one expected has" in said.err


def test_an_older_root_than_was_seen_is_refused(bbr: Bbr, repository: Path) -> None:
    assert bbr("writer", "add", "m2", "--identity", "keys/recovery-1.txt").code == 0
    (repository / "root" / "2.json").unlink()
    said = bbr("list")
    assert said.code == 4
    assert "root 2 was seen before" in said.err


def test_an_id_that_a_flag_names_must_be_the_repositorys(bbr: Bbr, repository: Path) -> None:
    said = bbr("list", "--repo", "repository", "--state-dir", "elsewhere", "--repository-id", "ab" * 32)
    assert said.code == 10


def test_an_id_in_the_configuration_is_of_the_repository_there_not_of_one_that_a_flag_names(
    bbr: Bbr, repository: Path, here: Path
) -> None:
    (here / "bbr.yaml").write_text(f"repository: other\nrepository_id: {'ab' * 32}\n", encoding="utf-8")
    assert bbr("list", "--repo", "repository", "--state-dir", "elsewhere").code == 0
    (here / "bbr.yaml").write_text(f"repository: repository\nrepository_id: {'ab' * 32}\n", encoding="utf-8")
    assert bbr("list", "--state-dir", "elsewhere").code == 10


def test_a_key_file_of_another_repository_is_refused(bbr: Bbr, repository: Path) -> None:
    assert bbr("init", "--repo", "second", "--keys-dir", "others", "--state-dir", "state").code == 0
    said = bbr("show", "latest", "--identity", "others/recovery-1.txt")
    assert said.code == 10
    assert "use the key files of this repository" in said.err
    assert "key file others/recovery-1.txt is for repository" in said.err


@pytest.mark.parametrize("damage", ["missing", "exposed"])
def test_an_identity_that_cannot_be_used_ends_with_12(bbr: Bbr, repository: Path, here: Path, damage: str) -> None:
    identity = here / "keys" / "recovery-1.txt"
    if damage == "missing":
        identity.unlink()
    else:
        identity.chmod(0o644)
    said = bbr("restore", "etcd", "latest", "--identity", str(identity), "--to-snapshot", "etcd.db")
    assert said.code == 12
    assert str(identity) in said.err


def test_no_identity_at_all_ends_with_12_and_names_the_flag(bbr: Bbr, repository: Path) -> None:
    said = bbr("restore", "etcd", "latest", "--to-snapshot", "etcd.db")
    assert (said.code, "give --identity FILE" in said.err) == (12, True)


def test_a_folder_without_a_repository_ends_with_10(bbr: Bbr, here: Path) -> None:
    (here / "empty").mkdir()
    said = bbr("list", "--repo", "empty", "--state-dir", "state")
    assert (said.code, "bbr init" in said.err) == (10, True)


def test_an_address_with_credentials_is_refused_and_does_not_show_them(bbr: Bbr) -> None:
    said = bbr("list", "--repo", "minio://me:secret@host:9000/bucket")
    assert said.code == 2
    assert "secret" not in said.err


def test_a_user_without_a_home_is_told_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"\(54321\) has no home folder") as caught:
        state_dir(NOWHERE, Config())
    assert "--state-dir DIR" in caught.value.hint
    assert state_dir(Where(None, None, None, Path("/told")), Config()) == Path("/told")


def test_a_folder_is_one_place_however_it_is_named(here: Path) -> None:
    repository = str(here / "my repository")
    for address in (
        "my repository",
        "./my repository",
        repository,
        f"file://{repository}",
        f"file://{here}/my%20repository",
    ):
        assert place_of(address) == repository
    assert place_of("s3://backups/x?region=y") == "s3://backups/x?region=y"


def test_a_repository_that_was_met_by_its_path_is_known_by_its_url(bbr: Bbr, repository: Path) -> None:
    assert "first contact" in bbr("list", "--repo", "repository", "--state-dir", "elsewhere").err
    assert "first contact" not in bbr("list", "--repo", f"file://{repository}", "--state-dir", "elsewhere").err


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that accepts and never answers; the store's patience is a fraction of a second."""
    for name, value in (("AWS_ACCESS_KEY_ID", "somebody"), ("AWS_SECRET_ACCESS_KEY", "something-secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("bbr.stores.minio.READ_TIME_S", 0.2)
    monkeypatch.setattr("bbr.stores.url.Retrying", partial(Retrying, tries=2, first_pause=timedelta(milliseconds=1)))
    monkeypatch.setattr("bbr.cli.display.LINE_EVERY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "latest"], ["writer", "list"], ["init", "--keys-dir", "keys"], ["verify"], ["doctor"]],
)
def test_a_store_that_never_answers_is_waited_for_in_the_open(bbr: Bbr, silent_port: int, arguments: list[str]) -> None:
    address = f"minio+http://127.0.0.1:{silent_port}/bucket/prefix"
    said = bbr(*arguments, "--repo", address, "--state-dir", "state")
    step = "trying the store out" if arguments == ["doctor"] else f"opening {address}"
    assert f"bbr: {step}, for" in said.err
    assert re.search(r"timed out.*\(tried \d times, for \d+ s\)", said.out + said.err)
