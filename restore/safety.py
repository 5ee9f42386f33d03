"""What a restore saved of the etcd that it replaced, as something to restore: the way back when there is no undo.

It is restored as a backup is, in place, by a plan of its own. Only the etcd comes from the file; what a plan must know
of the cluster comes from the backup that the first restore was made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bbr.errors import Drift, HashMismatch, PreconditionFailed, UsageError
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.snapshot import Snapshot
from bbr.rebuild import Rebuilt
from restore.journal import past_of
from restore.plan import EtcdSource, Plan
from restore.runfolder import PLAN, RUNS, RunFolder
from restore.steps.members import SAFETY, SaveWhatIsThere

PREFIX = "safety:"
"""Before a run's name, where a backup's id could stand."""


@dataclass(frozen=True, slots=True)
class Safety:
    """A safety snapshot. ``plan`` is of the restore that saved it."""

    plan: Plan
    etcd: EtcdSource
    taken_at: datetime

    @property
    def highest_revision(self) -> int:
        """What clients can have seen in the restore that is taken back, before they wrote anything."""
        return self.plan.source.etcd.revision + self.plan.choices.bump


def find_safety(state_dir: Path, run: str) -> Safety:
    """The safety snapshot of a run, checked. Raises `UsageError`, `PreconditionFailed`, `SnapshotDamaged`.

    Its restore must be finished: until then manifests may lie aside that only that restore puts back.
    """
    known = sorted(path.parent.name for path in (state_dir / RUNS).glob(f"*/{PLAN}"))
    if run not in known:
        raise UsageError(f"no restore {run} was made from this host", hint=f"it knows: {', '.join(known) or 'none'}")
    folder = RunFolder(state_dir / RUNS / run)
    entries = folder.journal.read()
    past = past_of(entries)
    if past.is_undone:
        raise PreconditionFailed(f"the restore {run} was undone: what was there before it is back already")
    if not past.is_finished:
        raise PreconditionFailed(
            f"the restore {run} is not finished",
            hint="before its point of no return: `bbr restore undo`; after it: `bbr restore apply` first",
        )
    saved_at = [entry.time for entry in entries if entry.step == SaveWhatIsThere.name and entry.event != "begun"]
    if not saved_at or not (folder.path / SAFETY).exists():
        raise PreconditionFailed(
            f"the restore {run} has no safety snapshot: no etcd served when it began, it was of another kind, or "
            "`bbr restore clean` removed it",
            hint="the old data directories lie beside etcd's, with the run's name, until they are cleaned",
        )
    plan = folder.plan()
    found = read_safety(folder.path / SAFETY)
    etcd = EtcdSource(
        name=plan.source.etcd.name,
        revision=found.revision,
        compact_revision=found.compact_revision,
        hash_kv=found.hash_kv,
        server_version=plan.source.etcd.server_version,
        snapshot_bytes=found.size_bytes,
    )
    return Safety(plan, etcd, saved_at[-1].replace(microsecond=0))


def planned_safety(folder: Path, plan: Plan) -> Rebuilt:
    """The snapshot of a plan that was made of one. ``folder`` is any run's. Raises `Drift`, `HashMismatch`."""
    path = folder.parent / plan.source.safety_run / SAFETY
    if not path.exists():
        raise Drift(f"{path} is gone: the restore {plan.source.safety_run} was cleaned")
    found = read_safety(path)
    if (found.revision, found.hash_kv) != (plan.source.etcd.revision, plan.source.etcd.hash_kv):
        raise HashMismatch(f"{path} is not what was planned with: HashKV {found.hash_kv} at {found.revision}")
    return found


def read_safety(path: Path) -> Rebuilt:
    """Check a snapshot file, and say what is in it. Raises `SnapshotDamaged`."""
    with Snapshot.open(path) as snapshot:
        snapshot.check_trailer()
        # A member that starts on it first finishes a compaction that was only scheduled.
        compact_revision = max(snapshot.compact_revision, snapshot.scheduled_compact_revision)
        return Rebuilt(
            path=path,
            revision=snapshot.revision,
            compact_revision=compact_revision,
            hash_kv=hash_kv(snapshot.reader, snapshot.revision, compact_revision),
            sha256=snapshot.trailer.hex(),
            size_bytes=path.stat().st_size,
            records=0,
        )
