"""`bbr backup`, `list` and `show` against a real etcd, as a person runs them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.demo.keyspace import Keyspace, apply_changes
from bbr.etcd.write import put
from bbr.repository.state import State
from bbr.servers.etcd import EtcdServers, start_etcd
from bbr.servers.minio import MinioServer

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr


@pytest.fixture
def etcd(small_etcd: EtcdServers) -> EtcdServers:
    """An etcd with some objects in it."""
    with small_etcd.client() as client:
        apply_changes(client, Keyspace().create(300))
    return small_etcd


def test_the_first_backup_is_a_base_and_the_next_an_increment(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    flags = ("--endpoints", etcd.endpoints[0])
    first = bbr("backup", *flags, "-o", "json")
    assert first.code == 0, first.err
    assert first.json["schema"] == "bbr.backup/1"
    assert (first.json["status"], first.json["etcds"][0]["kind"]) == ("complete", "base")
    with etcd.client() as client:
        put(client, b"/registry/configmaps/default/new", b"value")
    second = bbr("backup", *flags, "-o", "json").json
    assert (second["etcds"][0]["kind"], second["why_base"]) == ("increment", "")
    assert second["stored_bytes"] < first.json["stored_bytes"] / 20
    listed = bbr("list", "-o", "json").json
    assert [one["id"] for one in listed["backups"]] == [first.json["id"], second["id"]]
    assert listed["findings"] == []
    assert [one["id"] for one in bbr("list", "--last", "1", "-o", "json").json["backups"]] == [second["id"]]


def test_a_new_generation_begins_with_a_base_when_it_is_asked_for(
    bbr: Bbr, repository: Path, etcd: EtcdServers
) -> None:
    flags = ("--endpoints", etcd.endpoints[0])
    first = bbr("backup", *flags, "-o", "json").json
    second = bbr("backup", *flags, "--new-generation", "-o", "json").json
    assert (second["etcds"][0]["kind"], second["sequence"]) == ("base", 0)
    assert second["generation"] != first["generation"]
    assert "asked for" in second["why_base"]


def test_the_summary_names_what_was_stored_and_the_next_command(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    said = bbr("backup", "--endpoints", etcd.endpoints[0])
    assert said.code == 0, said.err
    assert "etcd main        base at revision " in said.out
    backup_id = said.out.split()[1]
    assert backup_id.startswith("prod-")
    assert f"bbr verify {backup_id}" in said.err
    table = bbr("list").out.splitlines()
    assert table[0].split() == ["ID", "DONE", "STATUS", "KIND", "REVISION", "SNAPSHOT", "STORED"]
    assert table[1].startswith(backup_id)


def test_show_tells_the_chain_and_with_a_key_the_objects(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    ids = [bbr("backup", "--endpoints", etcd.endpoints[0], "-o", "json").json["id"] for _ in range(2)]
    shown = bbr("show", "latest", "-o", "json").json
    assert (shown["schema"], shown["backup_id"], shown["doubt"]) == ("bbr.show/1", ids[1], "")
    assert shown["chains"] == {"main": ids}
    assert shown["inventory"] is None
    opened = bbr("show", ids[0], "--identity", "keys/recovery-2.txt", "-o", "json").json
    assert sum(opened["inventory"]["main"].values()) == 300
    assert opened["inventory"]["main"]["/registry/namespaces/"] == 32
    table = bbr("show", ids[0], "--identity", "keys/recovery-2.txt").out
    assert "/registry/namespaces/" in table
    assert "writer      m1 (" in table


def test_a_backup_is_found_by_its_beginning_or_a_time(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    made = bbr("backup", "--endpoints", etcd.endpoints[0], "-o", "json").json["id"]
    for text in (made[:-2], "latest", made.removeprefix("prod-"), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"):
        assert bbr("show", text, "-o", "json").json["backup_id"] == made
    missing = bbr("show", "prod-19990101")
    assert (missing.code, made in missing.err) == (2, True)


def test_a_second_run_of_this_host_is_refused_with_11(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    folder = next((repository.parent / "state").glob("*/pin.json")).parent
    with State(folder, folder.name).run_lock("prod"):
        said = bbr("backup", "--endpoints", etcd.endpoints[0])
    assert (said.code, "another run of this host" in said.err) == (11, True)


def test_one_etcd_of_two_that_is_away_makes_a_partial_backup_that_ends_with_3(
    bbr: Bbr, repository: Path, etcd: EtcdServers, here: Path
) -> None:
    with (here / "bbr.yaml").open("a", encoding="utf-8") as file:
        file.write(f"etcd:\n  main: {{endpoints: ['{etcd.endpoints[0]}']}}\n")
        file.write("  events: {endpoints: ['http://127.0.0.1:1']}\n")
    said = bbr("backup", "-o", "json")
    assert said.code == 3
    assert said.json["status"] == "partial"
    assert "etcd events is missing" in said.json["reasons"][0]
    assert f"backup {said.json['id']} is committed, and partial" in said.err
    assert bbr("list", "-o", "json").json["backups"][0]["status"] == "partial"
    assert "partial" in bbr("backup").out


def test_no_etcd_that_answers_ends_with_1_and_names_the_endpoint(bbr: Bbr, repository: Path) -> None:
    said = bbr("backup", "--endpoints", "http://127.0.0.1:1")
    assert (said.code, "127.0.0.1:1" in said.err) == (1, True)
    assert bbr("list", "-o", "json").json["backups"] == []


def test_a_name_that_belongs_to_another_cluster_is_refused_with_5(
    bbr: Bbr, repository: Path, etcd: EtcdServers, etcd_binary: Path, here: Path
) -> None:
    assert bbr("backup", "--endpoints", etcd.endpoints[0]).code == 0
    with start_etcd(etcd_binary, here / "other", flags=["--unsafe-no-fsync"]) as other:
        with other.client() as client:
            apply_changes(client, Keyspace(seed=2).create(50))
        said = bbr("backup", "--endpoints", other.endpoints[0])
        assert (said.code, "belongs to cluster" in said.err) == (5, True)
        assert bbr("backup", "--endpoints", other.endpoints[0], "--accept-identity").code == 0


def test_members_that_are_not_asked_are_said_not_to_be(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    said = bbr("backup", "--endpoints", etcd.endpoints[0], "--no-compare", "-o", "json")
    assert said.code == 0, said.err
    assert said.json["etcds"][0]["compared"] is False


def test_without_a_writer_key_there_is_no_backup(bbr: Bbr, repository: Path, here: Path, etcd: EtcdServers) -> None:
    (here / "bbr.yaml").write_text("repository: repository\ncluster: prod\nstate_dir: state\n")
    said = bbr("backup", "--endpoints", etcd.endpoints[0])
    assert (said.code, "--writer-key FILE" in said.err) == (12, True)


def test_an_empty_repository_lists_nothing_and_says_what_to_do(bbr: Bbr, repository: Path) -> None:
    said = bbr("list")
    assert (said.code, said.out) == (0, "no backups\n")
    assert "bbr backup" in said.err


def test_what_is_wrong_with_a_manifest_is_a_warning_of_list(bbr: Bbr, repository: Path, etcd: EtcdServers) -> None:
    assert bbr("backup", "--endpoints", etcd.endpoints[0]).code == 0
    manifest = next(repository.glob("manifests/*/*/*"))
    manifest.write_bytes(manifest.read_bytes()[:-10])
    said = bbr("list", "-o", "json")
    assert said.code == 0
    assert said.json["backups"] == []
    assert manifest.name in said.json["findings"][0]["message"]
    assert said.err.startswith("warning: ")


def test_a_real_minio_takes_credentials_from_the_environment_only(
    bbr: Bbr, here: Path, etcd: EtcdServers, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    minio_server.create_bucket("bbr-cli")
    place = ("--repo", f"minio+{minio_server.endpoint}/bbr-cli/clusters", "--state-dir", "state")
    monkeypatch.setenv("MINIO_ACCESS_KEY", minio_server.access_key)
    monkeypatch.setenv("MINIO_SECRET_KEY", "wrong")
    assert bbr("init", *place, "--keys-dir", "keys", "--writer", "m1").code == 1
    assert not (here / "keys").exists()
    monkeypatch.setenv("MINIO_SECRET_KEY", minio_server.secret_key)
    made = bbr("init", *place, "--keys-dir", "keys", "--writer", "m1", "-o", "json")
    assert made.code == 0, made.err
    assert made.json["store"]["conditional_create"] is True
    flags = ("--writer-key", "keys/writer-m1.key", "--cluster", "prod", "--endpoints", etcd.endpoints[0])
    assert bbr("backup", *place, *flags).code == 0
    assert bbr("verify", "latest", *place).code == 0
    checks = {one["name"]: one["detail"] for one in bbr("doctor", *place, "-o", "json").json["checks"]}
    assert checks["store: versions"] == "off"
    assert checks["store: lifecycle rules"] == "none"
