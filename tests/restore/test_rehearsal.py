"""A rehearsal on a machine with real etcd programs: what it answers, what it refuses, and that it leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import (
    CommandTimedOut,
    EtcdError,
    FileMissing,
    HashMismatch,
    NoSpace,
    PreconditionFailed,
    SnapshotDamaged,
)
from bbr.etcd.auth import disable_auth
from bbr.etcd.snapshot import Snapshot, append_trailer
from bbr.machines.local import local_machine
from bbr.machines.shell import ShellMachine
from bbr.servers.etcd import EtcdServers, start_etcd
from restore import rehearsal
from restore.program import Program
from restore.rehearsal import rehearse
from tests.conftest import DEFAULT_ETCD, ETCD_VERSIONS, QUICK, program
from tests.restore.members import Taken, real, script, take


@pytest.fixture(scope="module")
def machine() -> Iterator[ShellMachine]:
    with local_machine() as here:
        yield here


@pytest.fixture(scope="module")
def taken(module_etcd: EtcdServers, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    return take(module_etcd, tmp_path_factory.mktemp("taken"))


@pytest.fixture
def programs(etcdutl_binary: Path, etcd_binary: Path, etcdctl_binary: Path) -> tuple[Program, Program, Program]:
    return real("etcdutl", etcdutl_binary), real("etcd", etcd_binary), real("etcdctl", etcdctl_binary)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[PurePosixPath]:
    """A run's folder, in which nothing of a rehearsal may be left."""
    folder = tmp_path / "r1"
    folder.mkdir()
    yield PurePosixPath(folder)
    assert list(folder.iterdir()) == []
    assert serving(folder) == []


