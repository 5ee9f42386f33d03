"""A file is compared with its server also where etcd answers from the memory of a compaction."""

from __future__ import annotations

from pathlib import Path

from bbr.capture.examine import examine
from bbr.etcd import write
from bbr.etcd.snapshot import Snapshot
from bbr.servers.etcd import EtcdServers


def test_idle_etcd_compacted_at_its_newest_revision_is_compared(small_etcd: EtcdServers, tmp_path: Path) -> None:
    """It stays so until the next write: without an answer here no backup would ever succeed."""
    path = tmp_path / "x.db"
    with small_etcd.client() as client:
        for number in range(20):
            write.put(client, b"/registry/pods/a/%d" % (number % 5), b"x")
        newest = client.status().revision
        write.compact(client, newest)
        assert client.hash_kv(newest).compact_revision < newest  # the hash that the compaction left behind
        with path.open("wb") as out:
            for blob in client.snapshot():
                out.write(blob)
        with Snapshot.open(path) as snapshot:
            examined = examine(snapshot, client, seed=1, compare=True)
        assert examined.compared
        assert (examined.compact_revision, examined.hash_kv) == (newest, client.hash_kv(0).hash)
