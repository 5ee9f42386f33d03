"""Scratch folders: gone on every exit, swept after a kill, left alone while in use."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bbr.errors import NoSpace
from bbr.scratch import PREFIX, scratch_folder, sweep

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
