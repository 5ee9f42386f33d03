"""A file is compared with its server also where etcd answers from the memory of a compaction."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bbr.capture.examine import examine
from bbr.etcd import write
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.client import EtcdClient
from bbr.etcd.mvcc import RevisionKey
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import Etcdutl
from bbr.servers.etcd import EtcdServers, boot_etcd
from tests.conftest import DEFAULT_ETCD

PEER = "http://127.0.0.1:2380"


def test_idle_etcd_compacted_at_its_newest_revision_is_compared(small_etcd: EtcdServers, tmp_path: Path) -> None:
    """It stays so until the next write: without an answer here no backup would ever succeed."""
    path = tmp_path / "x.db"
    with small_etcd.client() as client:
        for number in range(20):
            write.put(client, b"/registry/pods/a/%d" % (number % 5), b"x")
        newest = client.status().revision
        write.compact(client, newest)
        assert client.hash_kv(newest).compact_revision < newest  # the hash that the compaction left behind
        spool(client, path)
        with Snapshot.open(path) as snapshot:
            examined = examine(snapshot, client, seed=1, compare=True)
        assert examined.compared
        assert (examined.compact_revision, examined.hash_kv) == (newest, client.hash_kv(0).hash)


@pytest.fixture
def compacted(small_etcd: EtcdServers) -> int:
    """The small etcd has 40 revisions of five keys, compacted at the one that is returned."""
    with small_etcd.client() as client:
        for number in range(40):
            revision = write.put(client, b"/registry/pods/a/%d" % (number % 5), b"%d" % number)
        write.compact(client, revision - 30)
    return revision - 30


def test_compaction_after_the_stream_does_not_change_what_is_promised(
    small_etcd: EtcdServers, compacted: int, etcd_binary: Path, etcdutl_binary: Path, tmp_path: Path
) -> None:
    """The server is asked after it compacted; a member that starts on the file knows nothing of that."""
    path = tmp_path / "x.db"
    with small_etcd.client() as client, Snapshot.open(spool(client, path)) as snapshot:
        write.compact(client, compacted + 10)
        assert client.hash_kv(snapshot.revision).compact_revision == compacted + 10
        examined = examine(snapshot, client, seed=1, compare=True)
        revision = snapshot.revision
    assert examined.compared
    assert examined.compact_revision == compacted
    assert booted_hash(path, revision, etcd_binary, etcdutl_binary) == examined.hash_kv


def test_compaction_unfinished_in_the_file_is_in_what_is_promised(
    small_etcd: EtcdServers, compacted: int, etcd_binary: Path, etcdutl_binary: Path, tmp_path: Path
) -> None:
    """A member that starts on the file takes it up again."""
    path = tmp_path / "unfinished.db"
    with small_etcd.client() as client, Snapshot.open(spool(client, tmp_path / "x.db")) as whole:
        schedule_compaction(whole, compacted + 10, path)
        with Snapshot.open(path) as snapshot:
            assert (snapshot.compact_revision, snapshot.scheduled_compact_revision) == (compacted, compacted + 10)
            examined = examine(snapshot, client, seed=1, compare=False)
            revision = snapshot.revision
            compared = examine(snapshot, client, seed=1, compare=True)
    assert examined.compact_revision == compared.compact_revision == compacted + 10
    assert booted_hash(path, revision, etcd_binary, etcdutl_binary) == examined.hash_kv == compared.hash_kv


def spool(client: EtcdClient, path: Path) -> Path:
    """A snapshot as the server sends it."""
    with path.open("wb") as out:
        for blob in client.snapshot():
            out.write(blob)
    return path


def schedule_compaction(snapshot: Snapshot, revision: int, path: Path) -> None:
    """Write the snapshot anew as it looks between the beginning of a compaction and its end."""
    buckets = snapshot.small_buckets()
    meta = dict(buckets[b"meta"]) | {b"scheduledCompactRev": RevisionKey(revision, 0).encode()}
    with path.open("w+b") as out:
        writer = BoltWriter(out)
        for key, value in snapshot.reader.items(b"key"):
            writer.add(key, value)
        writer.finish(b"key", buckets | {b"meta": sorted(meta.items())})
    path.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())


def booted_hash(path: Path, revision: int, etcd: Path, etcdutl: Path) -> int:
    """What a real member answers that starts on the snapshot, without a bump."""
    data_dir = path.with_suffix(".data")
    Etcdutl(etcdutl, DEFAULT_ETCD).restore(
        path,
        data_dir,
        name="scratch",
        initial_cluster=f"scratch={PEER}",
        peer_urls=PEER,
        token="scratch",
        bump=0,
        mark_compacted=False,
    )
    with boot_etcd(etcd, data_dir) as member, member.client() as client:
        return client.hash_kv(revision).hash
