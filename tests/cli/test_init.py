"""`bbr init`: what it makes, where, and what it leaves alone."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.cli.config import read_config
from bbr.repository.keyfiles import read_identities, read_writer_key
from bbr.repository.keys import Identity

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr

INIT = ("init", "--repo", "repository", "--keys-dir", "keys", "--writer", "m1", "--state-dir", "state")


def test_it_makes_two_recovery_identities_and_a_writer_key_that_pin_the_repository(bbr: Bbr, here: Path) -> None:
    said = bbr(*INIT, "-o", "json")
    assert said.code == 0, said.err
    made = said.json
    assert made["schema"] == "bbr.init/1"
    files = {Path(one["path"]).name: one for one in made["files"]}
    assert list(files) == ["recovery-1.txt", "recovery-2.txt", "writer-m1.key"]
    for path in (here / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    identities = [read_identities(here / "keys" / f"recovery-{number}.txt") for number in (1, 2)]
    writer = read_writer_key(here / "keys" / "writer-m1.key")
    pins = [writer.pin, *(file.pin for file in identities)]
    assert {pin.repository_id for pin in pins if pin} == {made["repository_id"]}
    assert files["recovery-1.txt"]["public"] == identities[0].identities[0].recipient
    assert files["writer-m1.key"]["public"] == writer.key.key_id
    assert made["store"]["conditional_create"] is True


def test_it_says_where_each_file_goes_and_what_comes_next(bbr: Bbr, here: Path) -> None:
    said = bbr(*INIT)
    assert re.search(rf"^repository +{re.escape(str(here / 'repository'))}$", said.out, flags=re.MULTILINE)
    assert re.search(r"^id +[0-9a-f]{64}$", said.out, flags=re.MULTILINE)
    assert said.out.count("and delete it here") == 2
    assert "stays on the backup host" in said.out
    assert re.search(r"^writer_key: .*/keys/writer-m1\.key$", said.out, flags=re.MULTILINE)
    assert "bbr backup --repo repository --state-dir state --writer-key" in said.err
    assert "AGE-SECRET-KEY" not in said.out + said.err
    assert "PRIVATE KEY" not in said.out + said.err


def test_the_snippet_that_it_prints_is_a_configuration(bbr: Bbr, here: Path) -> None:
    said = bbr(*INIT)
    snippet = said.out[said.out.index("# bbr.yaml") :]
    (here / "bbr.yaml").write_text(snippet.replace("NAME", "prod"), encoding="utf-8")
    assert bbr("list", "--state-dir", "other").code == 0


def test_with_recipients_of_your_own_no_identity_is_made(bbr: Bbr, here: Path) -> None:
    own = [Identity.generate().recipient for _ in range(2)]
    said = bbr(*INIT, "--recovery", own[0], "--recovery", own[1], "-o", "json")
    assert said.code == 0, said.err
    assert [path.name for path in (here / "keys").iterdir()] == ["writer-m1.key"]


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_two_different_recovery_identities_are_refused(bbr: Bbr, here: Path, count: int) -> None:
    same = Identity.generate().recipient
    said = bbr(*INIT, *(["--recovery", same] * count))
    assert said.code == 2
    assert "at least two different recovery identities" in said.err
    assert not (here / "keys").exists()
    assert not (here / "repository" / "root").exists()


def test_what_is_no_recipient_is_refused(bbr: Bbr, here: Path) -> None:
    said = bbr(*INIT, "--recovery", "age1nonsense", "--recovery", Identity.generate().recipient)
    assert (said.code, "not an age X25519 recipient" in said.err) == (12, True)
    assert not (here / "repository" / "root").exists()


def test_a_repository_that_exists_is_left_as_it_is(bbr: Bbr, here: Path) -> None:
    assert bbr(*INIT).code == 0
    before = (here / "repository" / "root" / "1.json").read_bytes()
    said = bbr("init", "--repo", "repository", "--keys-dir", "others", "--state-dir", "state")
    assert (said.code, "left as it is" in said.err) == (5, True)
    assert (here / "repository" / "root" / "1.json").read_bytes() == before
    assert not (here / "others").exists()


@pytest.mark.parametrize("name", ["recovery-1.txt", "recovery-2.txt", "writer-m1.key"])
def test_a_key_file_that_exists_is_left_as_it_is_and_no_repository_is_made(bbr: Bbr, here: Path, name: str) -> None:
    (here / "keys").mkdir()
    (here / "keys" / name).write_text("mine")
    said = bbr(*INIT)
    assert (said.code, name in said.err) == (5, True)
    assert (here / "keys" / name).read_text() == "mine"
    assert [path.name for path in (here / "keys").iterdir()] == [name]
    assert not (here / "repository" / "root").exists()


def test_a_writer_for_some_clusters_may_write_only_those(bbr: Bbr) -> None:
    assert bbr(*INIT, "--cluster", "prod", "--cluster", "staging").code == 0
    listed = bbr("writer", "list", "--repo", "repository", "--state-dir", "state", "-o", "json").json
    assert listed["writers"][0]["clusters"] == ["prod", "staging"]


def test_what_cannot_be_a_folder_is_refused(bbr: Bbr, here: Path) -> None:
    (here / "repository").write_text("a file")
    said = bbr(*INIT)
    assert said.code == 2
    assert "is not a directory" in said.err


@pytest.mark.parametrize("address", ["./my: backups", "file:{here}/my: backups"])
def test_the_snippet_is_good_in_any_folder_and_whatever_the_paths_are(
    bbr: Bbr, here: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    repo = address.format(here=here)
    said = bbr("init", "--repo", repo, "--keys-dir", "my #keys", "--state-dir", "state", "--cluster", "on")
    assert said.code == 0, said.err
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "bbr.yaml").write_text(said.out[said.out.index("# bbr.yaml") :], encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    config = read_config(elsewhere / "bbr.yaml")
    assert config.repository == str(here / "my: backups")
    assert (config.cluster, config.writer_key and config.writer_key.exists()) == ("on", True)
    assert bbr("list", "--state-dir", "other").code == 0


@pytest.mark.parametrize("is_master", [True, False])
def test_the_next_command_suits_this_host(
    bbr: Bbr, here: Path, monkeypatch: pytest.MonkeyPatch, is_master: bool
) -> None:
    monkeypatch.setattr("bbr.cli.sources.MANIFESTS_DIR", here if is_master else here / "none")
    said = bbr(*INIT, "--cluster", "prod")
    next_command = said.err.splitlines()[-1]
    assert f"writer-m1.key --cluster prod{'' if is_master else ' --endpoints URL --cacert FILE'}" in next_command
    assert ("--endpoints" in next_command) is not is_master


def test_without_a_cluster_only_a_kubeadm_master_needs_no_name(
    bbr: Bbr, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbr.cli.sources.MANIFESTS_DIR", here)
    assert bbr(*INIT).err.splitlines()[-1].endswith("writer-m1.key")
    monkeypatch.setattr("bbr.cli.sources.MANIFESTS_DIR", here / "none")
    said = bbr("init", "--repo", "second", "--keys-dir", "others", "--state-dir", "state")
    assert "--cluster NAME --endpoints URL" in said.err


def test_without_a_place_for_the_state_nothing_is_made(bbr: Bbr, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("geteuid", "getuid"):
        monkeypatch.setattr(f"os.{name}", lambda: 54321)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    said = bbr("init", "--repo", "repository", "--keys-dir", "keys")
    assert (said.code, "no home folder" in said.err) == (2, True)
    assert list(here.iterdir()) == []
