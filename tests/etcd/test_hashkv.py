"""HashKV and scan against real servers: every revision that a server answers for, over files that saw real life."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bbr.errors import SnapshotDamaged
from bbr.etcd import write
from bbr.etcd.client import EtcdClient
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import KeyValue, RevisionKey
from bbr.etcd.scan import scan
from bbr.etcd.snapshot import Snapshot
from bbr.objects.keys import kubernetes_prefix
from bbr.servers.etcd import EtcdServers


def live_through(client: EtcdClient, rounds: int, seed: int) -> None:
    """Puts, transactions, deletions, leases, large values, and now and then a compaction or a defragmentation."""
    chosen = random.Random(seed)
    lease = write.lease_grant(client, 3600)
    for number in range(rounds):
        names = [b"/registry/pods/ns/%d" % chosen.randrange(60) for _ in range(8)]
        puts = {name: chosen.randbytes(chosen.randrange(3000)) for name in names[:5]}
        write.txn(client, puts, set(names[5:]) - puts.keys())
        write.put(client, b"/registry/leases/%d" % number, b"held", lease=lease)
        if number % 7 == 0:
            write.put(client, b"/registry/configmaps/large", chosen.randbytes(1_200_000))
        if number % 11 == 10:
            write.compact(client, client.status().revision - chosen.randrange(4))
        if number % 29 == 28:
            write.defragment(client)


@pytest.fixture(scope="module")
def lived(module_etcd: EtcdServers) -> Iterator[EtcdClient]:
    """A client of an etcd that has seen much."""
    with module_etcd.client() as client:
        live_through(client, 60, seed=1)
        yield client


def take(client: EtcdClient, path: Path) -> Path:
    with path.open("wb") as out:
        for blob in client.snapshot():
            out.write(blob)
    return path


def test_every_revision_has_the_servers_hash(lived: EtcdClient, tmp_path: Path) -> None:
    with Snapshot.open(take(lived, tmp_path / "x.db")) as snapshot:
        snapshot.check_trailer()
        assert snapshot.revision == lived.status().revision
        answered = 0
        # At or below its compact revision etcd refuses, or answers with the hash that it kept of a compaction.
        compacted = lived.hash_kv(0).compact_revision
        for revision in range(snapshot.revision, compacted, -1):
            answer = lived.hash_kv(revision)
            assert hash_kv(snapshot.reader, revision, answer.compact_revision) == answer.hash
            answered += 1
        assert answered > 3


def test_hash_follows_a_compaction_that_came_after_the_file(lived: EtcdClient, tmp_path: Path) -> None:
    path = take(lived, tmp_path / "x.db")
    with Snapshot.open(path) as snapshot:
        write.put(lived, b"/registry/pods/ns/after", b"x")
        write.compact(lived, snapshot.revision - 1)
        answer = lived.hash_kv(snapshot.revision)
        assert answer.compact_revision > snapshot.compact_revision
        assert hash_kv(snapshot.reader, snapshot.revision, answer.compact_revision) == answer.hash


def test_scan_says_the_same_as_the_plainest_loop(lived: EtcdClient, tmp_path: Path) -> None:
    with Snapshot.open(take(lived, tmp_path / "x.db")) as snapshot:
        for compact in (snapshot.compact_revision, snapshot.revision - 1):
            result = scan(snapshot, compact_revision=compact, seed=5, group=kubernetes_prefix)
            records = [(bytes(key), bytes(value)) for key, value in snapshot.reader.items(b"key")]
            assert result.revisions == b"".join(key[:17] for key, _ in records)
            assert len(result.digests) == len(records)
            assert len(set(result.digests)) == len(records)
            assert result.hash_kv == hash_kv(snapshot.reader, snapshot.revision, compact)
            newest = {KeyValue.decode(value).key: RevisionKey.decode(key).tombstone for key, value in records}
            alive = Counter(kubernetes_prefix(key) for key, gone in newest.items() if not gone)
            assert result.live == dict(alive)
        other = scan(snapshot, compact_revision=snapshot.compact_revision, seed=6, group=kubernetes_prefix)
        assert isinstance(other.digests, array)
        assert set(other.digests).isdisjoint(result.digests)


def test_small_buckets_are_whole(lived: EtcdClient, tmp_path: Path) -> None:
    with Snapshot.open(take(lived, tmp_path / "x.db")) as snapshot:
        small = snapshot.small_buckets()
    assert {b"meta", b"lease", b"members", b"cluster", b"auth", b"alarm"} <= small.keys()
    assert b"key" not in small
    assert len(small[b"lease"]) == 1
    assert dict(small[b"meta"])[b"consistent_index"]


@pytest.mark.parametrize("damage", ["cut", "flip", "no trailer", "empty"])
def test_damaged_snapshot_file_is_refused(lived: EtcdClient, tmp_path: Path, damage: str) -> None:
    path = take(lived, tmp_path / "x.db")
    body = bytearray(path.read_bytes())
    if damage == "cut":
        del body[-5000:]
    elif damage == "flip":
        body[len(body) // 2] ^= 1
    elif damage == "no trailer":
        del body[-32:]
    else:
        body.clear()
    path.write_bytes(body)
    with pytest.raises(SnapshotDamaged) as raised, Snapshot.open(path) as snapshot:
        snapshot.check_trailer()
    assert raised.value.exit_code == 4
