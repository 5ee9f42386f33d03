"""What a restore is made of: steps that look, act, verify and undo. The journal and a resume need nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bbr.progress import Progress


class State(StrEnum):
    """What a step sees before it acts."""

    TODO = "todo"
    DONE = "done"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Observation:
    """How far the world is from what a step wants, and what was seen, in words for the incident log."""

    state: State
    seen: str


def todo(seen: str) -> Observation:
    """The step has something to do."""
    return Observation(State.TODO, seen)


def done(seen: str) -> Observation:
    """What the step wants is so already."""
    return Observation(State.DONE, seen)


def blocked(seen: str) -> Observation:
    """The step must not act: a person has to see to it first."""
    return Observation(State.BLOCKED, seen)


class Step(Protocol):
    """One step of a plan. All methods may be called again after a crash in the middle of any of them.

    ``name`` is stable: journals and plans refer to it. ``title`` says what is done, ``undo_text`` how it is undone,
    "" where there is nothing to undo. ``superseded_by`` names a later step that takes this one's effect away (etcd is
    stopped, and started again): once that has begun, this one is not looked at any more.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def undo_text(self) -> str: ...
    @property
    def superseded_by(self) -> str: ...

    def observe(self) -> Observation:
        """Look, and change nothing."""
        ...

    def act(self, progress: Progress) -> None:
        """Do it. Idempotent: what was done in an earlier try is found, and not done twice."""
        ...

    def verify(self) -> None:
        """Raises when what `act` should have reached is not so."""
        ...

    def undo(self) -> None:
        """Take it back. Harmless when nothing, or half of it, was done."""
        ...
