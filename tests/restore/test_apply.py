"""Carrying out a plan and taking it back, killed at every point where a process can die."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.errors import NoWayBack, PlanInvalid, StepBlocked
from bbr.progress import Progress, Silent
from restore.apply import apply_steps, undo_steps, write_to
from restore.journal import Journal, past_of
from restore.plan import Plan
from restore.step import Observation, Step, blocked
from tests.restore.plans import FakeStep, World, make_plan, planned

NAMES = ("upload", "stop", "make", "start", "serve")
POINTS = [f"{name} {point}" for name in NAMES for point in ("before", "inside", "after")]
WHOLE = {"upload-1", "upload-2", "make-1", "make-2", "start-1", "start-2", "serve-1", "serve-2"}


class Killed(BaseException):
    """The process is gone: nothing handles this."""


class Fuse:
    """Dies at one point, once."""

    def __init__(self, point: str) -> None:
        self.point, self.has_blown = point, False

    def __call__(self, point: str) -> None:
        if point == self.point and not self.has_blown:
            self.has_blown = True
            raise Killed(point)


def steps_in(world: World) -> list[Step]:
    """Five steps; `start` takes away what `stop` did, as a restore starts what it stopped."""
    return [
        FakeStep(world, "upload"),
        FakeStep(world, "stop", superseded_by="start"),
        FakeStep(world, "make"),
        FakeStep(world, "start", takes="stop"),
        FakeStep(world, "serve", undo_text=""),
    ]


def apply(plan: Plan, steps: list[Step], path: Path, progress: Progress | None = None) -> None:
    journal = Journal(path)
    apply_steps(plan, steps, journal=journal, record=write_to(journal), progress=progress or Silent())


def undo(plan: Plan, steps: list[Step], path: Path) -> None:
    journal = Journal(path)
    undo_steps(plan, steps, journal=journal, record=write_to(journal), progress=Silent())


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_was_killed_is_finished_by_the_same_call(point: str, tmp_path: Path) -> None:
    world = World(fuse=Fuse(point))
    steps = steps_in(world)
    plan = planned(steps, no_return="serve")
    with pytest.raises(Killed):
        apply(plan, steps, tmp_path / "journal")
    apply(plan, steps, tmp_path / "journal")
    assert world.parts == WHOLE
    assert past_of(Journal(tmp_path / "journal").read()).is_finished
    killed = point.split()[0]
    assert all(world.acts.count(name) == 1 for name in NAMES if name != killed)


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("serve")])
def test_a_run_that_was_killed_before_the_point_of_no_return_can_be_undone(point: str, tmp_path: Path) -> None:
    world = World(fuse=Fuse(point))
    steps = steps_in(world)
    plan = planned(steps, no_return="serve")
    with pytest.raises(Killed):
        apply(plan, steps, tmp_path / "journal")
    undo(plan, steps, tmp_path / "journal")
    assert world.parts == set()


@pytest.mark.parametrize("point", ["undo start before", "undo make inside", "undo stop inside", "undo upload before"])
def test_an_undo_that_was_killed_is_finished_by_the_same_call(point: str, tmp_path: Path) -> None:
    world = World(fuse=Fuse("serve before"))
    steps = steps_in(world)[:4]
    plan = planned(steps)
    apply(plan, steps, tmp_path / "journal")
    world.fuse = Fuse(point)
    with pytest.raises(Killed):
        undo(plan, steps, tmp_path / "journal")
    with pytest.raises(StepBlocked, match="undo"):
        apply(plan, steps, tmp_path / "journal")
    undo(plan, steps, tmp_path / "journal")
    assert world.parts == set()
    with pytest.raises(StepBlocked, match="was undone"):
        apply(plan, steps, tmp_path / "journal")


def test_after_the_point_of_no_return_there_is_no_undo(tmp_path: Path) -> None:
    world = World(fuse=Fuse("serve before"))
    steps = steps_in(world)
    plan = planned(steps, no_return="serve")
    with pytest.raises(Killed):
        apply(plan, steps, tmp_path / "journal")
    before = set(world.parts)
    with pytest.raises(NoWayBack, match="serve"):
        undo(plan, steps, tmp_path / "journal")
    assert world.parts == before


def test_a_step_that_somebody_took_back_meanwhile_is_done_again(tmp_path: Path) -> None:
    world = World(fuse=Fuse("make before"))
    steps = steps_in(world)
    plan = planned(steps)
    with pytest.raises(Killed):
        apply(plan, steps, tmp_path / "journal")
    world.parts -= {"stop-1"}  # a person started it again while nobody looked
    apply(plan, steps, tmp_path / "journal")
    assert world.acts.count("stop") == 2
    assert world.parts == WHOLE


def test_a_step_that_was_done_by_a_killed_try_is_verified_before_it_counts(tmp_path: Path) -> None:
    world = World(fuse=Fuse("make after"))
    steps = steps_in(world)
    plan = planned(steps)
    with pytest.raises(Killed):
        apply(plan, steps, tmp_path / "journal")
    apply(plan, steps, tmp_path / "journal")
    found = [entry for entry in Journal(tmp_path / "journal").read() if entry.event == "found"]
    assert [entry.step for entry in found] == ["make"]
    assert world.acts.count("make") == 1


class Waiting(FakeStep):
    """A step that a person has to see to first."""

    def observe(self) -> Observation:
        return blocked("somebody must look")


def test_a_blocked_step_stops_the_run_and_says_why(tmp_path: Path) -> None:
    world = World()
    steps: list[Step] = [FakeStep(world, "upload"), Waiting(world, "stop")]
    plan = planned(steps)
    with pytest.raises(StepBlocked, match="somebody must look"):
        apply(plan, steps, tmp_path / "journal")
    assert world.acts == ["upload"]
    assert Journal(tmp_path / "journal").read()[-1].event == "failed"


def test_a_plan_of_other_steps_is_refused(tmp_path: Path) -> None:
    world = World()
    steps = steps_in(world)
    with pytest.raises(PlanInvalid, match="another version"):
        apply(make_plan(), steps, tmp_path / "journal")
    assert world.acts == []
