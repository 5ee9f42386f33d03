"""Scratch folders: gone on every exit, swept after a kill, left alone while in use, and no lever for anybody else."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bbr.errors import NoSpace
from bbr.scratch import PREFIX, scratch_folder, sweep

NOBODY = 65534

HOLD = """
import sys
from pathlib import Path
from bbr.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "secret").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_folder_is_private_and_gone_after(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


def test_folder_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_folder_of_a_living_run_is_left_and_of_a_killed_one_swept(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        assert sweep(tmp_path) == 0
        assert (folder / "secret").exists()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(10)
    assert folder.exists()
    with scratch_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]


def test_too_little_space_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).total * 2
    with pytest.raises(NoSpace, match="are needed"), scratch_folder(tmp_path, needed_bytes=needed):
        pass
    assert list(tmp_path.glob(PREFIX + "*")) == []


def test_a_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="the disk is full"), scratch_folder(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_whose_run_was_killed_before_its_lock_is_swept(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}x").mkdir()
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_runs_that_sweep_at_the_same_time_do_not_disturb_one_another(tmp_path: Path) -> None:
    def live(number: int) -> None:
        with scratch_folder(tmp_path) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "file").write_text(str(number))
            assert (folder / "sub" / "file").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(400)))
    assert list(tmp_path.iterdir()) == []


def left_over(parent: Path) -> Path:
    """A folder as a killed run leaves it."""
    folder = parent / f"{PREFIX}left"
    folder.mkdir(mode=0o700)
    (folder / "lock").touch(0o600)
    (folder / "secret").write_text("x")
    return folder


def test_what_is_left_over_is_removed_without_following_its_links(tmp_path: Path) -> None:
    precious, parent = tmp_path / "precious", tmp_path / "parent"
    precious.mkdir()
    parent.mkdir()
    (precious / "file").touch()
    folder = left_over(parent)
    (folder / "sub").mkdir()
    (folder / "sub" / "link").symlink_to(precious)
    (folder / "link").symlink_to(precious)
    assert sweep(parent) == 1
    assert (precious / "file").exists()
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("owner", [os.geteuid(), NOBODY])
def test_a_planted_lock_makes_no_file_elsewhere(tmp_path: Path, owner: int) -> None:
    public, victim = tmp_path / "public", tmp_path / "victim"
    planted = public / f"{PREFIX}evil"
    planted.mkdir(parents=True)
    (planted / "lock").symlink_to(victim)
    os.chown(planted, owner, -1)
    with scratch_folder(public):
        pass
    assert not victim.exists()
    assert list(public.iterdir()) == [planted]


def test_a_planted_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    public, precious = tmp_path / "public", tmp_path / "precious"
    public.mkdir()
    precious.mkdir()
    (public / f"{PREFIX}z").symlink_to(precious)
    with scratch_folder(public):
        pass
    assert list(precious.iterdir()) == []
    assert (public / f"{PREFIX}z").is_symlink()


def test_a_link_to_what_is_left_over_elsewhere_is_not_followed(tmp_path: Path) -> None:
    public, elsewhere = tmp_path / "public", tmp_path / "elsewhere"
    public.mkdir()
    elsewhere.mkdir()
    folder = left_over(elsewhere)
    (public / folder.name).symlink_to(folder)
    assert sweep(public) == 0
    assert (folder / "secret").exists()


def plant_of_nobody(lock: Path) -> None:
    lock.touch()
    os.chown(lock, NOBODY, -1)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda lock: lock.mkdir(), id="folder"),
        pytest.param(lambda lock: lock.symlink_to(lock), id="link to itself"),
        pytest.param(lambda lock: os.mkfifo(lock), id="pipe"),
        pytest.param(lambda lock: lock.write_text("somebody's file"), id="file with content"),
        pytest.param(plant_of_nobody, id="another user's file"),
    ],
)
def test_a_lock_that_is_none_of_ours_stops_no_run(
    tmp_path: Path, plant: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    planted = tmp_path / f"{PREFIX}y"
    planted.mkdir()
    plant(planted / "lock")
    with scratch_folder(tmp_path) as folder:
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == [planted]
    assert os.path.lexists(planted / "lock")
    assert [(record.levelno, str(planted) in record.message) for record in caplog.records] == [(logging.WARNING, True)]


def test_another_users_folder_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = left_over(tmp_path)
    os.chown(folder, NOBODY, -1)
    assert sweep(tmp_path) == 0
    assert (folder / "secret").exists()
    assert caplog.records == []


def test_a_folder_that_was_given_our_name_keeps_its_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{PREFIX}x").mkdir()
    (tmp_path / f"{PREFIX}x" / "precious").touch()
    with scratch_folder(tmp_path):
        pass
    assert (tmp_path / f"{PREFIX}x" / "precious").exists()
    assert "Directory not empty" in caplog.text


def test_a_file_or_a_pipe_of_our_name_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}file").touch()
    os.mkfifo(tmp_path / f"{PREFIX}pipe")
    assert sweep(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_moved_away_meanwhile_is_emptied_all_the_same(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "secret").touch()
        folder.rename(tmp_path / "moved")
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_parent_that_cannot_be_listed_is_no_obstacle(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bbr.scratch import scratch_folder\n"
        "parent = Path(sys.argv[1])\n"
        "with scratch_folder(parent) as folder:\n"
        "    (folder / 'file').touch()\n"
        "    print(os.listdir(folder))\n"
    )
    tmp_path.chmod(0o300)
    # Without root's right to read everything.
    unprivileged = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if os.geteuid() != 0:
        unprivileged = []
    done = subprocess.run(
        [*unprivileged, sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    tmp_path.chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
