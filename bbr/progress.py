"""How long work tells the person what it is doing: three calls, so that a terminal, a log or nothing can listen."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listens to one run. Every method may be called from any thread."""

    def step(self, what: str) -> None:
        """A new step has begun; the one before is done."""
        ...

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """So much of the current step is done; ``total_bytes`` is 0 while unknown."""
        ...

    def warn(self, what: str) -> None:
        """Something that the person should know, though the run goes on."""
        ...


class Silent:
    """A `Progress` that listens to nothing."""

    def step(self, what: str) -> None:
        """Nothing."""

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """Nothing."""

    def warn(self, what: str) -> None:
        """Nothing."""
