"""A store in a directory: no server, one file an object.

A put writes a temporary file whose name begins with a dot, syncs it, gives it its name, which fails when that is
taken, and syncs the folder. So an object is there whole or not at all, and is never replaced. Files are 0600, folders
0700. Temporary files of a killed run are never listed, and `put` in the same folder removes those that are a day old.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bbr.durable import publish, sync_folder
from bbr.errors import (
    AccessDenied,
    AlreadyExists,
    BodyTooLarge,
    BucketMissing,
    NoSpace,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from bbr.stores.store import Buffer, Entry, Stored, checked_name, is_name

_TEMPORARY_PREFIX = ".writing-"
_STALE_S = 24 * 3600


class DirectoryStore:
    """Objects under ``root``, an existing directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept: set[Path] = set()

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`. The time is this host's clock, read after the write, as the file system has it.

        Raises `PreconditionFailed` where the file system can publish no file without overwriting another.
        """
        if retain_until is not None:
            raise StoreError(f"{self._root}: a directory cannot lock objects")
        path = self._path(name)
        with self._translated(f"writing {name}"):
            self._make_folder(path.parent)
            temporary = path.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            try:
                stored = _write(temporary, body)
                try:
                    publish(temporary, path)
                except FileExistsError as err:
                    raise AlreadyExists(f"writing {name}: it exists already") from err
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
        return Stored(name, len(body), stored)

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        with self._translated(f"reading {name}"):
            # Not to be held up by a pipe that somebody put in an object's place.
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise NotFound(f"reading {name}: what is in its place is no file")
            with os.fdopen(descriptor, "rb") as file:
                body = file.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            raise BodyTooLarge(f"{name} has more than the {limit_bytes:,} bytes expected")
        return body

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`. What begins with a dot, and links, are not objects."""
        with self._translated(f"listing {prefix or 'everything'}"):
            if not self._root.is_dir():
                raise BucketMissing(f"{self._root} is not a directory", hint="check the path, and that it is mounted")
            folder = prefix.rpartition("/")[0]
            if folder and not is_name(folder):
                return iter(())
            start = self._path(folder) if folder else self._root
            if folder and start.is_symlink():
                return iter(())
            found = [
                entry for entry in self._walk(start, f"{folder}/" if folder else "") if entry.name.startswith(prefix)
            ]
        found.sort(key=lambda entry: entry.name)
        return iter(found)

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        path = self._path(name)
        if not path.parent.is_dir():
            return
        with self._translated(f"deleting {name}"):
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def _walk(self, folder: Path, name: str) -> Iterator[Entry]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(folder / entry.name, f"{name}{entry.name}/")
            elif entry.is_file(follow_symlinks=False) and is_name(f"{name}{entry.name}"):
                about = entry.stat(follow_symlinks=False)
                yield Entry(f"{name}{entry.name}", about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))

    def _path(self, name: str) -> Path:
        """Where an object is. Refuses a name that a link in the directory would lead out of it."""
        path = self._root / checked_name(name)
        for folder in path.relative_to(self._root).parents:
            if (self._root / folder).is_symlink() and folder != Path():
                raise AccessDenied(f"{self._root / folder} is a link; a store's folders are not")
        return path

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            if folder not in self._swept:
                self._swept.add(folder)
                _remove_stale(folder)
            return
        if not self._root.is_dir():
            raise BucketMissing(f"{self._root} is not a directory", hint="check the path, and that it is mounted")
        missing = [folder, *folder.parents][: len(folder.relative_to(self._root).parts)]
        for step in reversed(missing):
            step.mkdir(mode=0o700, exist_ok=True)
            sync_folder(step.parent)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as err:
            if not self._root.is_dir():
                raise BucketMissing(
                    f"{self._root} is not a directory", hint="check the path, and that it is mounted"
                ) from err
            raise NotFound(f"{doing}: it is not in the store") from err
        except (PermissionError, IsADirectoryError) as err:
            raise AccessDenied(f"{doing} in {self._root}: {err.strerror}", hint="check owner and mode") from err
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"{doing}: the disk of {self._root} is full", hint="free space, then run it again"
                ) from err
            if err.errno == errno.ELOOP:
                raise AccessDenied(f"{doing}: a link lies in its place") from err
            if err.errno in (errno.EIO, errno.ESTALE):
                raise StoreUnavailable(
                    f"{doing} in {self._root}: {err.strerror}", hint="check the disk or the mount"
                ) from err
            raise StoreError(f"{doing} in {self._root}: {err.strerror}") from err


def _write(path: Path, body: Buffer) -> datetime:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as out:
        rest = memoryview(body)
        while rest:
            rest = rest[out.write(rest) :]
        os.fsync(out.fileno())
        return datetime.fromtimestamp(os.fstat(out.fileno()).st_mtime, UTC)


def _remove_stale(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        try:
            if path.stat().st_mtime < time.time() - _STALE_S:
                path.unlink(missing_ok=True)
        except FileNotFoundError:  # another run was faster
            continue
