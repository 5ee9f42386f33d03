"""`bbr doctor`: what it finds, and what it makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.errors import AccessDenied, StoreUnavailable
from bbr.etcd.write import put, raise_alarm
from bbr.servers.etcd import EtcdServers
from bbr.stores.probe import Abilities
from bbr.stores.store import Store

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr, Said


def verdicts(said: Said) -> dict[str, str]:
    return {check["name"]: check["result"] for check in said.json["checks"]}


def test_a_healthy_host_passes_and_nothing_is_left_in_the_store(
    bbr: Bbr, repository: Path, small_etcd: EtcdServers
) -> None:
    with small_etcd.client() as client:
        put(client, b"a", b"b")
    said = bbr("doctor", "--endpoints", small_etcd.endpoints[0], "--identity", "keys/recovery-1.txt", "-o", "json")
    assert said.code == 0, said.err
    assert said.json["schema"] == "bbr.doctor/1"
    found = verdicts(said)
    for name in (
        "store",
        "store: conditional create",
        "clock",
        "writer key",
        "identity",
        "repository",
        "writer",
        "spool",
    ):
        assert found[name] == "ok"
    assert found[f"etcd main: {small_etcd.endpoints[0]}"] == "ok"
    assert found["program etcdutl"] == "ok"
    assert list(repository.glob("probe/*")) == []
    assert "bbr backup" in said.err


def test_without_etcd_the_rest_is_still_looked_at(bbr: Bbr, repository: Path) -> None:
    said = bbr("doctor", "-o", "json")
    assert said.code == 0
    assert (verdicts(said)["etcd"], verdicts(said)["repository"]) == ("skipped", "ok")


def test_an_endpoint_that_does_not_answer_fails_and_hides_no_other(
    bbr: Bbr, repository: Path, small_etcd: EtcdServers
) -> None:
    said = bbr("doctor", "--endpoints", f"http://127.0.0.1:1,{small_etcd.endpoints[0]}", "-o", "json")
    assert said.code == 5
    assert verdicts(said)["etcd main: http://127.0.0.1:1"] == "failed"
    assert verdicts(said)[f"etcd main: {small_etcd.endpoints[0]}"] == "ok"
    assert "1 of " in said.err


@pytest.mark.parametrize(("alarm", "result", "code"), [("NOSPACE", "warning", 0), ("CORRUPT", "failed", 5)])
def test_an_alarm_is_told(
    bbr: Bbr, repository: Path, small_etcd: EtcdServers, alarm: str, result: str, code: int
) -> None:
    with small_etcd.client() as client:
        raise_alarm(client, client.status().member_id, "CORRUPT" if alarm == "CORRUPT" else "NOSPACE")
    said = bbr("doctor", "--endpoints", small_etcd.endpoints[0], "-o", "json")
    assert (said.code, verdicts(said)[f"etcd main: {small_etcd.endpoints[0]}"]) == (code, result)


def test_an_exposed_key_file_fails(bbr: Bbr, repository: Path, here: Path) -> None:
    (here / "keys" / "writer-m1.key").chmod(0o644)
    said = bbr("doctor", "-o", "json")
    assert (said.code, verdicts(said)["writer key"]) == (5, "failed")
    assert "chmod 600" in said.err


def test_a_writer_that_may_not_back_this_cluster_up_fails(bbr: Bbr, repository: Path) -> None:
    assert bbr("writer", "add", "m2", "--cluster", "other", "--identity", "keys/recovery-1.txt").code == 0
    said = bbr("doctor", "--writer-key", "writer-m2.key", "-o", "json")
    assert (said.code, verdicts(said)["writer"]) == (5, "failed")


def test_a_place_without_a_repository_fails_at_the_repository_only(bbr: Bbr, here: Path) -> None:
    (here / "empty").mkdir()
    said = bbr("doctor", "--repo", "empty", "--state-dir", "state", "-o", "json")
    assert said.code == 5
    assert (verdicts(said)["store"], verdicts(said)["repository"]) == ("ok", "failed")
    assert "bbr init" in said.err


def test_no_repository_named_fails_and_says_how_to_name_one(bbr: Bbr) -> None:
    said = bbr("doctor")
    assert (said.code, "give --repo URL" in said.err) == (5, True)


def test_programs_that_a_restore_will_lack_are_a_warning(
    bbr: Bbr, repository: Path, small_etcd: EtcdServers, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    said = bbr("doctor", "--endpoints", small_etcd.endpoints[0])
    assert said.code == 0
    assert "programs: a backup does not need it" in said.err


def test_a_store_that_does_not_answer_is_asked_once_and_the_repository_is_passed_over(
    bbr: Bbr, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def gone(address: str) -> Store:
        opened.append(address)
        raise StoreUnavailable("listing root/: no answer", hint="check that the store is reachable")

    for module in ("access", "checkup"):
        monkeypatch.setattr(f"bbr.cli.{module}.open_store", gone)
    said = bbr("doctor", "--repo", "anywhere", "--state-dir", "state", "-o", "json")
    assert said.code == 5
    checks = {check["name"]: check for check in said.json["checks"]}
    assert (checks["store"]["result"], checks["repository"]["result"]) == ("failed", "skipped")
    assert "for the reason above" in checks["repository"]["detail"]
    assert opened == ["anywhere"]


def test_a_store_that_may_only_be_read_is_still_read(
    bbr: Bbr, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(store: Store) -> Abilities:
        raise AccessDenied("writing probe/x: refused")

    monkeypatch.setattr("bbr.cli.checkup.probe", refused)
    said = bbr("doctor", "-o", "json")
    assert (verdicts(said)["store"], verdicts(said)["repository"]) == ("failed", "ok")


def test_the_next_command_carries_all_that_was_given(bbr: Bbr, repository: Path, small_etcd: EtcdServers) -> None:
    given = ("--writer-key", "keys/writer-m1.key", "--cluster", "prod", "--endpoints", small_etcd.endpoints[0])
    said = bbr("doctor", "--repo", "repository", "--state-dir", "state", *given)
    assert said.code == 0, said.err
    next_command = said.err.splitlines()[-1].split()
    assert next_command == ["bbr", "backup", "--repo", "repository", "--state-dir", "state", *given]
    assert bbr(*next_command[1:]).code == 0


def test_what_was_named_nowhere_is_left_open_in_the_next_command(bbr: Bbr, repository: Path, here: Path) -> None:
    (here / "bbr.yaml").unlink()
    said = bbr("doctor", "--repo", "repository", "--state-dir", "state")
    assert said.code == 0, said.err
    assert said.err.splitlines()[-1].endswith(
        "--writer-key FILE --endpoints URL --cacert FILE --cert FILE --key FILE --cluster NAME"
    )
