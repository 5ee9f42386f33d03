"""A server process: waited for, stopped, killed, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.errors import PreconditionFailed, ToolMissing
from bbr.servers.process import Process

SLEEP = ["/bin/sh", "-c", "echo up; exec sleep 60"]
DEADLINE_S = 20


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"


def test_process_is_ready_when_the_condition_holds_and_ends_with_its_context(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Process("sleeper", SLEEP, log=log) as process:
        process.wait_ready(lambda: "up" in log.read_text(), what="its first word")
        assert is_alive(process.pid)
    assert not is_alive(process.pid)
    assert not process.is_running


def test_log_is_for_its_owner_only(tmp_path: Path) -> None:
    with Process("sleeper", SLEEP, log=tmp_path / "log"):
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_process_that_ends_too_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "seq 100; echo no such flag >&2; exit 3"]
    with (
        Process("server", command, log=tmp_path / "log") as process,
        pytest.raises(PreconditionFailed, match=r"server ended with 3; its last words:\n87\n(?s:.*)no such flag$"),
    ):
        process.wait_ready(lambda: False, what="never")


def test_process_that_is_not_ready_in_time_is_reported_with_what_was_waited_for(tmp_path: Path) -> None:
    with (
        Process("server", SLEEP, log=tmp_path / "log") as process,
        pytest.raises(PreconditionFailed, match=r"server: waited 0:00:01 for port 7; its last words:\nup"),
    ):
        process.wait_ready(lambda: False, what="port 7", limit=timedelta(seconds=1))


def test_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
    process = Process("stubborn", stubborn, log=log)
    process.wait_ready(lambda: "up" in log.read_text(), what="its first word")
    process.stop(limit=timedelta(seconds=0.3))
    assert not is_alive(process.pid)


def test_stop_and_kill_of_an_ended_process_are_harmless(tmp_path: Path) -> None:
    process = Process("sleeper", SLEEP, log=tmp_path / "log")
    process.kill()
    process.kill()
    process.stop()
    assert not process.is_running


def test_missing_program_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match=f"etcd m0: there is no program {tmp_path}/etcd"):
        Process("etcd m0", [str(tmp_path / "etcd")], log=tmp_path / "log")


def test_process_sees_only_the_environment_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_NAME", "from-the-shell")
    log = tmp_path / "log"
    with (
        Process("env", ["/usr/bin/env"], log=log, environ={"GIVEN": "1"}) as process,
        pytest.raises(PreconditionFailed, match="ended with 0"),
    ):
        process.wait_ready(lambda: False, what="never")
    assert log.read_text().splitlines() == ["GIVEN=1"]


def test_process_has_a_session_of_its_own(tmp_path: Path) -> None:
    with Process("sleeper", SLEEP, log=tmp_path / "log") as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_process_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from bbr.servers.process import Process\n"
        "log = pathlib.Path(sys.argv[1])\n"
        "process = Process('sleeper', ['/bin/sh', '-c', 'echo up; exec sleep 60'], log=log)\n"
        "process.wait_ready(lambda: 'up' in log.read_text(), what='its first word')\n"
        "print(process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert is_alive(server)
        parent.send_signal(signal.SIGKILL)
    wait_until_gone(server)
