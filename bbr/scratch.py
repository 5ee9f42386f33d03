"""Scratch folders that do not outlive their run: private, removed on every exit, swept by the next run after a kill.

A folder is in use while its lock file is locked; the kernel drops that lock when a process ends, however it ends. So
what carries our name, is ours and can be locked is left over, and is removed.

The parent may be a folder where others can write, and we may be root. So a sweep trusts no path: it opens each folder
once, never through a link, looks at the owner of what it opened, and locks and removes relative to that descriptor.
What it cannot sweep is passed over: it must not stop a restore. What others put there is told to the log at debug
level; what is ours and stays holds Secrets, so that is a warning.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bbr.errors import NoSpace

PREFIX = ".bbr-scratch-"
_LOCK = "lock"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_EXISTING_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe in its place holds nobody up
_NEW_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL

_log = logging.getLogger(__name__)


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
        with _new_folder(parent) as folder:
            yield folder


def sweep(parent: Path) -> int:
    """Remove the scratch folders of this user in ``parent`` that no living run holds. Returns how many.

    Raises nothing for what cannot be removed, or for a parent that cannot be read.
    """
    with ExitStack() as opened:
        try:
            within = _open(opened, parent, os.O_RDONLY | os.O_DIRECTORY)
            with os.scandir(within) as entries:
                names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
        except OSError as err:
            _log.debug("%s is not swept: %s", parent, err.strerror)
            return 0
        return sum(_sweep_one(parent, within, name) for name in names)


def _sweep_one(parent: Path, within: int, name: str) -> bool:
    """Whether the folder ``name`` of the folder ``within`` was left over, and is gone."""
    with ExitStack() as opened:
        try:
            folder = _open(opened, name, _FOLDER, within)
        except OSError as err:  # gone, a link, a file, or closed to us
            _log.debug("%s is not swept: %s", parent / name, err.strerror)
            return False
        if os.fstat(folder).st_uid != os.geteuid():
            _log.debug("%s is not swept: it is another user's", parent / name)
            return False
        try:
            return _remove_unheld(opened, within, name, folder)
        except OSError as err:
            _log.warning("warning: %s is left over from a killed run and stays: %s", parent / name, err.strerror)
            return False


def _remove_unheld(opened: ExitStack, within: int, name: str, folder: int) -> bool:
    try:
        lock = _open(opened, _LOCK, _EXISTING_LOCK, folder)
    except FileNotFoundError:
        # Killed, or just about to make its lock and then to find its folder gone. It has put nothing in yet; a folder
        # that has something in it without our lock was not made by us, and the kernel refuses to remove it.
        os.rmdir(name, dir_fd=within)
        return True
    about = os.fstat(lock)
    if not stat.S_ISREG(about.st_mode) or about.st_size or about.st_uid != os.geteuid():
        raise OSError(errno.EINVAL, "its lock is none of ours")
    if not _try_lock(lock, folder):
        return False
    _remove(within, name, folder)
    return True


@contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """A locked folder. Another run's sweep may take a folder in the moment before its lock: then make another."""
    while True:
        with ExitStack() as opened:
            within = _open(opened, parent, os.O_PATH | os.O_DIRECTORY)
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            try:
                folder = _open(opened, path, _FOLDER)
                lock = _open(opened, _LOCK, _NEW_LOCK, folder)
            except FileNotFoundError:
                continue
            if not _try_lock(lock, folder):
                continue
            try:
                yield path
            finally:
                _remove(within, path.name, folder)
            return


def _try_lock(lock: int, folder: int) -> bool:
    """Lock the folder's lock file. False when another run holds it, or has just removed it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(_LOCK, dir_fd=folder, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _remove(within: int, name: str, folder: int) -> None:
    """Remove a folder that we hold, its lock last: what is left when we are killed meanwhile can be swept still."""
    with os.scandir(folder) as entries:
        content = [entry for entry in entries if entry.name != _LOCK]
    for entry in content:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=folder)
        else:
            os.unlink(entry.name, dir_fd=folder)
    with suppress(FileNotFoundError):  # a sweep may take the empty folder once its lock is gone
        os.unlink(_LOCK, dir_fd=folder)
        os.rmdir(name, dir_fd=within)


def _open(opened: ExitStack, path: str | Path, flags: int, within: int | None = None) -> int:
    """A descriptor that is closed with ``opened``. A new file is 0600."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=within)
    opened.callback(os.close, descriptor)
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
