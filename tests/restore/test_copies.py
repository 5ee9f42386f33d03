"""What machines know of a run and this host does not; their copies of the journal are not believed blindly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest

from bbr.errors import BbrError, MachineUnreachable, OutputTooLarge, PlanInvalid
from bbr.machines.machine import Stat
from restore.copies import LIMIT_BYTES, catch_up
from restore.fleet import Fleet
from restore.journal import Journal, past_of
from restore.plan import PlannedStep
from tests.restore.plans import make_plan

STEPS = tuple(PlannedStep(name, name, "take it back", name == "serve") for name in ("upload", "stop", "serve"))
PLAN = make_plan(steps=STEPS)


@dataclass
class Copy:
    """A machine that has a journal's copy, or none."""

    name: str
    body: bytes | None

    def stat(self, path: PurePosixPath) -> Stat | None:
        assert path.name == "journal.jsonl"
        return cast(Stat, object()) if self.body is not None else None

    def get(self, path: PurePosixPath, *, limit_bytes: int, **_: Any) -> Iterator[bytes]:
        if len(self.body or b"") > limit_bytes:
            raise OutputTooLarge(f"{path} is too large")
        yield self.body or b""


@dataclass
class Machines:
    """A fleet of two; what cannot be reached raises."""

    m1: bytes | BbrError | None = None
    m2: bytes | BbrError | None = None
    taken: set[str] = field(default_factory=set)

    def bare(self, name: str) -> Copy:
        body = {"m1": self.m1, "m2": self.m2}[name]
        if isinstance(body, BbrError):
            raise body
        return Copy(name, body)

    def __getitem__(self, name: str) -> Copy:
        self.taken.add(name)
        return self.bare(name)


def journal_of(path: Path, *events: tuple[Any, str]) -> Journal:
    """A journal with these events."""
    journal = Journal(path)
    for event, step in events:
        journal.write(event, step)
    return journal


def told(journal: Journal, machines: Machines) -> list[str]:
    """What a person is told."""
    said: list[str] = []
    catch_up(PLAN, journal, cast(Fleet, machines), warn=said.append)
    return said


def test_an_empty_journal_takes_what_the_machines_know(tmp_path: Path) -> None:
    there = journal_of(tmp_path / "there", ("begun", "upload"), ("done", "upload"), ("begun", "stop"))
    machines = Machines(m1=there.body(), m2=there.body())
    here = Journal(tmp_path / "here")
    assert any("came from its machines" in line for line in told(here, machines))
    assert here.read() == there.read()
    assert machines.taken == {"m1", "m2"}
    assert told(here, machines) == []
    assert here.read() == there.read()


def test_a_run_that_nobody_began_takes_no_machine(tmp_path: Path) -> None:
    machines, here = Machines(), Journal(tmp_path / "here")
    assert told(here, machines) == []
    assert (here.read(), machines.taken) == ((), set())


def test_what_another_operator_did_meanwhile_is_known(tmp_path: Path) -> None:
    here = journal_of(tmp_path / "here", ("begun", "upload"))
    there = journal_of(tmp_path / "there")
    there.add(here.read())
    here.write("failed", "upload", "a later `bbr restore apply` took this machine over")
    for event, step in (("done", "upload"), ("begun", "serve")):
        there.write(event, step)  # type: ignore[arg-type]
    told(here, Machines(m1=MachineUnreachable("m1 does not answer"), m2=there.body()))
    assert past_of(here.read()).begun == {"upload", "serve"}
    assert len(here.read()) == 4


def test_a_machine_whose_run_is_over_is_not_taken_again(tmp_path: Path) -> None:
    there = journal_of(tmp_path / "there", ("begun", "serve"), ("done", "serve"), ("finished", ""))
    machines = Machines(m1=there.body(), m2=there.body())
    told(Journal(tmp_path / "here"), machines)
    assert machines.taken == set()


def test_where_nobody_knows_and_one_cannot_be_asked_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(MachineUnreachable):
        told(Journal(tmp_path / "here"), Machines(m1=MachineUnreachable("m1 does not answer")))


def test_a_copy_that_a_crash_cut_is_read_up_to_there(tmp_path: Path) -> None:
    there = journal_of(tmp_path / "there", ("begun", "upload"), ("done", "upload"))
    here = Journal(tmp_path / "here")
    told(here, Machines(m1=there.body()[:-5]))
    assert here.read() == there.read()[:1]


def line(**words: object) -> bytes:
    """One line of a copy, with something wrong in it."""
    good = {"time": "2026-01-02T03:04:05.000000Z", "event": "begun", "step": "stop", "detail": "", "seconds": 0.0}
    return json.dumps({**good, **words}).encode() + b"\n"


@pytest.mark.parametrize(
    "body",
    [
        b"nothing\n\n",
        line(step="another"),
        line(event="conquered"),
        line(detail="x" * 5000),
        line(time="yesterday"),
        line(seconds=float("nan")),
        line(seconds=[]),
        b"[" * 100_000 + b"\n\n",
        b"\xff\xfe\n\n",
        b"x" * (LIMIT_BYTES + 1),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_copy_that_is_none_stops_everything_and_leaves_the_journal_alone(body: bytes, tmp_path: Path) -> None:
    here = journal_of(tmp_path / "here", ("begun", "upload"))
    before = here.body()
    with pytest.raises(PlanInvalid):
        told(here, Machines(m1=body))
    assert here.body() == before


def test_what_a_copy_says_moves_no_cursor(tmp_path: Path) -> None:
    here = Journal(tmp_path / "here")
    told(here, Machines(m1=line(detail="\x1b[2Jall is well \ud800")))
    assert here.read()[0].detail == "?[2Jall is well ?"
