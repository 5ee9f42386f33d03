"""The hash that is promised for a bumped member, also where every key of the snapshot is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import find_etcdutl
from bbr.servers.etcd import EtcdServers, boot_etcd
from restore.etcd import bumped_hash_kv

BUMP = 1000
PEER = "http://127.0.0.1:1"


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
        with file.open("wb") as out:
            for blob in client.snapshot():
                out.write(blob)
    with Snapshot.open(file) as snapshot:
        bumped = snapshot.revision + BUMP
        promised = bumped_hash_kv(snapshot, bumped)
    etcdutl = find_etcdutl([etcd_binary.parent], server_version="3.6")
    etcdutl.restore(file, tmp_path / "d", name="m", initial_cluster=f"m={PEER}", peer_urls=PEER, token="t", bump=BUMP)
    with boot_etcd(etcd_binary, tmp_path / "d", name="m") as member, member.client() as client:
        assert client.hash_kv(bumped).hash == promised
