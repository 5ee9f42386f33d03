"""Files that real servers wrote in every state they come in, and files that real servers must take from us."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.client import EtcdClient
from bbr.etcd.granted import granted_leases
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import KEY_BUCKET
from bbr.etcd.scan import scan
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import find_etcdutl
from bbr.objects.keys import kubernetes_prefix
from bbr.servers.etcd import EtcdServers, boot_etcd, start_etcd

WAIT = timedelta(seconds=20)


def take(client: EtcdClient, path: Path) -> Path:
    with path.open("wb") as out:
        for blob in client.snapshot():
            out.write(blob)
    return path


def wait_for(seen: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT.total_seconds()
    while not seen():
        assert time.monotonic() < deadline, f"waited {WAIT} for {what}"


def finished(client: EtcdClient, path: Path) -> int:
    with Snapshot.open(take(client, path)) as snapshot:
        return snapshot.compact_revision


def puts(client: EtcdClient, count: int, *, names: int) -> None:
    for number in range(count):
        write.put(client, b"/registry/pods/a/%d" % (number % names), os.urandom(number % 900))


def check_hash(client: EtcdClient, path: Path) -> None:
    """Hash offline is what the server says of its newest revision, and the scan counts what the server has."""
    with Snapshot.open(take(client, path)) as snapshot:
        snapshot.check_trailer()
        snapshot.reader.check()
        answer = client.hash_kv(0)
        assert answer.revision == snapshot.revision
        assert hash_kv(snapshot.reader, snapshot.revision, answer.compact_revision) == answer.hash
        result = scan(snapshot, compact_revision=answer.compact_revision, seed=3, group=kubernetes_prefix)
        assert result.hash_kv == answer.hash
        assert sum(result.live.values()) == client.range(b"\0", b"\0", keys_only=True, limit=1).count


def test_nothing_alive(small_etcd: EtcdServers, tmp_path: Path) -> None:
    with small_etcd.client() as client:
        puts(client, 6, names=3)
        write.compact(client, client.status().revision)
        for number in range(3):
            write.delete(client, b"/registry/pods/a/%d" % number)
        check_hash(client, tmp_path / "x.db")


def test_compacted_at_its_newest_revision(small_etcd: EtcdServers, tmp_path: Path) -> None:
    with small_etcd.client() as client:
        puts(client, 40, names=5)
        write.delete(client, b"/registry/pods/a/1")
        write.compact(client, client.status().revision)
        check_hash(client, tmp_path / "x.db")


def test_compaction_in_progress(etcd_binary: Path, tmp_path: Path) -> None:
    """Batches of ten with a pause between them: the stream catches it half done."""
    flags = ("--compaction-batch-limit", "10", "--compaction-sleep-interval", "100ms")
    with start_etcd(etcd_binary, tmp_path / "etcd", flags=flags) as servers, servers.client() as client:
        puts(client, 600, names=20)
        write.compact(client, client.status().revision - 3, physical=False)
        with Snapshot.open(take(client, tmp_path / "x.db")) as snapshot:
            assert snapshot.scheduled_compact_revision > snapshot.compact_revision
        check_hash(client, tmp_path / "x.db")
        wait_for(lambda: finished(client, tmp_path / "y.db") > 0, "the compaction's end")
        check_hash(client, tmp_path / "x.db")


def test_auth_alarms_leases_and_defragmentation(small_etcd: EtcdServers, etcdctl_binary: Path, tmp_path: Path) -> None:
    def etcdctl(*words: str) -> None:
        command = [str(etcdctl_binary), "--endpoints", small_etcd.endpoints[0], *words]
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    with small_etcd.client() as client:
        for words in (("user", "add", "root:word"), ("user", "grant-role", "root", "root"), ("role", "add", "reader")):
            etcdctl(*words)
        lease = write.lease_grant(client, 3600)
        write.put(client, b"/registry/leases/a", b"x", lease=lease)
        write.put(client, b"/registry/configmaps/large", os.urandom(1_300_000))
        puts(client, 300, names=40)
        write.raise_alarm(client, client.status().member_id, "CORRUPT")
        with Snapshot.open(take(client, tmp_path / "x.db")) as snapshot:
            small = snapshot.small_buckets()
            snapshot.reader.check()
            assert granted_leases(snapshot.reader) == {lease: 3600}
        assert [name for name, _ in small[b"authUsers"]] == [b"root"]
        assert [name for name, _ in small[b"authRoles"]] == [b"reader"]  # that of root is built in
        assert len(small[b"alarm"]) == 1
        write.disarm(client, client.status().member_id, "CORRUPT")
        for _ in range(3):
            puts(client, 60, names=10)
            write.compact(client, client.status().revision - 5)
            check_hash(client, tmp_path / "x.db")
        write.defragment(client)
        check_hash(client, tmp_path / "x.db")


def rewritten(snapshot: Snapshot, page_size: int) -> bytes:
    """The same content, record by record, in pages of another size."""
    out = io.BytesIO()
    writer = BoltWriter(out, page_size=page_size)
    for key, value in snapshot.reader.items(KEY_BUCKET):
        writer.add(key, value)
    writer.finish(KEY_BUCKET, snapshot.small_buckets())
    return out.getvalue()


def kept(snapshot: Snapshot, path: Path) -> bytes:
    """The same content, its leaf pages left where they lie."""
    path.write_bytes(snapshot.whole[: snapshot.size_bytes])
    with path.open("r+b") as out:
        writer = BoltWriter(out, onto=BoltReader(snapshot.whole[: snapshot.size_bytes]))
        writer.keep_bucket(snapshot.reader, KEY_BUCKET)
        size = writer.finish(KEY_BUCKET, snapshot.small_buckets())
        out.truncate(size)
    return path.read_bytes()


@pytest.mark.parametrize("way", ["4096", "16384", "65536", "kept"])
def test_etcd_lives_on_with_a_file_that_we_wrote(
    way: str, small_etcd: EtcdServers, etcd_binary: Path, tmp_path: Path
) -> None:
    """`etcdutl snapshot restore` with its hash check, boot, equal HashKV, then puts, compaction, defragmentation.

    bbolt takes the page size from the meta, whatever this machine's is.
    """
    with small_etcd.client() as client:
        puts(client, 500, names=90)
        write.put(client, b"/registry/configmaps/large", os.urandom(1_300_000))
        write.lease_grant(client, 3600)
        write.compact(client, client.status().revision - 100)
        expected = client.hash_kv(0)
        with Snapshot.open(take(client, tmp_path / "x.db")) as snapshot:
            data = kept(snapshot, tmp_path / "kept.db") if way == "kept" else rewritten(snapshot, int(way))
    reader = BoltReader(data)
    reader.check()
    assert reader.page_size == (4096 if way == "kept" else int(way))
    file = tmp_path / "written.db"
    file.write_bytes(data + hashlib.sha256(data).digest())
    etcdutl = find_etcdutl([etcd_binary.parent], server_version="3.6")
    etcdutl.restore(
        file,
        tmp_path / "data",
        name="scratch",
        initial_cluster="scratch=http://127.0.0.1:1",
        peer_urls="http://127.0.0.1:1",
        token="t",
        bump=0,
        mark_compacted=False,
    )
    with boot_etcd(etcd_binary, tmp_path / "data") as member, member.client() as client:
        assert client.hash_kv(expected.revision).hash == expected.hash
        puts(client, 200, names=90)
        check_hash(client, tmp_path / "y.db")
        write.compact(client, client.status().revision - 20)
        write.defragment(client)
        puts(client, 50, names=90)
        check_hash(client, tmp_path / "y.db")
