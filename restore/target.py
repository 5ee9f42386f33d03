"""Where a restore puts what it made: looked at before anything is fetched, and filled in one step at the end.

A data directory that exists, empty, is filled from the inside: the work is done in a scratch folder in it, and
`member/` is renamed into place. So it may be a disk of its own, it is that disk whose space counts, its owner, group
and mode stay what they are, and nobody needs to be allowed to write beside it. One that does not exist is made beside
its name (0700) and renamed. Both are one rename, so what appears is whole.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bbr.durable import sync_file, sync_folder
from bbr.errors import PreconditionFailed, TargetNotEmpty, UsageError
from bbr.scratch import PREFIX, sweep

MEMBER = "member"
"""All that etcd has in its data directory."""

_FOUND_BY_FSCK = "lost+found"


def check_parent(target: Path) -> None:
    """Raises `UsageError` when the folder that ``target`` is to appear in does not exist."""
    parent = target.parent
    if not parent.is_dir():
        what = "is not a directory" if parent.exists() else "does not exist"
        raise UsageError(
            f"{parent} {what}, and {target.name} is to be written there",
            hint=f"make it, or name another: {shlex.join(['mkdir', '-p', str(parent)])}",
        )


def find_workplace(target: Path) -> Path:
    """The folder that scratch files for the data directory ``target`` belong in: itself where it exists, or its parent.

    Removes what a killed restore left there. Raises `TargetNotEmpty`, or `UsageError` when there is no parent.
    """
    if target.is_symlink():
        raise TargetNotEmpty(f"{target} is a symbolic link; it was left as it is", hint=f"name {target.resolve()}")
    if not target.exists():
        check_parent(target)
        return target.parent
    if not target.is_dir():
        raise TargetNotEmpty(f"{target} is not a directory; it was left as it is")
    # In the parent too: the run that was killed may have begun before this folder was made.
    for place in (target, target.parent):
        sweep(place)
    names = {path.name for path in target.iterdir()}
    if target.is_mount():
        names.discard(_FOUND_BY_FSCK)
    if names and all(name.startswith(PREFIX) for name in names):
        raise TargetNotEmpty(f"another restore works in {target}", hint="wait for it, or end it")
    if names:
        raise TargetNotEmpty(
            f"{target} is not empty; it was left as it is", hint="move what is in it aside, or name another"
        )
    return target


def put_in_place(made: Path, target: Path, *, workplace: Path, warn: Callable[[str], None]) -> None:
    """Give the data directory ``made``, which lies below ``workplace``, the name ``target``, durably.

    Where ``target`` existed, everything gets its owner and group first; ``warn`` is told when that is not allowed.
    Raises `TargetNotEmpty` when something is there by now, `PreconditionFailed` when ``made`` is not ours any more.
    """
    if workplace == target:
        _hand_over(made / MEMBER, target, warn)
        source, name = made / MEMBER, target / MEMBER
    else:
        source, name = made, target
    _sync(source)
    try:
        # The kernel refuses to rename over a folder that has something in it, so nothing is lost to a race.
        source.rename(name)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise TargetNotEmpty(f"{name} was made by somebody else meanwhile; it was left as it is") from err
    sync_folder(name.parent)


def _hand_over(tree: Path, target: Path, warn: Callable[[str], None]) -> None:
    """etcd often runs under a user of its own, and starts on nothing that belongs to another.

    ``target`` belongs to that user, who could exchange what we made in it for links to what is not theirs. So no path
    is followed twice, and nobody gets what lies in a folder that is not ours.
    """
    wanted = target.stat()
    owner = (wanted.st_uid, wanted.st_gid)
    with ExitStack() as opened:
        folder = _open(opened, target, os.O_RDONLY | os.O_DIRECTORY)
        for name in tree.relative_to(target).parts:
            try:
                folder = _open(opened, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, folder)
            except OSError as err:
                raise PreconditionFailed(f"{tree} was exchanged by somebody: {err.strerror}") from err
            if os.fstat(folder).st_uid != os.geteuid():
                raise PreconditionFailed(f"{tree} was exchanged by somebody: it is not this user's any more")
        try:
            for _, _, files, within in os.fwalk(".", dir_fd=folder):
                for name in files:
                    _give(name, owner, within)
                _give(".", owner, within)
        except PermissionError:
            text = f"{wanted.st_uid}:{wanted.st_gid}"
            command = shlex.join(["chown", "-R", text, str(target / MEMBER)])
            warn(
                f"{target} belongs to {text}, and only root can give files away; before etcd starts, as root: {command}"
            )


def _open(opened: ExitStack, path: Path | str, flags: int, within: int | None = None) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=within)
    opened.callback(os.close, descriptor)
    return descriptor


def _give(name: str, owner: tuple[int, int], within: int) -> None:
    there = os.stat(name, dir_fd=within, follow_symlinks=False)
    if (there.st_uid, there.st_gid) != owner:
        os.chown(name, *owner, dir_fd=within, follow_symlinks=False)


def _sync(tree: Path) -> None:
    for path in _walk(tree):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)


def _walk(tree: Path) -> Iterator[Path]:
    yield tree
    yield from tree.rglob("*")
