"""Scratch folders that do not outlive their run: private, removed on every exit, swept by the next run after a kill.

A folder is in use while its lock file is locked; the kernel drops that lock when a process ends, however it ends. So
what carries our name and can be locked is left over, and is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bbr.errors import NoSpace

PREFIX = ".bbr-scratch-"
_LOCK = "lock"


@contextmanager
def scratch_folder(parent: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """A new folder (0700) in ``parent`` for as long as the context lasts.

    First removes what killed runs left in ``parent``. Raises `NoSpace` when ``parent`` has less than ``needed_bytes``
    free, or when a disk fills up inside the context.
    """
    with _no_space(parent):
        sweep(parent)
        free = shutil.disk_usage(parent).free
        if free < needed_bytes:
            raise NoSpace(
                f"{parent}: {needed_bytes:,} bytes are needed, {free:,} are free",
                hint="free space or name another folder",
            )
        folder, lock = _new_folder(parent)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            os.close(lock)


def sweep(parent: Path) -> int:
    """Remove the scratch folders in ``parent`` that no living run holds. Returns how many."""
    swept = 0
    for folder in parent.glob(PREFIX + "*"):
        lock = _try_lock(folder)
        if lock is not None:
            shutil.rmtree(folder)
            os.close(lock)
            swept += 1
    return swept


def _new_folder(parent: Path) -> tuple[Path, int]:
    """A locked folder. Another run's sweep may take a folder in the moment before its lock: then make another."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = _try_lock(folder)
        if lock is not None:
            return folder, lock


def _try_lock(folder: Path) -> int | None:
    """An open, locked descriptor of the folder's lock file; None when another run holds it, or the folder is gone."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # gone, none of ours, or another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _no_space(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace(
            f"{place}: the disk is full", hint="free space or name another folder, then run it again"
        ) from err