def serving(folder: Path) -> list[str]:
    """Command lines of this machine that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended
            continue
        if str(folder).encode() in line:
            found.append(line.decode(errors="replace"))
    return found


def test_the_promised_hash_is_answered(
    machine: ShellMachine, taken: Taken, programs: tuple[Program, Program, Program], run: PurePosixPath
) -> None:
    for revision in (taken.revision, taken.revision):  # again, as a resume does
        answered = rehearse(machine, taken.there, *programs, revision=revision, hash_kv=taken.hash_kv, run=run)
        assert answered == taken.hash_kv


@pytest.mark.parametrize("version", [one for one in ETCD_VERSIONS if one != DEFAULT_ETCD])
def test_other_versions_of_etcd_answer_too(
    machine: ShellMachine, search: tuple[Path, ...], run: PurePosixPath, tmp_path: Path, version: str
) -> None:
    etcdutl, etcd, etcdctl = (program(name, search, version) for name in ("etcdutl", "etcd", "etcdctl"))
    with start_etcd(etcd, tmp_path / "etcd", flags=QUICK) as servers:
        taken = take(servers, tmp_path)
    programs = real("etcdutl", etcdutl), real("etcd", etcd), real("etcdctl", etcdctl)
    rehearse(machine, taken.there, *programs, revision=taken.revision, hash_kv=taken.hash_kv, run=run)


def test_another_hash_is_a_mismatch(
    machine: ShellMachine, taken: Taken, programs: tuple[Program, Program, Program], run: PurePosixPath
) -> None:
    with pytest.raises(HashMismatch, match="promised"):
        rehearse(machine, taken.there, *programs, revision=taken.revision, hash_kv=taken.hash_kv ^ 1, run=run)
    with pytest.raises(EtcdError, match="future revision"):
        rehearse(machine, taken.there, *programs, revision=taken.revision + 5, hash_kv=taken.hash_kv, run=run)


def test_a_damaged_snapshot_and_a_missing_one_are_refused(
    machine: ShellMachine, taken: Taken, programs: tuple[Program, Program, Program], run: PurePosixPath, tmp_path: Path
) -> None:
    body = bytearray(taken.path.read_bytes())
    body[len(body) // 2] ^= 1
    (tmp_path / "bad.db").write_bytes(body)
    with pytest.raises(SnapshotDamaged):
        rehearse(machine, PurePosixPath(tmp_path / "bad.db"), *programs, revision=1, hash_kv=0, run=run)
    with pytest.raises(FileMissing):
        rehearse(machine, PurePosixPath(tmp_path / "none.db"), *programs, revision=1, hash_kv=0, run=run)


def test_a_snapshot_with_users_is_rehearsed_from_a_copy_without(
    machine: ShellMachine,
    small_etcd: EtcdServers,
    programs: tuple[Program, Program, Program],
    run: PurePosixPath,
    tmp_path: Path,
    etcdctl_binary: Path,
) -> None:
    for words in ("user add root:secret", "user grant-role root root", "auth enable"):
        line = [str(etcdctl_binary), "--endpoints", small_etcd.endpoints[0], *words.split()]
        subprocess.run(line, check=True, capture_output=True, timeout=20)
    # etcd serves nothing to nobody from now on: its data directory is restored from its own database file.
    small_etcd.members[0].stop()
    database = small_etcd.members[0].data_dir / "member/snap/db"
    copy = tmp_path / "auth.db"
    shutil.copy(database, copy)
    with Snapshot.open(copy) as snapshot:
        digest, revision = snapshot.digest(), snapshot.revision
    append_trailer(copy, digest)
    with pytest.raises(PreconditionFailed, match="has users"):
        rehearse(machine, PurePosixPath(copy), *programs, revision=revision, hash_kv=0, run=run)
    disable_auth(copy)
    with pytest.raises(HashMismatch):
        rehearse(machine, PurePosixPath(copy), *programs, revision=revision, hash_kv=0, run=run)


def test_an_etcd_that_does_not_start_is_told_with_its_words(
    machine: ShellMachine,
    taken: Taken,
    programs: tuple[Program, Program, Program],
    run: PurePosixPath,
    tmp_path: Path,
) -> None:
    etcdutl, _, etcdctl = programs
    broken = real("etcd", script(tmp_path / "etcd", "echo 'panic: tocommit is out of range' >&2; exit 2"))
    with pytest.raises(EtcdError, match="tocommit is out of range"):
        rehearse(machine, taken.there, etcdutl, broken, etcdctl, revision=1, hash_kv=0, run=run)


def test_a_taken_port_is_exchanged(
    machine: ShellMachine,
    taken: Taken,
    programs: tuple[Program, Program, Program],
    run: PurePosixPath,
    monkeypatch: pytest.MonkeyPatch,
    module_etcd: EtcdServers,
) -> None:
    busy = int(module_etcd.endpoints[0].rpartition(":")[2])
    free, given = rehearsal._free_ports(machine), [(busy, busy)]
    monkeypatch.setattr(rehearsal, "_free_ports", lambda _: given.pop() if given else free)
    rehearse(machine, taken.there, *programs, revision=taken.revision, hash_kv=taken.hash_kv, run=run)
    assert given == []


def test_one_that_takes_too_long_is_ended_and_leaves_nothing(
    machine: ShellMachine,
    taken: Taken,
    programs: tuple[Program, Program, Program],
    run: PurePosixPath,
    tmp_path: Path,
) -> None:
    """The limit is the machine's own, so the same happens after a kill -9 of bbr."""
    etcdutl, etcd, _ = programs
    slow = real("etcdctl", script(tmp_path / "etcdctl", "sleep 300"))
    with pytest.raises(CommandTimedOut):
        limit = timedelta(seconds=2)
        rehearse(machine, taken.there, etcdutl, etcd, slow, revision=1, hash_kv=0, run=run, limit=limit)
    deadline = time.monotonic() + 10
    while serving(Path(run)) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_what_a_kill_left_is_swept_and_a_full_disk_is_told(
    machine: ShellMachine,
    taken: Taken,
    programs: tuple[Program, Program, Program],
    run: PurePosixPath,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = Path(run) / "rehearsal/data/member"
    left.mkdir(parents=True)
    (left / "db").write_text("half")
    rehearse(machine, taken.there, *programs, revision=taken.revision, hash_kv=taken.hash_kv, run=run)
    monkeypatch.setattr(rehearsal, "WAL_BYTES", 1 << 60)
    with pytest.raises(NoSpace):
        rehearse(machine, taken.there, *programs, revision=1, hash_kv=0, run=run)
