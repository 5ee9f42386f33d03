"""The hash that is promised for a bumped member, also where all its keys are deleted, or it was bumped before."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.etcd.client import EtcdClient
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import find_etcdutl
from bbr.servers.etcd import EtcdServers, boot_etcd
from restore.etcd import bumped_hash_kv

BUMP = 1000
PEER = "http://127.0.0.1:1"


def save(client: EtcdClient, file: Path) -> None:
    """A snapshot of what a member serves."""
    with file.open("wb") as out:
        for blob in client.snapshot():
            out.write(blob)


@pytest.mark.parametrize("deleted", [1, 3], ids=["one deleted", "nothing alive"])
def test_bumped_member_answers_as_promised(
    deleted: int, small_etcd: EtcdServers, etcd_binary: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.db"
    with small_etcd.client() as client:
        for number in range(3):
            write.put(client, b"/registry/pods/a/%d" % number, b"x")
        write.compact(client, client.status().revision)
        for number in range(deleted):
            write.delete(client, b"/registry/pods/a/%d" % number)
        save(client, file)
    with Snapshot.open(file) as snapshot:
        bumped = snapshot.revision + BUMP
        promised = bumped_hash_kv(snapshot, bumped)
    etcdutl = find_etcdutl([etcd_binary.parent], server_version="3.6")
    etcdutl.restore(file, tmp_path / "d", name="m", initial_cluster=f"m={PEER}", peer_urls=PEER, token="t", bump=BUMP)
    with boot_etcd(etcd_binary, tmp_path / "d", name="m") as member, member.client() as client:
        assert client.hash_kv(bumped).hash == promised


def test_member_that_was_restored_before_answers_as_promised(
    small_etcd: EtcdServers, etcd_binary: Path, tmp_path: Path
) -> None:
    etcdutl = find_etcdutl([etcd_binary.parent], server_version="3.6")
    with small_etcd.client() as client:
        write.put(client, b"/registry/pods/a/1", b"x")
        save(client, tmp_path / "first.db")
    etcdutl.restore(
        tmp_path / "first.db",
        tmp_path / "1",
        name="m",
        initial_cluster=f"m={PEER}",
        peer_urls=PEER,
        token="t",
        bump=BUMP,
    )
    with boot_etcd(etcd_binary, tmp_path / "1", name="m") as member, member.client() as client:
        write.put(client, b"/registry/pods/a/2", b"x")
        save(client, tmp_path / "second.db")
    with Snapshot.open(tmp_path / "second.db") as snapshot:
        bumped = snapshot.revision + BUMP
        promised = bumped_hash_kv(snapshot, bumped)
    etcdutl.restore(
        tmp_path / "second.db",
        tmp_path / "2",
        name="m",
        initial_cluster=f"m={PEER}",
        peer_urls=PEER,
        token="u",
        bump=BUMP,
    )
    with boot_etcd(etcd_binary, tmp_path / "2", name="m") as member, member.client() as client:
        assert client.hash_kv(bumped).hash == promised
