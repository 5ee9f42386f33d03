"""Carrying out a plan, and taking it back: step by step, each written down before it begins.

A resume trusts no journal alone. Every step is observed again and acts only where something is left to do. One whose
effect a later step takes away by design (etcd is stopped, then started again) is passed over once that later one has
begun: what that one observes stands for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from bbr.errors import BbrError, NoWayBack, PlanInvalid, StepBlocked
from bbr.progress import Progress
from restore.journal import Event, Journal, Past, past_of
from restore.plan import Plan, PlannedStep
from restore.step import State, Step


class Mirror(Protocol):
    """Where else a journal goes: each machine of the run keeps a copy."""

    def __call__(self, journal: bytes) -> None: ...


def check_steps(plan: Plan, steps: Sequence[Step]) -> None:
    """Raises `PlanInvalid` unless the steps are those that the plan shows."""
    shown = [(one.name, one.title, one.undo) for one in plan.steps]
    if shown != [(step.name, step.title, step.undo_text) for step in steps]:
        raise PlanInvalid(
            f"the plan {plan.run} was made by another version of bbr: its steps are not those of this one",
            hint="make a new plan with this version, or go on with the version that made it",
        )


def apply_steps(
    plan: Plan, steps: Sequence[Step], *, journal: Journal, record: Callable[..., None], progress: Progress
) -> None:
    """Do every step that is not done, in order. Raises what a step raises; the journal then says which failed."""
    check_steps(plan, steps)
    past = past_of(journal.read())
    if past.is_undone or past.is_undoing:
        raise StepBlocked(
            f"the restore {plan.run} was undone, or an undo of it has begun",
            hint="finish that: `bbr restore undo`; then make a new plan",
        )
    if past.is_finished:
        progress.warn(f"the restore {plan.run} is finished; nothing was done now")
        return
    progress = _Told(progress, record)
    for number, (step, planned) in enumerate(zip(steps, plan.steps, strict=True), start=1):
        label = f"[{number}/{len(steps)}] {step.title}"
        if step.name in past.done and step.superseded_by in past.begun:
            continue
        progress.step(label)
        _do(step, planned, past=past, record=record, progress=progress)
    record("finished", detail=f"{plan.target.name} is back")


class _Told:
    """A progress whose warnings stand in the journal too: who reads the incident log was not at the terminal."""

    def __init__(self, progress: Progress, record: Callable[..., None]) -> None:
        self._progress, self._record = progress, record

    def step(self, what: str) -> None:
        self._progress.step(what)

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        self._progress.advance(done_bytes, total_bytes)

    def warn(self, what: str) -> None:
        self._record("warned", detail=what)
        self._progress.warn(what)


def undo_steps(
    plan: Plan, steps: Sequence[Step], *, journal: Journal, record: Callable[..., None], progress: Progress
) -> None:
    """Take back every step that was begun, the last one first.

    Raises `NoWayBack` after the point of no return, `StepBlocked` where nothing was ever begun.
    """
    check_steps(plan, steps)
    entries = journal.read()
    past = past_of(entries)
    check_way_back(plan, past)
    if not entries:
        raise StepBlocked(
            f"the restore {plan.run} was never begun: there is nothing to undo",
            hint="`bbr restore status` lists those that were",
        )
    record("undoing")
    for step in reversed(steps):
        if step.name not in past.begun or not step.undo_text:
            continue
        progress.step(f"undoing: {step.title}")
        began = time.monotonic()
        try:
            step.undo()
        except BbrError as err:
            record("failed", step.name, f"undo: {err}", seconds=time.monotonic() - began)
            raise
        record("undone", step.name, seconds=time.monotonic() - began)
    record("undone")


def check_way_back(plan: Plan, past: Past) -> None:
    """Raises `NoWayBack` when a step from the point of no return on has begun."""
    passed = [one.name for one in plan.steps[_no_return(plan) :] if one.name in past.begun]
    if passed:
        raise NoWayBack(
            f"the restore {plan.run} has passed its point of no return ({passed[0]}): clients may have seen the "
            "restored data, and what they wrote since would be lost",
            hint=_other_way(plan) if past.is_finished else f"first finish it: `bbr restore apply`; {_other_way(plan)}",
        )


def _other_way(plan: Plan) -> str:
    if not plan.choices.is_safety_wanted:
        return "docs/runbooks says what else can be done"
    return f"`bbr restore plan safety:{plan.run} --kind {plan.kind}` plans the way back to what was there before it"


def _no_return(plan: Plan) -> int:
    return next((place for place, one in enumerate(plan.steps) if one.is_point_of_no_return), len(plan.steps))


def _do(step: Step, planned: PlannedStep, *, past: Past, record: Callable[..., None], progress: Progress) -> None:
    began = time.monotonic()
    try:
        seen = step.observe()
        if seen.state is State.BLOCKED:
            raise StepBlocked(f"{planned.title}: {seen.seen}", hint="see to it, then run the same command again")
        if seen.state is State.DONE:
            if step.name not in past.done:
                # Done by a try that was killed before it could say so, and so before it could verify.
                step.verify()
                record("found", step.name, seen.seen, seconds=time.monotonic() - began)
            return
        record("begun", step.name, seen.seen)
        step.act(progress)
        step.verify()
    except BbrError as err:
        record("failed", step.name, str(err), seconds=time.monotonic() - began)
        raise
    record("done", step.name, seconds=time.monotonic() - began)


def write_to(journal: Journal, mirror: Mirror | None = None) -> Callable[..., None]:
    """What writes an event to the journal, and then copies that to the machines."""

    def record(event: Event, step: str = "", detail: str = "", *, seconds: float = 0.0) -> None:
        journal.write(event, step, detail, seconds=seconds)
        if mirror is not None and event in ("begun", "done", "found", "undone", "undoing", "finished"):
            mirror(journal.body())

    return record
