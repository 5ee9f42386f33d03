"""HashKV and live counts over made-up histories, against the plainest reading of etcd's own source.

Real servers answer for few states (test_hashkv.py); here are thousands: compactions finished, interrupted, ahead of the
file, at a tombstone, with nothing left alive.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import pytest
from google_crc32c import extend
from hypothesis import given
from hypothesis import strategies as st

from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import KeyValue, RevisionKey
from bbr.etcd.scan import scan
from bbr.etcd.snapshot import Snapshot
from bbr.objects.keys import kubernetes_prefix


@dataclass(frozen=True, slots=True)
class Change:
    """One record, with the etcd key that it belongs to."""

    revision: RevisionKey
    key: bytes
    value: bytes


def live_through(chosen: random.Random) -> list[Change]:
    """Transactions of one to three puts and deletions; returns every record that was ever written."""
    names = [b"/registry/pods/ns%d/%d" % (at % 3, at) for at in range(chosen.choice((1, 2, 5, 20)))]
    history: list[Change] = []
    versions: dict[bytes, tuple[int, int]] = {}
    for main in range(2, chosen.randint(3, 60)):
        for sub, key in enumerate(chosen.sample(names, chosen.randint(1, min(3, len(names))))):
            if key in versions and chosen.random() < 0.45:
                del versions[key]
                history.append(Change(RevisionKey(main, sub, True), key, KeyValue(key).encode()))
                continue
            created, version = versions.get(key, (main, 0))
            versions[key] = created, version + 1
            record = KeyValue(key, created, main, version + 1, chosen.randbytes(chosen.choice((0, 5, 300, 6000))))
            history.append(Change(RevisionKey(main, sub), key, record.encode()))
    return history


def alive_at(history: list[Change], revision: int) -> set[RevisionKey]:
    """What key_index.go keeps at a revision."""
    newest = {change.key: change.revision for change in history if change.revision.main <= revision}
    return {own for own in newest.values() if not own.tombstone}


def compacted(history: list[Change], revision: int, stopped_at: int) -> list[Change]:
    """kvstore_compaction.go, interrupted after the records at ``stopped_at``. A tombstone at the revision stays."""
    keep = alive_at(history, revision) | {one.revision for one in history if one.revision.main == revision}
    # Of what was written at the revision itself, each is its key's newest.
    return [one for one in history if one.revision.main > min(stopped_at, revision) or one.revision in keep]


def server_hash(stored: list[Change], history: list[Change], revision: int, compact_revision: int) -> int:
    """hash.go, line by line."""
    keep = alive_at(history, revision)
    crc = int(extend(0, b"key"))
    for one in stored:
        own = one.revision
        if own.main > revision or (own.main <= compact_revision and keep and own not in keep):
            continue
        if own.main == compact_revision and own.tombstone:
            continue
        crc = int(extend(crc, own.encode() + one.value))
    return crc


def bolt(stored: list[Change], *, finished: int, scheduled: int) -> bytes:
    out = io.BytesIO()
    writer = BoltWriter(out, leaf_bytes=4096)
    for one in stored:
        writer.add(one.revision.encode(), one.value)
    names = {b"finishedCompactRev": finished, b"scheduledCompactRev": scheduled}
    writer.finish(b"key", {b"meta": [(name, RevisionKey(main, 0).encode()) for name, main in names.items() if main]})
    return out.getvalue()


@pytest.mark.parametrize("seed", range(40))
def test_hash_and_live_counts_are_what_etcd_would_say(seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(25):
        history = live_through(chosen)
        newest = history[-1].revision.main
        finished = scheduled = chosen.choice((0, chosen.randint(1, newest), newest))
        stored = compacted(history, finished, finished) if finished else history
        if finished < newest and chosen.random() < 0.4:
            scheduled = chosen.randint(finished + 1, newest)
            stored = compacted(stored, scheduled, chosen.randint(0, scheduled))
        data = bolt(stored, finished=finished, scheduled=scheduled)
        for _ in range(4):
            compact = chosen.randint(scheduled, newest)
            revision = chosen.randint(max(compact, 1), newest)
            expected = server_hash(stored, history, revision, compact)
            assert hash_kv(BoltReader(data), revision, compact) == expected
        snapshot = Snapshot(memoryview(data), "made")
        assert snapshot.revision == newest
        result = scan(snapshot, compact_revision=compact, seed=seed, group=kubernetes_prefix)
        assert result.hash_kv == server_hash(stored, history, newest, compact)
        alive = alive_at(history, newest)
        assert result.live == ({b"/registry/pods/": len(alive)} if alive else {})


def test_nothing_alive_leaves_out_only_the_tombstone_at_the_compaction() -> None:
    """etcd takes an empty set of what to keep for none (hash.go: "don't skip if there isn't one")."""
    key = b"/registry/pods/a/b"
    put = Change(RevisionKey(2, 0), key, KeyValue(key, 2, 2, 1, b"x").encode())
    deleted = Change(RevisionKey(3, 0, True), key, KeyValue(key).encode())
    whole = int(extend(extend(0, b"key"), put.revision.encode() + put.value))
    data = bolt([put, deleted], finished=2, scheduled=2)
    both = int(extend(whole, deleted.revision.encode() + deleted.value))
    assert hash_kv(BoltReader(data), 3, 2) == both
    assert hash_kv(BoltReader(data), 3, 3) == whole
    assert hash_kv(BoltReader(data), 3, 3, put_above=[b"new"]) == int(extend(0, b"key"))


@given(parts=st.lists(st.sampled_from([b"/", b"a", b".", b"registry", b"x.io"]), max_size=8))
def test_objects_are_counted_under_their_own_prefix(parts: list[bytes]) -> None:
    key = b"".join(parts) or b"x"
    data = bolt([Change(RevisionKey(2, 0), key, KeyValue(key, 2, 2, 1, b"v").encode())], finished=0, scheduled=0)
    result = scan(Snapshot(memoryview(data), "made"), compact_revision=0, seed=1, group=kubernetes_prefix)
    assert result.live == {kubernetes_prefix(key): 1}
