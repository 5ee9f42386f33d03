"""One etcd member's data directory on a machine: what is there moved aside, a new one made, and both undone.

Nothing is deleted but what this run made and did not finish, and everything is decided by what lies there, never by a
journal: a call that was cut short anywhere is simply made again. All stays in the data directory, because that may be a
file system of its own (/var/lib/etcd on many masters), and so each change is a rename; `member` gets its place by the
very last one. What names there are, `restore.memberscripts` tells.

A failed `etcdutl snapshot restore` leaves `member/snap/db` behind; etcd starts on that, says that it is ready, and
never serves. So it works beside the place, and what it made is looked at before it gets it.

Calls for one data directory exclude one another: `restore.guard` sees to that, also for what a killed bbr left running.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Literal, NoReturn

from bbr.errors import (
    BbrError,
    CommandFailed,
    EtcdError,
    FileMissing,
    NoSpace,
    PreconditionFailed,
    SnapshotDamaged,
    TargetNotEmpty,
    UsageError,
)
from bbr.etcd.tools import RESTORE_TIME
from bbr.machines.machine import Machine
from restore import memberscripts as scripts
from restore.etcd import WAL_BYTES
from restore.program import Program

COPY_TIME = timedelta(hours=1)
"""Far above what a copy on one machine takes; a disk that hangs must not hold a restore for ever."""

_SPARE_BYTES = 16 * 1024 * 1024
"""What the bump and the mark may add to the database, and folders take."""

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LEFTOVER = re.compile(r"\.bbr-(?P<run>.+)-(?P<kind>before|new|new\.tmp|undone-[0-9]+)")
_NOT_WHOLE = ("expected sha256", "snapshot missing hash", "invalid database", "checksum error", "file size too small")


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member in the words of etcd's own flags. Paths are the machine's; ``wal_dir`` is a separate one, or None."""

    name: str
    peer_urls: str
    initial_cluster: str
    token: str
    data_dir: PurePosixPath
    wal_dir: PurePosixPath | None = None

    @property
    def folders(self) -> tuple[PurePosixPath, ...]:
        """The folders that it lives in."""
        return (self.data_dir,) if self.wal_dir is None else (self.data_dir, self.wal_dir)


