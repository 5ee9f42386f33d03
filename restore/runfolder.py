"""The folder of a run on the operator's host: the plan, the journal, what was saved, and the incident log.

<state>/restores/<run>/plan.json  journal.jsonl  incident.log  safety.db  saved/*.json  lock
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bbr.durable import replace_file
from bbr.errors import HeldByAnotherRun, PlanInvalid, UsageError
from restore.incident import render
from restore.journal import JOURNAL_NAME, Journal
from restore.plan import FILE_LIMIT_BYTES, Plan, from_file, to_file

RUNS = "restores"
PLAN, INCIDENT, LOCK, SAVED = "plan.json", "incident.log", "lock", "saved"


class RunFolder:
    """One run's folder. Made, 0700, when it is first opened for a plan."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / JOURNAL_NAME)

    @classmethod
    def of(cls, state_dir: Path, plan: Plan) -> RunFolder:
        """The folder of a plan, with a copy of it. Raises `PlanInvalid` when another plan of that name was run."""
        path = state_dir / RUNS / plan.run
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = cls(path)
        if (path / PLAN).exists():
            if folder.plan().sha256 != plan.sha256:
                raise PlanInvalid(f"another plan was run under the name {plan.run}", hint="make a new plan")
        else:
            replace_file(path / PLAN, to_file(plan))
        return folder

    def plan(self) -> Plan:
        """The plan that is being run."""
        return read_plan(self.path / PLAN)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One `apply`, `undo` or `clean` of this run at a time on this host. Raises `HeldByAnotherRun`."""
        with (self.path / LOCK).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise HeldByAnotherRun(
                    f"another bbr on this host works on the restore {self.path.name}",
                    hint="wait for it, or end it; `bbr restore status` shows how far it is",
                ) from err
            yield

    def save(self, name: str, body: bytes) -> Path:
        """Keep something that a step is about to remove, 0600. Durable on return; the first copy of a name stays."""
        (self.path / SAVED).mkdir(mode=0o700, exist_ok=True)
        path = self.path / SAVED / name
        if not path.exists():
            replace_file(path, body)
        return path

    def saved(self) -> tuple[Path, ...]:
        """What was kept, oldest name first."""
        return tuple(sorted((self.path / SAVED).glob("*"))) if (self.path / SAVED).exists() else ()

    def write_incident(self) -> Path:
        """The log for the post-mortem, as far as the run has come."""
        path = self.path / INCIDENT
        replace_file(path, render(self.plan(), self.journal.read()).encode())
        return path


def list_runs(state_dir: Path) -> list[RunFolder]:
    """The runs of this host whose plans can be read, oldest first by when they were made."""
    found = []
    for path in (state_dir / RUNS).glob(f"*/{PLAN}"):
        folder = RunFolder(path.parent)
        with suppress(PlanInvalid):  # of another version of bbr, which alone can go on with it
            found.append((folder.plan().made_at, folder.path.name, folder))
    return [folder for *_, folder in sorted(found, key=lambda one: one[:2])]


def read_plan(path: Path) -> Plan:
    """A plan from its file. Raises `PlanInvalid`, `UsageError`."""
    try:
        with path.open("rb") as file:
            body = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as err:
        raise UsageError(
            f"the plan {path} cannot be read: {err.strerror}",
            hint="`bbr restore plan` writes one (--out FILE); each that ran has a copy in the state folder",
        ) from err
    if len(body) > FILE_LIMIT_BYTES:
        raise PlanInvalid(f"{path} is larger than any plan")
    return from_file(body, what=str(path))


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan (0600). Raises `OSError`."""
    replace_file(path, to_file(plan))


def new_token() -> str:
    """A word that tells one `apply` from another of the same plan."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"
