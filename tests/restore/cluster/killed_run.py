"""bbr's command line, killed with SIGKILL at a chosen point of a restore. Run as a program by the tests beside it.

Arguments: a JSON object that says when, then bbr's own words. ``at`` is one of
- ``begun``, ``done``: right after that was written down for ``step``; ``acted``: right before ``done`` would be;
- ``inside``: ``delay_ms`` after the ``nth`` thing was asked of a machine in `act` or `undo` of ``step``, so that it
  goes on there without us; where the step asks less of machines, at the end of it;
- ``undone``, ``taken-back``: right after, and right before, it is written down that ``step`` was undone;
- ``stopped``: not killed, but stopped (SIGSTOP) where ``begun`` would kill;
- ``fetch``: ``delay_ms`` after the snapshot's fetch began; ``time``: ``delay_ms`` after the start of bbr.
It never goes on past ``step``: one that had nothing to do is found, and then that is where it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from restore.step import Step
    from tests.restore.cluster.site import Site

STOP_S = 120.0
FETCHES = ("rebuild",)
ASKED = ("run", "put", "get", "stat", "forward")


@dataclass(frozen=True, slots=True)
class Point:
    """When to die; see above."""

    at: str
    step: str = ""
    nth: int = 1
    delay_ms: int = 30


@contextmanager
def stopped(site: Site, step: str, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """bbr's words, stopped when a step has begun: SIGCONT lets it go on. It does not outlive the context."""
    command = [sys.executable, "-P", __file__, json.dumps(asdict(Point("stopped", step))), *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=site.folder) as process:
        try:
            deadline = time.monotonic() + STOP_S
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                assert time.monotonic() < deadline and process.poll() is None, f"{step} did not begin"
                time.sleep(0.1)
            yield process
        finally:
            process.kill()


def killed(site: Site, point: Point, *words: str | Path, timeout_s: int = 300) -> subprocess.CompletedProcess[str]:
    """Run bbr's words, to be killed at a point. Its code is -9 when it was."""
    command = [sys.executable, "-P", __file__, json.dumps(asdict(point)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=site.folder)


class Killer:
    """Ends this process at one point."""

    def __init__(self, point: Point) -> None:
        self._point, self._is_inside, self._asked = point, False, 0
        self._lock = threading.Lock()

    def watch(self) -> None:
        """From now on."""
        from restore import apply, checklist, session
        from restore.guard import GuardedMachine

        write_to, steps_of = apply.write_to, checklist.steps_of
        apply.write_to = lambda *words: self._recording(write_to(*words))
        checklist.steps_of = lambda site: [Watched(step, self) for step in steps_of(site)]
        for name in FETCHES:
            setattr(session, name, self._timed(getattr(session, name), at="fetch"))
        for name in ASKED:
            setattr(GuardedMachine, name, self._counting(getattr(GuardedMachine, name)))
        if self._point.at == "time":
            self._die_later()

    def enter(self, step: str) -> None:
        """`act` or `undo` of a step begins."""
        self._is_inside = self._point == Point("inside", step, self._point.nth, self._point.delay_ms)

    def leave(self) -> None:
        """It has ended: later than this nothing is inside of it."""
        if self._is_inside:
            die()

    def _recording(self, record: Callable[..., None]) -> Callable[..., None]:
        before = {"acted": ("done", "found"), "taken-back": ("undone",)}
        ended = ("done", "found", "undone")
        after = {"begun": ("begun", *ended), "inside": ended, "done": ended, "undone": ended}

        def watched(event: str, step: str = "", detail: str = "", *, seconds: float = 0.0) -> None:
            if step == self._point.step and event in before.get(self._point.at, ()):
                die()
            record(event, step, detail, seconds=seconds)
            if (event, step, self._point.at) == ("begun", self._point.step, "stopped"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if step == self._point.step and event in after.get(self._point.at, ()):
                die()

        return watched

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **named: Any) -> Any:
            with self._lock:
                self._asked += self._is_inside
                if self._is_inside and self._asked == self._point.nth:
                    self._die_later()
            return method(*words, **named)

        return counted

    def _timed(self, function: Callable[..., Any], *, at: str) -> Callable[..., Any]:
        def timed(*words: Any, **named: Any) -> Any:
            if self._point.at == at:
                self._die_later()
            return function(*words, **named)

        return timed

    def _die_later(self) -> None:
        def wait() -> None:
            time.sleep(self._point.delay_ms / 1000)
            die()

        threading.Thread(target=wait, daemon=True).start()


class Watched:
    """A step that says when it is at work."""

    def __init__(self, step: Step, killer: Killer) -> None:
        self._step, self._killer = step, killer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def act(self, progress: Any) -> None:
        """See `Step.act`."""
        self._killer.enter(self._step.name)
        self._step.act(progress)
        self._killer.leave()

    def undo(self) -> None:
        """See `Step.undo`."""
        self._killer.enter(self._step.name)
        self._step.undo()
        self._killer.leave()


def die() -> NoReturn:
    """At once, as a machine that loses its power does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody comes here")


def run(point: str, words: Sequence[str]) -> None:
    """bbr, watched."""
    from bbr.cli.main import main

    Killer(Point(**json.loads(point))).watch()
    sys.argv = ["bbr", *words]
    main()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
