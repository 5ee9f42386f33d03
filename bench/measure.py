"""Running commands side by side: wall time, CPU time, and the peak of anonymous memory of each run.

The disk is quiet before each run: what the last one left to be written is no cost of this one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_SAMPLE_S = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """One finished command. ``anonymous_bytes`` is the highest RssAnon that was seen, sampled every 10 ms."""

    wall_s: float
    cpu_s: float
    anonymous_bytes: int

    def figures(self) -> dict[str, float]:
        """All of it, for a program."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two commands, run in turn. ``ours`` and ``theirs`` are in step; the ratio is taken pair by pair."""

    ours: tuple[Run, ...]
    theirs: tuple[Run, ...]

    @property
    def ratio(self) -> float:
        """The median of ours / theirs, in wall time."""
        return statistics.median(a.wall_s / b.wall_s for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def ours_s(self) -> float:
        """Median wall time of ours."""
        return statistics.median(run.wall_s for run in self.ours)

    @property
    def theirs_s(self) -> float:
        """Median wall time of theirs."""
        return statistics.median(run.wall_s for run in self.theirs)

    @property
    def anonymous_bytes(self) -> int:
        """The highest of ours."""
        return max(run.anonymous_bytes for run in self.ours)


def run(command: Sequence[str], *, environ: Mapping[str, str], folder: Path) -> Run:
    """Run a command to its end. Raises `RuntimeError` with its output when it fails."""
    log = folder / "command.log"
    os.sync()
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(command, env=dict(environ), stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        peak = _Peak(process.pid)
        peak.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        peak.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()}")
    return Run(wall, usage.ru_utime + usage.ru_stime, peak.anonymous_bytes)


def interleave(
    count: int,
    ours: Callable[[int], Run],
    theirs: Callable[[int], Run],
    *,
    told: Callable[[str], None],
    first: int = 0,
) -> Pairs:
    """Run both in turn, ``count`` times; which goes first alternates, so that neither has the warmer cache."""
    own: list[Run] = []
    other: list[Run] = []
    for number in range(first, first + count):
        leading, following = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        results = {leading: leading(number), following: following(number)}
        own.append(results[ours])
        other.append(results[theirs])
        told(f"  pair {number + 1}: {own[-1].wall_s:.2f} s against {other[-1].wall_s:.2f} s")
    return Pairs(tuple(own), tuple(other))


class _Peak(threading.Thread):
    """Watches the anonymous memory of a process until it is gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True, name="memory")
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.anonymous_bytes = 0

    def run(self) -> None:
        """Sample until `stop`, or until the process is no more."""
        while not self._over.wait(_SAMPLE_S):
            try:
                text = self._status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            for line in text.splitlines():
                if line.startswith("RssAnon:"):
                    self.anonymous_bytes = max(self.anonymous_bytes, int(line.split()[1]) * 1024)

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()
