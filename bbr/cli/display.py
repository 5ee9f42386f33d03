"""Progress as a person sees it: a live line with rate and remaining time on a terminal, elsewhere a line every 10 s.

On a terminal each finished step stays as one line with its size and time. In a log a step that is over within ten
seconds says nothing, and one that hangs still speaks. rich is imported only when there is a terminal to draw on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from bbr.cli import figures
from bbr.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
_SHORTEST_S = 0.001


@contextmanager
def progress_on(stream: TextIO, *, keep_steps: bool = True) -> Iterator[Progress]:
    """Show the progress of what runs inside on ``stream``; ``keep_steps``: a terminal keeps a line for each step."""
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        with TerminalProgress(stream, keep_steps=keep_steps) as terminal:
            yield terminal
    else:
        with LineProgress(stream, every_s=LINE_EVERY_S) as lines:
            yield lines


class LineProgress:
    """A line every ``every_s`` seconds that says what is going on. A context manager."""

    def __init__(self, stream: TextIO, *, every_s: float = LINE_EVERY_S) -> None:
        self._stream = stream
        self._every_s = every_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)
        self._what = ""
        self._began = time.monotonic()
        self._done_bytes = self._total_bytes = 0

    def __enter__(self) -> Self:
        """Begin to speak."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fall silent."""
        self._ended.set()
        self._thread.join()

    def step(self, what: str) -> None:
        """See `Progress.step`."""
        with self._lock:
            self._what, self._began = what, time.monotonic()
            self._done_bytes = self._total_bytes = 0

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """See `Progress.advance`."""
        with self._lock:
            self._done_bytes, self._total_bytes = done_bytes, total_bytes

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self._write(f"warning: {what}")

    def _speak(self) -> None:
        while not self._ended.wait(self._every_s):
            with self._lock:
                what, spent_s = self._what, time.monotonic() - self._began
                done, total = self._done_bytes, self._total_bytes
            if what:
                self._write(f"bbr: {progress_line(what, spent_s, done, total)}")

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


def progress_line(what: str, spent_s: float, done_bytes: int, total_bytes: int) -> str:
    """``sealing: 512 MB of 1.0 GB, 170 MB/s, 3 s left``, or how long it has been going on when nothing is counted."""
    if not done_bytes or spent_s <= 0:
        return f"{what}, for {figures.duration(spent_s)}"
    return f"{what}: {_counted(spent_s, done_bytes, total_bytes)}"


def _counted(spent_s: float, done_bytes: int, total_bytes: int) -> str:
    rate = done_bytes / max(spent_s, _SHORTEST_S)
    if total_bytes <= 0:
        return f"{figures.size(done_bytes)}, {figures.size(rate)}/s"
    left = figures.duration(max(0, total_bytes - done_bytes) / rate)
    return f"{figures.size(done_bytes)} of {figures.size(total_bytes)}, {figures.size(rate)}/s, {left} left"


class TerminalProgress:
    """A live line on a terminal. A context manager."""

    def __init__(self, stream: TextIO, *, keep_steps: bool = True) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.fields[counted]}", markup=False),
            progress.TimeElapsedColumn(),
            console=Console(file=stream, highlight=False),
            transient=True,
            redirect_stdout=False,
        )
        self._keep_steps = keep_steps
        self._lock = threading.Lock()
        self._task: TaskID | None = None
        self._what = ""
        self._began = time.monotonic()
        self._done_bytes = 0

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live line; the last step stays as a line when it ended well."""
        if kind is None:
            with self._lock:
                self._finish()
        self._bar.stop()

    def step(self, what: str) -> None:
        """See `Progress.step`."""
        with self._lock:
            self._finish()
            self._what, self._began, self._done_bytes = what, time.monotonic(), 0
            self._task = self._bar.add_task(what, total=None, counted="")

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """See `Progress.advance`."""
        with self._lock:
            self._done_bytes = done_bytes
            if self._task is not None:
                counted = _counted(time.monotonic() - self._began, done_bytes, total_bytes) if done_bytes else ""
                self._bar.update(self._task, completed=done_bytes, total=total_bytes or None, counted=counted)

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self._print(f"warning: {what}", style="yellow")

    def _finish(self) -> None:
        if self._task is None:
            return
        self._bar.remove_task(self._task)
        self._task = None
        if not self._keep_steps:
            return
        spent = figures.duration(time.monotonic() - self._began)
        self._print(f"{self._what}: {f'{figures.size(self._done_bytes)}, ' if self._done_bytes else ''}{spent}", "dim")

    def _print(self, line: str, style: str) -> None:
        from rich.text import Text

        # The style belongs to the line, not to the live line that is drawn anew below it.
        self._bar.console.print(Text(line, style=style))