@dataclass(frozen=True, slots=True)
class MemberState:
    """What lies in a data directory, as one run sees it.

    ``member``: none, one from before (or of anybody else), or the one that this run made. ``aside``: how much of what
    was there is moved aside. ``is_begun``: a make has not finished. ``has_wal``: a separate WAL directory holds files.
    ``undone``: how many times a make was taken back.
    """

    member: Literal["none", "before", "ours"]
    aside: Literal["none", "partial", "whole"]
    is_begun: bool
    has_wal: bool
    undone: int

    @property
    def is_ours(self) -> bool:
        """The member in place is the one that this run made, whole."""
        return self.member == "ours"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder that a run left in a data or WAL directory, and what it takes on the disk."""

    run: str
    kind: str
    path: PurePosixPath
    size_bytes: int


def look(machine: Machine, spec: MemberSpec, run: str) -> MemberState:
    """What is there. Changes nothing."""
    member, aside, begun, wal, undone = _run(machine, scripts.LOOK, spec, run).split()
    return MemberState(
        member="ours" if member == "ours" else "before" if member == "before" else "none",
        aside="whole" if aside == "whole" else "partial" if aside == "partial" else "none",
        is_begun=begun == "yes",
        has_wal=wal == "yes",
        undone=int(undone),
    )


def move_aside(machine: Machine, spec: MemberSpec, run: str) -> None:
    """Move the member and its WAL aside, durably. A machine without a data directory gets an empty one (0700).

    Harmless when it is done, or when this run's member is in place. Raises `PreconditionFailed` while a process uses
    the data, `TargetNotEmpty` when another member has come since.
    """
    _run(machine, scripts.MOVE_ASIDE, spec, run)


def make(
    machine: Machine,
    spec: MemberSpec,
    run: str,
    snapshot: PurePosixPath,
    etcdutl: Program,
    *,
    bump: int,
    limit: timedelta = RESTORE_TIME,
) -> None:
    """Make this run's member of a snapshot file on the machine, with everything before the bump marked compacted.

    It has the owner of the one from before (of the data directory, where there was none), mode 0700, and is durable on
    return. Harmless when it is done. Whatever fails, nothing is in the member's place; what etcdutl left is removed.
    Raises `PreconditionFailed` when what was there is not aside or is used, `TargetNotEmpty`, `FileMissing`,
    `SnapshotDamaged`, `NoSpace`, `CommandTimedOut`, or `EtcdError` with what etcdutl said or did not make.
    """
    stat = machine.stat(snapshot)
    if stat is None:
        raise FileMissing(f"{machine.name}: there is no snapshot {snapshot}", hint="upload it again")
    machine.run(etcdutl.ending())
    needed_bytes = stat.size_bytes + WAL_BYTES + _SPARE_BYTES
    if _run(machine, scripts.PREPARE, spec, run, str(needed_bytes)) == "ours":
        return
    try:
        _restore(machine, spec, run, snapshot, etcdutl, bump=bump, limit=limit)
        _run(machine, scripts.FINISH, spec, run)
    except BbrError:
        with suppress(BbrError):  # the first error is the one to tell; the next make removes it, too
            _run(machine, scripts.REMOVE_NEW, spec, run)
        raise


def undo_make(machine: Machine, spec: MemberSpec, run: str) -> None:
    """Take this run's member out of its place and keep it beside; harmless when there is none, or half of one.

    Raises `PreconditionFailed` while a process uses it.
    """
    _run(machine, scripts.UNDO_MAKE, spec, run)


def undo_move_aside(machine: Machine, spec: MemberSpec, run: str) -> None:
    """Put what was there back, all or the part that was moved. Harmless when nothing was.

    Raises `TargetNotEmpty` when something is in its place, this run's member too, `PreconditionFailed` while a process
    uses the directory.
    """
    _run(machine, scripts.UNDO_MOVE_ASIDE, spec, run)


def safety_copy(machine: Machine, spec: MemberSpec, run: str, target: PurePosixPath) -> bool:
    """Copy what was there before the run, as it lies on the disk, to ``target``: `member`, and a separate `wal`.

    Also when it is already aside. It appears whole and durable or not at all; one that is there is kept. Returns False
    when there is nothing to copy. Raises `PreconditionFailed` while a process uses it, `NoSpace`.
    """
    return _run(machine, scripts.SAFETY_COPY, spec, run, str(target), timeout=COPY_TIME) != "nothing"


def leftovers(machine: Machine, data_dir: PurePosixPath) -> tuple[Leftover, ...]:
    """What runs left in a data or WAL directory, by name. Names that bbr does not give are passed over."""
    said = machine.run(["sh", "-c", scripts.LEFTOVERS, "bbr", str(data_dir)]).stdout.decode(errors="replace")
    found = []
    for entry in filter(None, said.split("\0")):
        size, _, name = entry.partition(" ")
        if match := _LEFTOVER.fullmatch(name):
            found.append(Leftover(match["run"], match["kind"], data_dir / name, int(size)))
    return tuple(found)


def clean(machine: Machine, data_dir: PurePosixPath, run: str) -> None:
    """Remove what this run left in a data or WAL directory, what was there before it too; other runs' stays.

    Raises `TargetNotEmpty` when nothing is in the place of what was there before: then it is the only copy.
    """
    _run(machine, scripts.CLEAN, MemberSpec("", "", "", "", data_dir), run, timeout=COPY_TIME)


def free_bytes(machine: Machine, path: PurePosixPath) -> int:
    """What a user may still write to the file system that ``path`` is on, or would be."""
    return int(machine.run(["sh", "-c", scripts.FREE_BYTES, "bbr", str(path)]).stdout)


def _restore(
    machine: Machine,
    spec: MemberSpec,
    run: str,
    snapshot: PurePosixPath,
    etcdutl: Program,
    *,
    bump: int,
    limit: timedelta,
) -> None:
    command = etcdutl.command(_arguments(spec, run, snapshot, bump), binds=(snapshot.parent, *spec.folders))
    try:
        machine.run(command, timeout=limit)
    except CommandFailed as err:
        raise _failure(machine, err) from err


def _arguments(spec: MemberSpec, run: str, snapshot: PurePosixPath, bump: int) -> list[str]:
    arguments = ["snapshot", "restore", str(snapshot), "--data-dir", str(spec.data_dir / f".bbr-{run}-new")]
    arguments += ["--name", spec.name, "--initial-cluster", spec.initial_cluster]
    arguments += ["--initial-advertise-peer-urls", spec.peer_urls, "--initial-cluster-token", spec.token]
    if spec.wal_dir is not None:
        arguments += ["--wal-dir", str(spec.wal_dir / f".bbr-{run}-new")]
    return [*arguments, "--bump-revision", str(bump), "--mark-compacted"] if bump else arguments


def _run(
    machine: Machine, script: str, spec: MemberSpec, run: str, *words: str, timeout: timedelta = RESTORE_TIME
) -> str:
    """One of the scripts; what it printed."""
    if not _RUN.fullmatch(run):
        raise UsageError(f"{run!r} cannot be the name of a run: letters, digits, '.', '_' and '-'")
    command = ["sh", "-c", script, "bbr", str(spec.data_dir), str(spec.wal_dir or ""), run, *words]
    codes = (0, scripts.IN_USE, scripts.NOT_EMPTY, scripts.NOT_ASIDE, scripts.NOT_WHOLE, scripts.NO_SPACE)
    answer = machine.run(command, timeout=timeout, expect=codes)
    said = answer.stdout.decode(errors="replace").strip()
    if answer.exit_code:
        _refuse(answer.exit_code, f"{machine.name}: {said}")
    return said


def _refuse(code: int, message: str) -> NoReturn:
    if code == scripts.IN_USE:
        raise PreconditionFailed(message, hint="stop etcd on this machine first; nothing was changed")
    if code == scripts.NOT_EMPTY:
        raise TargetNotEmpty(message, hint="see what it is; nothing of it was changed")
    if code == scripts.NO_SPACE:
        raise NoSpace(message, hint="make room on the machine, then try again")
    if code == scripts.NOT_ASIDE:
        raise PreconditionFailed(message, hint="move it aside first; nothing was changed")
    raise EtcdError(f"{message}: what etcdutl made is not whole", hint="nothing of it was put in place; try again")


def _failure(machine: Machine, err: CommandFailed) -> BbrError:
    lines = err.stderr.strip().splitlines()
    told = next((line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")), " ".join(lines[-3:]))
    message = f"{machine.name}: etcdutl snapshot restore: {told or f'failed without a word (code {err.code})'}"
    if "no space left" in err.stderr.lower():
        return NoSpace(message, hint="make room on the machine, then try again; nothing was put in place")
    if any(sign in err.stderr for sign in _NOT_WHOLE):
        return SnapshotDamaged(message, hint="upload the snapshot again; nothing was put in place")
    return EtcdError(message, hint="nothing was put in place")
