"""bbr as the command line runs it, which SIGKILL ends at one point of its journal: between steps, or inside one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from restore.journal import Journal
from tests.restore.cluster.site import COMMAND_TIME, Site

PROGRAM = "from tests.restore.truelab.stopping import main; main()"


@dataclass(frozen=True, slots=True)
class Point:
    """``after_s`` seconds after the journal holds ``event`` of ``step``: 0 is before anything follows it."""

    event: str
    step: str
    after_s: float = 0.0


def killed_at(site: Site, point: Point, *words: str) -> None:
    """Run it, and see that it was killed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(asdict(point)), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIME.total_seconds(),
        cwd=site.folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == -signal.SIGKILL, f"{point}: it ended with {done.returncode}\n{done.stdout}\n{done.stderr}"


def main() -> None:
    """What the process does: arguments are the point as JSON, then those of bbr."""
    point = Point(**json.loads(sys.argv[1]))
    written = Journal.write

    def write(self: Journal, event: Any, step: str = "", *rest: Any, **named: Any) -> Any:
        entry = written(self, event, step, *rest, **named)
        if (event, step) == (point.event, point.step):
            if not point.after_s:
                _die()
            timer = threading.Timer(point.after_s, _die)
            timer.daemon = True
            timer.start()
        return entry

    Journal.write = write  # type: ignore[method-assign]
    sys.argv[:] = ["bbr", *sys.argv[2:]]
    from bbr.cli.main import main as bbr

    bbr()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
