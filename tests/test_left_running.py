"""The check that ends every test run sees what it should see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

from tests.left_running import adopt_orphans, still_running

AT_ONCE = timedelta(0)


def listed(pid: int, lines: list[str]) -> bool:
    return any(line.startswith(f"{pid}: ") for line in lines)


def test_a_running_child_is_listed_until_it_ends() -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert listed(child.pid, still_running(limit=AT_ONCE))
    finally:
        child.kill()
        child.wait()
    assert not listed(child.pid, still_running(limit=AT_ONCE))


def test_a_child_that_ended_and_was_not_waited_for_is_not_listed() -> None:
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not listed(child.pid, still_running(limit=AT_ONCE))
    child.wait()


def test_an_orphan_of_a_child_is_listed() -> None:
    adopt_orphans()
    printed = subprocess.run(
        ["/bin/sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True, timeout=20
    )
    orphan = int(printed.stdout)
    try:
        assert listed(orphan, still_running(limit=AT_ONCE))
    finally:
        os.kill(orphan, signal.SIGKILL)
        os.waitpid(orphan, 0)


def test_a_child_that_is_about_to_end_is_waited_for() -> None:
    # In a process of its own: this one has the servers of the whole run for children.
    program = (
        "import datetime, subprocess, time\n"
        "from tests.left_running import still_running\n"
        "child = subprocess.Popen(['/bin/sleep', '1'])\n"
        "began = time.monotonic()\n"
        "(line,) = still_running(limit=datetime.timedelta(0))\n"
        "assert line.startswith(f'{child.pid}: ')\n"  # its command line may not be there yet
        "assert still_running(limit=datetime.timedelta(seconds=60)) == []\n"
        "assert time.monotonic() - began < 30\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=90)
