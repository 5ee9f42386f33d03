"""What only this machine can show: a small disk of its own, and a caller that is interrupted or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bbr.machines.local import local_machine
from tests.machines.conftest import needs_root
from tests.machines.sshd import wait_until, wait_until_gone

FULL_DISK = """\
import sys
from pathlib import PurePosixPath
from bbr.errors import NoSpace
from bbr.machines.local import local_machine

path = PurePosixPath(sys.argv[1], "file")
machine = local_machine()
machine.put(path, [b"old"], mode=0o600)
try:
    machine.put(path, [bytes(1 << 20)] * 16, mode=0o600)
except NoSpace as err:
    assert err.exit_code == 5
    assert f"writing {path}: the disk is full: " in str(err), err
    assert b"".join(machine.get(path, limit_bytes=3)) == b"old"
    assert machine.run(["ls", "-A", sys.argv[1]]).stdout == b"file\\n"
    print("told")
"""

CALLER = """\
import sys
from datetime import timedelta
from bbr.machines.local import local_machine

local_machine().run(["sh", "-c", f"echo $$ > {sys.argv[1]}; sleep 314"], timeout=timedelta(seconds=int(sys.argv[2])))
"""


@needs_root
def test_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o size=8m tmpfs "$1" && exec "$2" -W error -c "$3" "$1"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, "sh", str(tmp_path)]
    ended = subprocess.run(
        [*command, sys.executable, FULL_DISK], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "told\n"


@pytest.mark.parametrize(("ends_by", "limit_s"), [(signal.SIGINT, 120), (signal.SIGKILL, 2)])
def test_command_ends_when_its_caller_is_interrupted_and_at_its_limit_when_killed(
    tmp_path: Path, ends_by: signal.Signals, limit_s: int
) -> None:
    pid = tmp_path / "pid"
    words = [sys.executable, "-c", CALLER, str(pid), str(limit_s)]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as caller:
        wait_until(lambda: pid.exists() and pid.read_text(), "the command to begin")
        began = time.monotonic()
        caller.send_signal(ends_by)
        caller.wait(20)
    assert time.monotonic() - began < 10
    wait_until_gone(pid)


def test_command_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    seen = local_machine().run(["env"]).stdout.decode()
    assert {line.split("=")[0] for line in seen.splitlines()} <= {"PATH", "HOME", "LC_ALL", "PWD", "OLDPWD", "_"}


def test_machine_names_itself() -> None:
    assert local_machine().name == f"this machine ({os.uname().nodename})"
