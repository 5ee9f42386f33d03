"""The copies of a run's journal that its machines keep, and what they know that this host does not.

Each machine has the whole journal, as of the last line that was sent to it. So a run goes on from a new host whose
state folder is empty, and an operator who was away learns what another did meanwhile: above all, that the point of no
return was passed. A copy is another's writing: its size is bounded, its steps are the plan's, its words are plain.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePosixPath
from typing import get_args

from bbr.errors import BbrError, FileMissing, OutputTooLarge, PlanInvalid
from bbr.machines.machine import Machine
from restore.fleet import Fleet
from restore.guard import RUNS
from restore.journal import DETAIL_LENGTH, JOURNAL_NAME, Entry, Event, Journal, parse, past_of
from restore.plan import Plan, PlannedHost
from restore.site import on_each

LIMIT_BYTES = 2 * 1024 * 1024
_READ_TIME = timedelta(seconds=30)
_EVENTS = frozenset(get_args(Event))


def catch_up(plan: Plan, journal: Journal, fleet: Fleet, *, warn: Callable[[str], None]) -> None:
    """Add to this host's journal what the machines' copies say beyond it.

    A machine whose copy says that the run is under way is taken first: another operator's `apply` writes nothing more
    there. One that has none is not touched. Raises `PlanInvalid` for a copy that is none, `HeldByAnotherRun`, and,
    where neither this host nor any machine knows of the run, why a machine could not be asked.
    """
    known = journal.read()
    answers = on_each(plan.hosts, lambda host: _copy_on(plan, fleet, host))
    for copy in answers.values():
        # By what was written, not by how much: of two operators each may have lines that the other lacks.
        fresh = [entry for entry in copy if entry not in known] if not isinstance(copy, BbrError) else []
        known = (*known, *fresh)
        if fresh:
            journal.add(fresh)
            warn(f"{len(fresh)} lines of this restore's journal came from its machines: it went on from another host")
            warn("what was saved there before it was removed (saved/, the safety snapshot) is only there")
    for copy in answers.values():
        if isinstance(copy, BbrError) and not known:
            raise copy


def _copy_on(plan: Plan, fleet: Fleet, host: PlannedHost) -> tuple[Entry, ...] | BbrError:
    """The copy on a machine, or why nobody knows."""
    path = RUNS / plan.run / JOURNAL_NAME
    try:
        machine = fleet.bare(host.name)
        if machine.stat(path) is None:
            return ()
    except BbrError as err:
        return err
    what = f"{host.name}: {path}"
    copy = _checked(plan, _read(machine, path), what=what)
    past = past_of(copy)
    return copy if past.is_finished or past.is_undone else _checked(plan, _read(fleet[host.name], path), what=what)


def _read(machine: Machine, path: PurePosixPath) -> bytes:
    try:
        return b"".join(machine.get(path, limit_bytes=LIMIT_BYTES, timeout=_READ_TIME))
    except FileMissing:
        return b""
    except OutputTooLarge as err:
        raise PlanInvalid(f"{machine.name}: {path} is larger than any journal", hint="look at who wrote it") from err


def _checked(plan: Plan, body: bytes, *, what: str) -> tuple[Entry, ...]:
    steps = {"", *(step.name for step in plan.steps)}
    entries = parse(body, what=what)
    for number, entry in enumerate(entries, start=1):
        if entry.event not in _EVENTS or entry.step not in steps or len(entry.detail) > DETAIL_LENGTH:
            raise PlanInvalid(f"{what}, line {number}: not of this plan's journal", hint="look at who wrote it")
    return entries
