"""How a command gets onto a machine: the part that differs between this machine and SSH."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

CHUNK_BYTES = 1024 * 1024
"""Most that one `Running.read` returns."""

KILL_AFTER = timedelta(seconds=5)
"""Between SIGTERM and SIGKILL for a command that is over its limit."""

GRACE = KILL_AFTER + timedelta(seconds=10)
"""How long after a command's limit we wait to hear of its end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its code (128 + n when signal n ended it), and the end of its stderr."""

    exit_code: int
    stderr: bytes


class Running(Protocol):
    """One command that runs. Calls raise `ConnectionLost`, and `CommandTimedOut` when they waited too long."""

    def write(self, chunk: bytes) -> bool:
        """Give it input; returns once it is on its way. False when the command reads no more: see how it ended."""
        ...

    def end_input(self) -> None:
        """No more input comes."""
        ...

    def read(self) -> bytes:
        """Its next output, at most `CHUNK_BYTES`; empty when there is no more."""
        ...

    def wait(self) -> Ended:
        """How it ended. What it still printed is dropped."""
        ...


class Transport(Protocol):
    """Starts commands on one machine. May be called from many threads. It may also be one that `Forwards`."""

    @property
    def name(self) -> str:
        """The machine, for messages."""
        ...

    def start(
        self, command: Sequence[str], *, doing: str, limit: timedelta, stdin: bytes | None
    ) -> AbstractContextManager[Running]:
        """Start one command, which ends by itself after ``limit``. Leaving the context lets go of it, ended or not.

        ``doing`` is what error messages call it. ``stdin`` is all of its input; None when it comes by `Running.write`.
        """
        ...

    def close(self) -> None:
        """Let go of the machine, within a few seconds."""
        ...


class Deadline:
    """A moment to be over by."""

    def __init__(self, limit: timedelta) -> None:
        self._end_s = time.monotonic() + limit.total_seconds()

    def left_s(self) -> float:
        """Seconds until then; 0.0 when it is over."""
        return max(0.0, self._end_s - time.monotonic())
