from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bbr.errors import HeldByAnotherRun, PreconditionFailed, RootInvalid, UsageError
from bbr.repository.root import Pin
from bbr.repository.state import State, recall, remember

ID = "ab" * 32

HOLD = """
import sys, time
from pathlib import Path
from bbr.repository.state import State
with State.open(Path(sys.argv[1]), sys.argv[2]).run_lock("prod"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state", ID)


def test_everything_is_private(tmp_path: Path, state: State) -> None:
    state.raise_pin(Pin(ID, 3))
    state.manifests.remember([])
    assert state.spool.is_dir()
    assert state.caches.is_dir()
    remember(tmp_path / "state", "s3://bucket", Pin(ID, 3))
    with state.run_lock("prod"):
        paths = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert len(paths) >= 8
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / ID[:32]
    folder.mkdir(mode=0o755)
    State.open(tmp_path, ID)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreconditionFailed, match="cannot be used") as caught:
        State.open(tmp_path / "file", ID)
    assert "--state-dir" in caught.value.hint


def test_pin_is_the_highest_root_seen(state: State) -> None:
    assert state.pin() is None
    for number, expected in ((2, 2), (5, 5), (3, 5)):
        state.raise_pin(Pin(ID, number))
        assert state.pin() == Pin(ID, expected)


def test_pin_of_another_repository_is_not_taken(state: State) -> None:
    state.raise_pin(Pin("cd" * 32, 9))
    assert state.pin() is None


@pytest.mark.parametrize("body", [b"", b"{}", b'{"repository_id":"x","root_number":1}', b"\xff" * 5000])
def test_damaged_pin_is_not_passed_over(tmp_path: Path, state: State, body: bytes) -> None:
    state.raise_pin(Pin(ID, 3))
    path = tmp_path / "state" / ID[:32] / "pin.json"
    path.write_bytes(body)
    with pytest.raises(RootInvalid, match="what this host remembers of the repository is damaged") as caught:
        state.pin()
    assert f"then remove {path}" in caught.value.hint


def test_repository_met_at_an_address_is_remembered(tmp_path: Path) -> None:
    assert recall(tmp_path, "s3://one") is None
    remember(tmp_path, "s3://one", Pin(ID, 2))
    remember(tmp_path, "s3://one", Pin(ID, 3))
    assert recall(tmp_path, "s3://one") == Pin(ID, 3)
    assert recall(tmp_path, "s3://two") is None


def test_state_outlives_the_process_and_its_loss_is_harmless(tmp_path: Path, state: State) -> None:
    state.raise_pin(Pin(ID, 3))
    assert State.open(tmp_path / "state", ID).pin() == Pin(ID, 3)
    assert State.open(tmp_path / "elsewhere", ID).pin() is None


def test_second_run_of_one_cluster_is_refused_at_once(state: State) -> None:
    with (
        state.run_lock("prod"),
        pytest.raises(HeldByAnotherRun, match=f"works on cluster prod .process {os.getpid()}.") as caught,
        state.run_lock("prod"),
    ):
        pass
    assert caught.value.exit_code == 11


def test_runs_of_two_clusters_do_not_meet(state: State) -> None:
    with state.run_lock("prod"), state.run_lock("test"):
        pass


def test_lock_can_be_taken_again_after_a_run(state: State) -> None:
    for _ in range(2):
        with state.run_lock("prod"):
            pass


def test_lock_that_cannot_be_taken_is_told(tmp_path: Path, state: State) -> None:
    (tmp_path / "state" / ID[:32] / "run-prod.lock").mkdir()
    with pytest.raises(PreconditionFailed, match="cannot be taken"), state.run_lock("prod"):
        pass


def test_lock_of_a_cluster_that_cannot_be_is_refused(state: State) -> None:
    with pytest.raises(UsageError, match="not a name for a cluster"), state.run_lock("../x"):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path, state: State) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "state"), ID]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HeldByAnotherRun, match=f"process {holder.pid}"), state.run_lock("prod"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with state.run_lock("prod"):
        pass
