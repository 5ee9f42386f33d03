"""One etcd back from its backup, in two forms: a snapshot file that any etcd tool takes, or a member's data directory.

A data directory is made by the fitting `etcdutl`, never by our code, and always with a revision bump and everything
before it marked compacted: without the bump, clients that saw later revisions would watch in silence
(kubernetes#107457); with it they are told at once to list anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google_crc32c import extend

from bbr.errors import UsageError
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import RevisionKey
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import Etcdutl
from bbr.progress import Progress
from bbr.rebuild import Rebuilt, rebuild
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.scratch import scratch_folder
from restore.target import check_parent, find_workplace, put_in_place

DEFAULT_BUMP = 1_000_000_000
"""Revisions to skip, as etcd's documentation advises: more than any client can have seen since the backup."""

FIRST_REFUSED_REVISION = 2**62
"""etcd counts revisions up to 2^63-1 and does not look; from here on none is handed out, so that half is left."""

BUMP_KEY = b""
"""The etcd key of the record that `etcdutl` puts under a bumped revision: no client can have one of this name."""

WAL_BYTES = 64 * 1024 * 1024
"""What `etcdutl snapshot restore` allocates for the write-ahead log, in bytes."""


@dataclass(frozen=True, slots=True)
class Member:
    """The member that a data directory is made for, in the words of etcd's own flags."""

    name: str
    initial_cluster: str
    peer_urls: str
    token: str


@dataclass(frozen=True, slots=True)
class Restored:
    """A data directory. ``bumped_hash_kv`` is what the booted member will answer at ``bumped_revision``."""

    data_dir: Path
    rebuilt: Rebuilt
    etcdutl: Etcdutl
    bump: int
    bumped_revision: int
    bumped_hash_kv: int


def to_snapshot(archive: Archive, backup: Backup, etcd: str, target: Path, *, progress: Progress) -> Rebuilt:
    """Write a snapshot file that any etcd tool takes. ``target`` must not exist, the folder that it is in must.

    Raises `UsageError`, or as `rebuild` does.
    """
    check_parent(target)
    return rebuild(archive, backup, etcd, target, progress=progress)


def to_data_dir(
    archive: Archive,
    backup: Backup,
    etcd: str,
    target: Path,
    *,
    member: Member,
    etcdutl: Etcdutl,
    progress: Progress,
    bump: int = DEFAULT_BUMP,
) -> Restored:
    """Make one member's data directory. ``target`` must be missing or empty; it appears whole or not at all.

    An empty ``target`` keeps its owner, group and mode, and what is in it gets that owner and group; a new one is 0700.
    Raises `UsageError` for a ``bump`` that etcd could not count, `TargetNotEmpty`, `ToolMissing`, or as `rebuild` does;
    all but what fetching and `etcdutl` find are found before anything is fetched.
    """
    entry = backup.manifest.etcd(etcd)
    _check_bump(entry.revision, bump)
    workplace = find_workplace(target)
    with scratch_folder(workplace, needed_bytes=2 * entry.snapshot_bytes + WAL_BYTES) as scratch:
        rebuilt = rebuild(archive, backup, etcd, scratch / "snapshot.db", progress=progress)
        progress.step(f"making the data directory with etcdutl {etcdutl.version}")
        etcdutl.restore(
            rebuilt.path,
            scratch / "data",
            name=member.name,
            initial_cluster=member.initial_cluster,
            peer_urls=member.peer_urls,
            token=member.token,
            bump=bump,
            mark_compacted=True,
        )
        bumped = rebuilt.revision + bump
        with Snapshot.open(rebuilt.path) as snapshot:
            bumped_hash = bumped_hash_kv(snapshot, bumped)
        # Before the rename: nobody sweeps a folder that an etcd runs on, if this run ends right after it.
        rebuilt.path.unlink()
        put_in_place(scratch / "data", target, workplace=workplace, warn=progress.warn)
        return Restored(target, rebuilt, etcdutl, bump, bumped, bumped_hash)


def default_token(backup: Backup) -> str:
    """The cluster token when none is given: the same on every host that restores this backup, and no other's."""
    return f"bbr-{backup.manifest.backup_id}"


def bumped_hash_kv(snapshot: Snapshot, bumped_revision: int) -> int:
    """What a member answers after the bump: everything compacted, and the empty record that `etcdutl` puts on top.

    Source: etcdutl's ``modifyLatestRevision`` puts an empty value under the bumped revision and schedules a compaction
    at it; a record at or below the compact revision counts only when it is its key's live version. To etcd the empty
    record is a key that lives, whose name is empty; the one of an earlier restore is its older version.
    """
    live = hash_kv(snapshot.reader, snapshot.revision, snapshot.revision, put_above=(BUMP_KEY,))
    return int(extend(live, RevisionKey(bumped_revision, 0, tombstone=False).encode()))


def _check_bump(revision: int, bump: int) -> None:
    if revision + bump >= FIRST_REFUSED_REVISION:
        raise UsageError(
            f"--bump-revision {bump} on revision {revision} leads to {revision + bump}; it must stay below 2^62, "
            "because etcd cannot count beyond 2^63-1",
            hint=f"give a smaller one: {DEFAULT_BUMP} is more than clients can have seen since a backup",
        )
