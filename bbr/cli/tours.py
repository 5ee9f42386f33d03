"""A tour as a person walks it: each step printed when it is done, with what a person would see in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.output import Output, Report, Table
from bbr.demo.step import Shown, Step
from bbr.progress import Progress, Silent

_WHAT_WIDTH = 62
_INDENT = "    | "


class Relay:
    """Passes progress on to whatever display is open at the moment."""

    def __init__(self) -> None:
        self.target: Progress = Silent()

    def step(self, what: str) -> None:
        """See `Progress.step`."""
        self.target.step(what)

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """See `Progress.advance`."""
        self.target.advance(done_bytes, total_bytes)

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self.target.warn(what)


def walk(tour: Generator[Step | Shown, None, None], relay: Relay, output: Output) -> list[Step]:
    """Go through a tour whose progress is ``relay``. It is closed, however it ends. Returns its steps."""
    steps: list[Step] = []
    with closing(tour) as walking:
        while (reached := _next(walking, relay, output)) is not None:
            if isinstance(reached, Step):
                steps.append(reached)
            if output.form == "table":
                output.data(_line(len(steps), reached))
    return steps


def end(schema: str, steps: Sequence[Step], moral: str, output: Output) -> None:
    """All steps for a program; for a person, who has seen them, how long it took."""
    if output.form == "json":
        output.report(report(schema, steps))
    else:
        total = figures.duration(sum(step.seconds for step in steps))
        output.data(f"\n{moral}, in {total}. Nothing was left behind.")


def report(schema: str, steps: Sequence[Step]) -> Report:
    """All steps, for a program."""
    data = {
        "steps": [
            {"what": one.what, "detail": one.detail, "seconds": round(one.seconds, 3), **one.figures} for one in steps
        ],
        "seconds": round(sum(step.seconds for step in steps), 3),
        "equal": True,
    }
    rows = [(step.what, figures.duration(step.seconds), step.detail) for step in steps]
    return Report(schema, data, [Table(("STEP", ">TIME", "WHAT IT SHOWED"), rows)])


def _next(walking: Iterator[Step | Shown], relay: Relay, output: Output) -> Step | Shown | None:
    """What comes next. The live line is gone before it is printed."""
    with progress_on(output.stderr, keep_steps=False) as progress:
        relay.target = progress
        return next(walking, None)


def _line(number: int, reached: Step | Shown) -> str:
    if isinstance(reached, Shown):
        return "\n".join(f"{_INDENT}{line}".rstrip() for line in reached.text.splitlines())
    return f"{number:2}  {reached.what:{_WHAT_WIDTH}} {figures.duration(reached.seconds):>7}  {reached.detail}"
