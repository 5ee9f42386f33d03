"""Making what was written outlive a power cut: a file's content, and the name that its folder has for it.

And giving a finished file that name: whole, and never one that is taken.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bbr.errors import PreconditionFailed

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What link(2) answers on vfat, exFAT, CIFS and some FUSE file systems."""

_NO_SUCH_RENAME = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What renameat2(2) answers where the file system, or the kernel, does not know RENAME_NOREPLACE."""

_AT_FDCWD = -100  # fcntl.h
_RENAME_NOREPLACE = 1  # linux/fs.h


def publish(temporary: Path, target: Path) -> None:
    """Give a finished file its name, in one step that fails when the name is taken.

    Both must be on one file system. Afterwards ``temporary`` may be there or not; the name is durable once
    `sync_folder` has returned. Raises `FileExistsError`, `PreconditionFailed` when the file system has no such step,
    or another `OSError`. Source: link(2), rename(2).
    """
    try:
        os.link(temporary, target)
    except OSError as err:
        if err.errno not in _NO_HARD_LINKS:
            raise
        _rename_to_free_name(temporary, target)


def replace_file(path: Path, body: bytes) -> None:
    """Write a file (0600) under a name that may be taken. Durable on return; a crash leaves the old one or the new one.

    Raises `OSError`; then the old one is left as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.writing")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Return once the file's content is on its disk."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_folder(folder: Path) -> None:
    """Return once the names in the folder are on its disk: after a create, a link, a rename or an unlink."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _rename_to_free_name(temporary: Path, target: Path) -> None:
    import ctypes  # needed on few file systems only

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, not in every musl
    number = errno.ENOSYS
    if renameat2 is not None:
        names = os.fsencode(temporary), os.fsencode(target)
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
    refused = OSError(number, os.strerror(number), str(temporary), None, str(target))
    if number not in _NO_SUCH_RENAME:
        raise refused
    raise PreconditionFailed(
        f"{target}: its file system has no hard links and cannot rename without overwriting, "
        "so nothing can appear there whole and replace nothing",
        hint="name a folder on another file system: ext4, XFS, Btrfs, ZFS, tmpfs and NFS can do it",
    ) from refused


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
