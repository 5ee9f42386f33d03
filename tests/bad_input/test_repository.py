"""A repository that is not what it should be: each case has its message and exit code, and nothing is changed by it."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from bbr.etcd.snapshot import Snapshot
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


def check_refused(bbr: Bbr, host: Host, says: str) -> None:
    """Verify names the damage in its report, and ends with 4; nothing changes."""
    before = snapshot_of(host.repository)
    verified = bbr("verify", *host.where())
    assert verified.code == 4
    assert says in verified.out
    assert " checks did not pass\n" in verified.err
    assert "  hint: `bbr list` shows the other backups; keep the store as it is until you know why\n" in verified.err
    assert snapshot_of(host.repository) == before


def check_not_restored(bbr: Bbr, host: Host, backup: str, code: int, says: str, hint: str = "") -> None:
    """A restore of this backup ends with that code and that message, and leaves nothing; nothing changes."""
    before = snapshot_of(host.repository)
    target = host.folder / "to" / "restored.db"
    target.parent.mkdir()
    restored = bbr(*host.restore(backup, "--to-snapshot", target))
    assert restored.code == code
    assert f"bbr: {says}" in restored.err
    assert hint in restored.err
    assert list(target.parent.iterdir()) == []
    target.parent.rmdir()
    assert snapshot_of(host.repository) == before


def check_restored(bbr: Bbr, host: Host, backup: str, revision: int) -> None:
    """A restore of this backup brings the truth of this backup."""
    target = host.folder / f"{backup}-{revision}.db"
    restored = bbr(*host.restore(backup, "--to-snapshot", target))
    assert restored.code == 0, restored.err
    with Snapshot.open(target) as snapshot:
        assert snapshot.revision == revision


def ids_and_revisions(bbr: Bbr, host: Host) -> list[tuple[str, int]]:
    """The base and the increment, each with its revision."""
    listed = json.loads(bbr("list", *host.where(), "-o", "json").out)["backups"]
    return [(str(one["id"]), int(one["etcds"][0]["revision"])) for one in listed]


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


def check_manifest_is_not_believed(bbr: Bbr, host: Host, says: str, *listed: tuple[str, int]) -> None:
    """Its backup is not listed, so there is none of that id; ``latest`` is the base, and that is restored."""
    (base, base_revision), (increment, _) = listed
    check_refused(bbr, host, says)
    check_not_restored(bbr, host, increment, 2, f"no backup is called '{increment}'\n", f"  hint: near it: {base}\n")
    check_restored(bbr, host, base, base_revision)
    check_restored(bbr, host, "latest", base_revision)


def test_manifest_with_a_bad_signature_is_named(bbr: Bbr, host: Host) -> None:
    listed = ids_and_revisions(bbr, host)
    path = manifests(host)[-1]
    body = json.loads(path.read_bytes())
    signature = bytearray(base64.b64decode(body["signatures"][0]["sig"]))
    signature[0] ^= 1
    body["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    path.write_bytes(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    check_manifest_is_not_believed(bbr, host, "the signature of", *listed)


def test_manifest_by_a_stranger_is_named(bbr: Bbr, host: Host) -> None:
    listed = ids_and_revisions(bbr, host)
    rewrite(manifests(host)[-1], SigningKey.generate())
    check_manifest_is_not_believed(bbr, host, "which is no writer of this repository", *listed)


def test_manifest_of_a_foreign_cluster_is_named(bbr: Bbr, host: Host) -> None:
    _, (increment, revision) = ids_and_revisions(bbr, host)
    foreign = host.repository / "manifests" / "other" / manifests(host)[0].parent.name
    foreign.mkdir(parents=True)
    shutil.copy(manifests(host)[0], foreign / manifests(host)[0].name)
    check_refused(bbr, host, "it was made for cluster prod")
    target = host.folder / "other.db"
    nothing = bbr(*host.restore("latest", "--cluster", "other", "--to-snapshot", target))
    assert nothing.code == 2
    assert "bbr: there is no backup of cluster other here\n  hint: clusters here: none\n" in nothing.err
    assert not target.exists()
    check_restored(bbr, host, increment, revision)


def test_manifest_with_a_wrong_sequence_is_named(bbr: Bbr, host: Host) -> None:
    listed = ids_and_revisions(bbr, host)
    path = manifests(host)[-1]
    path.rename(path.with_name(path.name.replace("000001-", "000007-")))
    check_manifest_is_not_believed(bbr, host, "it was made as sequence 1", *listed)


def test_manifest_signed_with_a_wrong_sequence_is_named(bbr: Bbr, host: Host) -> None:
    """By who holds the writer's key, parts and all: the chain tells. What it holds was taken, and is restored."""
    (base, base_revision), (increment, revision) = ids_and_revisions(bbr, host)
    path = manifests(host)[-1]
    payload = base64.b64decode(json.loads(path.read_bytes())["payload"]).decode().replace("/000001-", "/000007-")
    rewrite(path, read_writer_key(host.writer_key).key, **(json.loads(payload) | {"sequence": 7}))
    for moved in (path, *(part for part in parts(host) if part.name.startswith("000001-"))):
        moved.rename(moved.with_name(moved.name.replace("000001-", "000007-")))
    check_refused(bbr, host, "has sequence 7 after 0")
    check_restored(bbr, host, base, base_revision)
    check_restored(bbr, host, increment, revision)


