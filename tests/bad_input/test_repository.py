"""A repository that is not what it should be: each case has its message and exit code, and nothing is changed by it."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from bbr.repository.envelope import encode_envelope, sign
from bbr.repository.keyfiles import read_writer_key
from bbr.repository.keys import SigningKey
from bbr.repository.manifest import PAYLOAD_TYPE
from bbr.servers.etcd import EtcdServers
from tests.bad_input.conftest import Bbr, Host, snapshot_of


def manifests(host: Host) -> list[Path]:
    return host.objects("manifests/prod/*/*.manifest")


def parts(host: Host) -> list[Path]:
    return host.objects("clusters/prod/*/*.age")


def rewrite(path: Path, key: SigningKey, **changes: object) -> None:
    """Sign a manifest anew with other content, canonical as ever."""
    payload = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"])) | changes
    body = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(encode_envelope(sign(PAYLOAD_TYPE, body, [key])))


def check_refused(bbr: Bbr, host: Host, says: str, *, backup: str = "latest") -> None:
    """Verify names the damage, a restore of the backup is refused or yields another backup's truth; nothing changes."""
    before = snapshot_of(host.repository)
    verified = bbr("verify", *host.where())
    assert verified.code == 4
    assert says in verified.out + verified.err
    assert "hint:" in verified.err
    target = host.folder / "restored.db"
    if backup != "latest":
        restored = bbr(*host.restore(backup, "--to-snapshot", target))
        assert restored.code in (2, 4)
        assert not target.exists()
    assert snapshot_of(host.repository) == before


def newest_id(bbr: Bbr, host: Host) -> str:
    return str(json.loads(bbr("list", *host.where(), "-o", "json").out)["backups"][-1]["id"])


def test_missing_repository_is_exit_10(bbr: Bbr, tmp_path: Path) -> None:
    ended = bbr("list", "--repo", tmp_path, "--state-dir", tmp_path / "state")
    assert ended.code == 10
    assert "there is no repository at this address" in ended.err
    assert "bbr init" in ended.err


def test_missing_directory_is_named(bbr: Bbr, tmp_path: Path) -> None:
    ended = bbr("list", "--repo", tmp_path / "absent", "--state-dir", tmp_path / "state")
    assert ended.code == 1
    assert "absent" in ended.err
    assert "not a directory" in ended.err


def test_newer_format_is_exit_10(bbr: Bbr, host: Host) -> None:
    root = host.repository / "root" / "1.json"
    body = json.loads(root.read_bytes())
    body["payloadType"] = body["payloadType"].replace(".v1+", ".v2+")
    root.write_bytes(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    ended = bbr("list", "--repo", host.repository, "--state-dir", host.folder / "fresh")
    assert ended.code == 10
    assert "format 2" in ended.err
    assert "use a newer bbr" in ended.err


def test_another_repositorys_id_is_exit_10(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    ended = bbr("list", *host.where(), "--repository-id", "0" * 64)
    assert ended.code == 10
    assert "0" * 64 in ended.err


def test_repository_replaced_by_another_is_exit_10(bbr: Bbr, host: Host, tmp_path: Path) -> None:
    assert bbr("list", *host.where()).code == 0
    other = Host(tmp_path / "other")
    assert bbr("init", *other.where(), "--keys-dir", other.folder / "keys").code == 0
    shutil.rmtree(host.repository)
    shutil.copytree(other.repository, host.repository)
    ended = bbr("list", *host.where())
    assert ended.code == 10
    assert "the one expected" in ended.err


def test_root_lower_than_the_one_seen_is_exit_4(bbr: Bbr, host: Host) -> None:
    keys = ["--identity", host.identity, "--key-file", host.folder / "more.key"]
    assert bbr("writer", "add", "second", *host.where(), *keys).code == 0
    (host.repository / "root" / "2.json").unlink()
    ended = bbr("list", *host.where())
    assert ended.code == 4
    assert "the store shows root 1, but root 2 was seen before" in ended.err


def test_revoked_writer_is_exit_12_and_stores_nothing(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    assert bbr("writer", "revoke", "host", *host.where(), "--identity", host.identity).code == 0
    before = snapshot_of(host.repository)
    ended = bbr(*host.backup(etcd.endpoints))
    assert ended.code == 12
    assert "was revoked" in ended.err
    assert "bbr writer add" in ended.err
    assert snapshot_of(host.repository) == before


def test_manifest_with_a_bad_signature_is_named(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    path = manifests(host)[-1]
    body = json.loads(path.read_bytes())
    signature = bytearray(base64.b64decode(body["signatures"][0]["sig"]))
    signature[0] ^= 1
    body["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    path.write_bytes(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    check_refused(bbr, host, "the signature of", backup=backup)


def test_manifest_by_a_stranger_is_named(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    rewrite(manifests(host)[-1], SigningKey.generate())
    check_refused(bbr, host, "which is no writer of this repository", backup=backup)


def test_manifest_of_a_foreign_cluster_is_named(bbr: Bbr, host: Host) -> None:
    foreign = host.repository / "manifests" / "other" / manifests(host)[0].parent.name
    foreign.mkdir(parents=True)
    shutil.copy(manifests(host)[0], foreign / manifests(host)[0].name)
    check_refused(bbr, host, "it was made for cluster prod")


def test_manifest_with_a_wrong_sequence_is_named(bbr: Bbr, host: Host) -> None:
    path = manifests(host)[-1]
    path.rename(path.with_name(path.name.replace("000001-", "000007-")))
    check_refused(bbr, host, "it was made as sequence 1")


def test_manifest_replayed_in_another_generation_is_named(bbr: Bbr, host: Host) -> None:
    path = manifests(host)[-1]
    other = path.parent.with_name(path.parent.name[:-4] + "0000")
    other.mkdir()
    shutil.copy(path, other / path.name)
    check_refused(bbr, host, "it was made for generation")


def test_manifest_that_was_dropped_is_missed(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    manifests(host)[0].unlink()
    check_refused(bbr, host, "is gone", backup=backup)


def test_manifest_of_another_repository_is_named(bbr: Bbr, host: Host) -> None:
    key = read_writer_key(host.writer_key).key
    rewrite(manifests(host)[-1], key, repository_id="0" * 64)
    check_refused(bbr, host, "it was made for repository 0000")


def test_missing_part_is_exit_4(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    parts(host)[0].unlink()
    check_refused(bbr, host, "is missing from the store", backup=backup)


def test_swapped_parts_are_exit_4(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    first, second = parts(host)[0], parts(host)[2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    check_refused(bbr, host, first.name, backup=backup)


def test_truncated_part_is_exit_4(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    part = parts(host)[0]
    part.write_bytes(part.read_bytes()[:-1])
    check_refused(bbr, host, "its manifest says", backup=backup)


def test_too_large_part_is_exit_4(bbr: Bbr, host: Host) -> None:
    backup = newest_id(bbr, host)
    part = parts(host)[0]
    part.write_bytes(part.read_bytes() + b"\0")
    check_refused(bbr, host, "larger than", backup=backup)


@pytest.mark.parametrize("pattern", ["keys/*/*.age", "admin/*/*.age"])
def test_changed_sealed_key_is_exit_4(bbr: Bbr, host: Host, pattern: str) -> None:
    for sealed in host.objects(pattern):
        sealed.write_bytes(sealed.read_bytes()[:-1] + b"\0")
    check_refused(bbr, host, "sealed key")
