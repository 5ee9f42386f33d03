"""Which processes a test run has left running: its children, and the orphans that its children left."""

from __future__ import annotations

import ctypes
import os
import time
from datetime import timedelta
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_POLL_S = 0.02


def adopt_orphans() -> None:
    """From now on, what a child of ours leaves when it dies becomes our child, not that of the machine's init."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def still_running(*, limit: timedelta) -> list[str]:
    """Our children as ``pid: command line``, once there is none, or after ``limit``. Ended ones do not count."""
    deadline = time.monotonic() + limit.total_seconds()
    while (left := _children()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def _children() -> list[str]:
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except FileNotFoundError:  # a thread that has ended
            continue
        found += [f"{pid}: {command}" for pid in children if (command := _command_line(pid))]
    # Python's own tracker of shared memory lives as long as we do.
    return [line for line in found if "multiprocessing.resource_tracker" not in line]


def _command_line(pid: str) -> str:
    """Empty for one that has ended, whether it was waited for or not."""
    try:
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return ""
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return command or "(between fork and exec)"  # where there is no command line yet