def test_manifest_replayed_in_another_generation_is_named(bbr: Bbr, host: Host) -> None:
    (base, base_revision), (increment, revision) = ids_and_revisions(bbr, host)
    path = manifests(host)[-1]
    other = path.parent.with_name(path.parent.name[:-4] + "0000")
    other.mkdir()
    shutil.copy(path, other / path.name)
    check_refused(bbr, host, "it was made for generation")
    check_restored(bbr, host, base, base_revision)
    check_restored(bbr, host, increment, revision)
    check_restored(bbr, host, "latest", revision)


def test_manifest_replayed_in_place_of_a_newer_one_is_named(bbr: Bbr, host: Host) -> None:
    """The older one under the newer one's name: the newest backup would seem to be the older."""
    listed = ids_and_revisions(bbr, host)
    older, newer = manifests(host)
    shutil.copy(older, newer)
    check_manifest_is_not_believed(bbr, host, "it was made as sequence 0", *listed)


def test_manifest_that_was_dropped_is_missed(bbr: Bbr, host: Host) -> None:
    (base, _), (increment, _) = ids_and_revisions(bbr, host)
    manifests(host)[0].unlink()
    check_refused(bbr, host, "is gone")
    says = f"{increment} builds upon sequence 0 of generation "
    check_not_restored(bbr, host, increment, 4, says, "which is missing\n")
    check_not_restored(bbr, host, base, 2, f"no backup is called '{base}'\n", f"  hint: near it: {increment}\n")
    says = "no complete backup of cluster prod is without fault\n"
    check_not_restored(bbr, host, "latest", 2, says, f"  hint: the newest is {increment}: etcd main builds upon ")


def test_manifest_of_another_repository_is_named(bbr: Bbr, host: Host) -> None:
    listed = ids_and_revisions(bbr, host)
    rewrite(manifests(host)[-1], read_writer_key(host.writer_key).key, repository_id="0" * 64)
    check_manifest_is_not_believed(bbr, host, "it was made for repository 0000", *listed)


def check_part_is_refused(bbr: Bbr, host: Host, part: Path, says: str) -> None:
    """A damaged part of the base: whatever needs it is refused with 4, by its name."""
    name = part.relative_to(host.repository)
    check_refused(bbr, host, f"part {name} {says}")
    for backup in (*(one for one, _ in ids_and_revisions(bbr, host)), "latest"):
        check_not_restored(bbr, host, backup, 4, f"part {name} {says}")


def test_missing_part_is_exit_4(bbr: Bbr, host: Host) -> None:
    part = parts(host)[0]
    part.unlink()
    check_part_is_refused(bbr, host, part, "is missing from the store")


def test_swapped_parts_are_exit_4(bbr: Bbr, host: Host) -> None:
    """Of other sizes, so that the size tells."""
    first, second = parts(host)[0], parts(host)[2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    larger = len(two) > len(one)
    says = (
        f"is larger than the {len(one)} bytes" if larger else f"has {len(two):,} bytes; its manifest says {len(one):,}"
    )
    check_part_is_refused(bbr, host, first, says)


def test_part_swapped_for_one_of_its_size_is_exit_4(bbr: Bbr, host: Host) -> None:
    part = parts(host)[0]
    body = part.read_bytes()
    part.write_bytes(body[:-32] + bytes(32))
    check_part_is_refused(bbr, host, part, "is not what its manifest names: its SHA-256 differs")


def test_truncated_part_is_exit_4(bbr: Bbr, host: Host) -> None:
    part = parts(host)[0]
    body = part.read_bytes()
    part.write_bytes(body[:-1])
    says = f"has {len(body) - 1:,} bytes; its manifest says {len(body):,}"
    check_part_is_refused(bbr, host, part, says)


def test_too_large_part_is_exit_4(bbr: Bbr, host: Host) -> None:
    part = parts(host)[0]
    body = part.read_bytes()
    part.write_bytes(body + b"\0")
    check_part_is_refused(bbr, host, part, f"is larger than the {len(body)} bytes of its manifest")


@pytest.mark.parametrize("pattern", ["keys/*/*.age", "admin/*/*.age"])
def test_changed_sealed_key_is_exit_4(bbr: Bbr, host: Host, pattern: str) -> None:
    for sealed in host.objects(pattern):
        sealed.write_bytes(sealed.read_bytes()[:-1] + b"\0")
    check_refused(bbr, host, "sealed key")
