"""What a restore saved, as a source: checked, and only of a restore that is finished."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bbr.errors import Drift, HashMismatch, PreconditionFailed, SnapshotDamaged, UsageError
from bbr.etcd.write import delete, put
from bbr.servers.etcd import EtcdServers
from restore.journal import Event
from restore.runfolder import RunFolder
from restore.safety import find_safety, planned_safety
from tests.restore.plans import make_plan

PLAN = make_plan()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of a run whose etcd was saved."""
    made = RunFolder.of(tmp_path, PLAN)
    made.journal.write("begun", "save")
    made.journal.write("done", "save")
    return made


def save(servers: EtcdServers, folder: RunFolder) -> tuple[int, int]:
    """A real member's snapshot as the safety snapshot. Returns its revision and the HashKV that the member says."""
    with servers.client() as client:
        for number in range(20):
            put(client, b"/registry/%d" % (number % 7), b"x" * number)
        delete(client, b"/registry/3")
        (folder.path / "safety.db").write_bytes(b"".join(bytes(blob) for blob in client.snapshot()))
        revision = client.status().revision
        return revision, client.hash_kv(revision).hash


def test_a_finished_restore_s_safety_snapshot_is_a_source(
    small_etcd: EtcdServers, folder: RunFolder, tmp_path: Path
) -> None:
    revision, hash_kv = save(small_etcd, folder)
    folder.journal.write("finished")
    found = find_safety(tmp_path, PLAN.run)
    assert (found.etcd.revision, found.etcd.hash_kv) == (revision, hash_kv)
    assert found.etcd.server_version == PLAN.source.etcd.server_version
    assert abs((datetime.now(UTC) - found.taken_at).total_seconds()) < 60
    # More than any client can have seen in the restore that is taken back.
    assert found.highest_revision == PLAN.source.etcd.revision + PLAN.choices.bump

    back = replace(PLAN, run=f"{PLAN.run}9", source=replace(PLAN.source, etcd=found.etcd, safety_run=PLAN.run))
    of_back = RunFolder.of(tmp_path, back)
    assert planned_safety(of_back.path, back).hash_kv == hash_kv
    other = replace(back, source=replace(back.source, etcd=replace(found.etcd, hash_kv=hash_kv ^ 1)))
    with pytest.raises(HashMismatch, match="not what was planned with"):
        planned_safety(of_back.path, other)

    damaged = bytearray((folder.path / "safety.db").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder.path / "safety.db").write_bytes(damaged)
    with pytest.raises(SnapshotDamaged):
        planned_safety(of_back.path, back)
    (folder.path / "safety.db").unlink()
    with pytest.raises(Drift, match="was cleaned"):
        planned_safety(of_back.path, back)


@pytest.mark.parametrize(
    ("events", "says"),
    [((), "is not finished"), (("undoing", "undone"), "was undone"), (("finished",), "has no safety snapshot")],
)
def test_a_restore_without_one_is_refused(
    folder: RunFolder, tmp_path: Path, events: tuple[Event, ...], says: str
) -> None:
    for event in events:
        folder.journal.write(event)
    with pytest.raises(PreconditionFailed, match=says):
        find_safety(tmp_path, PLAN.run)


def test_an_unknown_run_is_refused_with_those_that_are_known(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.path.exists()
    with pytest.raises(UsageError) as refused:
        find_safety(tmp_path, "../../etc")
    assert PLAN.run in refused.value.hint
