"""A captured snapshot, read once and compared with the server that sent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bbr.errors import EtcdCompacted, HashMismatch
from bbr.etcd.client import EtcdClient
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.scan import Scan, scan
from bbr.etcd.snapshot import Snapshot
from bbr.objects.keys import kubernetes_prefix
from bbr.threads import pool


@dataclass(frozen=True, slots=True)
class Examined:
    """``hash_kv`` is the file's, at its own revision and at ``compact_revision``: as a member on it answers.

    If ``compared``, file and server agreed, at the compact revision that the server had by then.
    """

    scan: Scan
    hash_kv: int
    compact_revision: int
    compared: bool


def examine(snapshot: Snapshot, source: EtcdClient, *, seed: int, compare: bool) -> Examined:
    """Scan a snapshot, and ask the member it came from for its HashKV at the snapshot's revision, both at once.

    Raises `HashMismatch` when file and server differ, `EtcdCompacted` when the server compacted past the snapshot
    meanwhile (take it again), and what the client raises.
    """
    finished = snapshot.compact_revision
    with pool(1, "hashkv") as threads:
        asked = threads.submit(source.hash_kv, snapshot.revision) if compare else None
        scanned = scan(snapshot, compact_revision=finished, seed=seed, group=kubernetes_prefix)
        if asked is None:
            return _examined(snapshot, scanned, {finished: scanned.hash_kv}, compared=False)
        answer = asked.result()
    if answer.compact_revision > snapshot.revision:
        raise EtcdCompacted(f"{source.endpoint} compacted past revision {snapshot.revision} while it was read")
    if answer.compact_revision < finished:
        # Compacted at its newest revision, etcd answers for it with the hash of that compaction, over records that are
        # gone (its hashStorage). Asked for whatever is newest, it computes.
        newest = source.hash_kv(0)
        if newest.revision == snapshot.revision:
            answer = newest
    # The server may have compacted after the stream ended; the file holds a superset, so it can follow.
    compact = max(answer.compact_revision, finished)
    own = scanned.hash_kv if compact == finished else hash_kv(snapshot.reader, snapshot.revision, compact)
    if own != answer.hash:
        # Once compacted past this revision, etcd answers with the hash of that compaction instead (its hashStorage).
        if source.hash_kv(0).compact_revision >= snapshot.revision:
            raise EtcdCompacted(f"{source.endpoint} compacted past revision {snapshot.revision} while it was read")
        raise HashMismatch(
            f"the snapshot that {source.endpoint} sent has HashKV {own} at revision {snapshot.revision}, "
            f"the server itself answers {answer.hash}",
            hint="run the backup again; if it stays, check this member's disk and back up another member",
        )
    return _examined(snapshot, scanned, {finished: scanned.hash_kv, compact: own}, compared=True)


def _examined(snapshot: Snapshot, scanned: Scan, known: Mapping[int, int], *, compared: bool) -> Examined:
    """What the manifest promises: a member that starts on the file knows of no later compaction than the file does.

    One that the file holds unfinished counts: etcd takes it up again when it starts (its ``store.restore``).
    """
    compact = max(snapshot.compact_revision, snapshot.scheduled_compact_revision)
    own = known[compact] if compact in known else hash_kv(snapshot.reader, snapshot.revision, compact)
    return Examined(scanned, own, compact, compared)
