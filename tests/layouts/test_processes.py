"""What runs is found in /proc: real processes, under names that nobody else on this machine has."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Timer

import pytest

from bbr.errors import PreconditionFailed
from bbr.layouts.processes import find_processes, wait_ended
from bbr.machines.local import local_machine
from bbr.progress import Silent


class Told(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, what: str) -> None:
        self.steps.append(what)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A program of its own name, longer than what the kernel keeps of one, with flags; and its process."""
    name = f"kube-sleeping-server-{secrets.token_hex(4)}"
    shutil.copy(shutil.which("bash") or "/bin/bash", tmp_path / name)
    words = [str(tmp_path / name), "-c", "read -r line", "--data-dir=/var/lib/x", "--name", "", "--name", "m1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        yield name, process
        process.kill()


def test_process_is_found_by_the_file_it_runs_with_its_flags(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, process = sleeper
    (found,) = find_processes(local_machine(), name)
    assert found.pid == process.pid
    assert found.flags == {"data-dir": "/var/lib/x", "name": "m1"}
    assert found.arguments[-4:] == ("--name", "", "--name", "m1")
    assert find_processes(local_machine(), name) == (found,)


def test_process_is_found_when_its_file_was_exchanged(
    sleeper: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    name, _ = sleeper
    (tmp_path / name).unlink()
    assert len(find_processes(local_machine(), name)) == 1


def test_process_is_found_by_the_name_it_was_started_with() -> None:
    name = f"etcd-{secrets.token_hex(4)}"
    with subprocess.Popen([f"/opt/{name}", "60"], executable="/bin/sleep") as process:
        assert [one.pid for one in find_processes(local_machine(), name)] == [process.pid]
        process.kill()


def test_a_part_of_a_name_or_an_argument_is_no_match(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, _ = sleeper
    assert find_processes(local_machine(), name[:-1]) == ()
    assert find_processes(local_machine(), "--name") == ()


def test_a_process_that_nobody_collected_has_ended(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, process = sleeper
    process.kill()
    wait_ended(local_machine(), name, progress=Silent())
    assert process.returncode is None  # a zombie


def test_waiting_says_for_what_and_ends_with_the_process(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, process = sleeper
    told = Told()
    timer = Timer(1, process.terminate)
    timer.start()
    wait_ended(local_machine(), name, progress=told)
    timer.join()
    (step,) = told.steps
    assert f"waiting for {name} (process {process.pid}) to end, at most 0:01:00" in step


def test_one_that_does_not_end_is_named_at_the_limit(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, process = sleeper
    with pytest.raises(PreconditionFailed, match=rf"{name} \(process {process.pid}\) has not ended"):
        wait_ended(local_machine(), name, progress=Silent(), limit=timedelta(seconds=0.5))


def test_processes_that_are_not_meant_are_not_waited_for(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, _ = sleeper
    wait_ended(local_machine(), name, progress=Silent(), which=lambda one: one.flags["name"] == "m2")


def test_one_that_is_ours_is_told_to_end_and_no_other(sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    name, process = sleeper
    patience = timedelta(seconds=0.1)
    with pytest.raises(PreconditionFailed, match="has not ended"):
        wait_ended(
            local_machine(),
            name,
            progress=Silent(),
            limit=timedelta(seconds=0.7),
            ours=lambda one: one.flags["name"] == "m2",
            patience=patience,
        )
    wait_ended(local_machine(), name, progress=Silent(), ours=lambda one: one.pid == process.pid, patience=patience)
    assert process.wait() == -signal.SIGTERM
