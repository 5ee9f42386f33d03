"""What a tour yields: steps that are done, each timed, and text for a person to read between them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bbr.progress import Progress


@dataclass(frozen=True, slots=True)
class Step:
    """One step that is done. ``detail`` says what it showed, ``figures`` the same for a program."""

    what: str
    detail: str
    seconds: float
    figures: dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person would see at this point: a command line, and what it printed."""

    text: str


class Clock:
    """Announces a step when it begins, and times it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._what = ""
        self._began = time.monotonic()

    def begin(self, what: str) -> None:
        """The next step begins."""
        self._what, self._began = what, time.monotonic()
        self._progress.step(what)

    def done(self, detail: str, **figures: float | str) -> Step:
        """It is done."""
        return Step(self._what, detail, time.monotonic() - self._began, dict(figures))
