"""What this host remembers of a repository: a folder for each id, private, and harmless to lose.

    <base>/<first 32 hex of the id>/pin.json       the highest root number seen
                                    heads.json     the newest manifest of each writer that was seen
                                    manifests.db   verified manifests (`bbr.repository.manifest_cache`)
                                    caches/        what a writer needs for the next increment
                                    spool/         snapshots on their way; empty between runs
                                    run-<cluster>.lock
    <base>/places/<hash of an address>.json        which repository was met at an address

Files 0600, folders 0700. Losing it all costs a base backup, a full listing, and the memory of what the store showed:
of the pins that are not in key files, and of the newest backups.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bbr.durable import replace_file
from bbr.errors import HeldByAnotherRun, NoSpace, PreconditionFailed, RootInvalid
from bbr.repository import document, names
from bbr.repository.document import Record, integer, matching
from bbr.repository.heads import HeadsFile
from bbr.repository.manifest_cache import ManifestCache
from bbr.repository.root import Pin

_PIN_LIMIT_BYTES = 4096
_PIN = Record(Pin, {"repository_id": matching(names.SHA256), "root_number": integer(1, names.ROOT_NUMBER_LIMIT)})


class State:
    """The folder of one repository. Make it with `open`."""

    def __init__(self, folder: Path, repository_id: str) -> None:
        self._folder = folder
        self._repository_id = repository_id

    @classmethod
    def open(cls, base: Path, repository_id: str) -> State:
        """The state of a repository under ``base``, made if need be. Raises `PreconditionFailed` when it cannot be."""
        folder = base / repository_id[:32]
        _make_folder(folder)
        return cls(folder, repository_id)

    @property
    def manifests(self) -> ManifestCache:
        """The cache of verified manifests."""
        return ManifestCache(self._folder / "manifests.db")

    @property
    def heads(self) -> HeadsFile:
        """The newest manifest of each writer that was seen."""
        return HeadsFile(self._folder / "heads.json")

    @property
    def caches(self) -> Path:
        """Where a writer's caches of live records lie."""
        return _make_folder(self._folder / "caches")

    @property
    def spool(self) -> Path:
        """Where snapshots lie while they are stored."""
        return _make_folder(self._folder / "spool")

    def pin(self) -> Pin | None:
        """The highest root number seen, or None. Raises `RootInvalid` for a damaged file: it is not passed over."""
        return _read_pin(self._folder / "pin.json")

    def raise_pin(self, pin: Pin) -> None:
        """Remember the root that was seen now, unless a higher one was. Durable on return."""
        known = self.pin()
        if pin.repository_id == self._repository_id and (known is None or known.root_number < pin.root_number):
            _write_pin(self._folder / "pin.json", pin)

    @contextmanager
    def run_lock(self, cluster: str) -> Iterator[None]:
        """Hold a cluster for one run of this host; the kernel lets go when the process ends, however it ends.

        Raises `HeldByAnotherRun` at once, naming the process.
        """
        path = self._folder / f"run-{names.checked_cluster(cluster)}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise PreconditionFailed(f"the lock {path} cannot be taken: {err.strerror}") from err
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                raise HeldByAnotherRun(
                    f"another run of this host works on cluster {cluster} (process {holder})",
                    hint="wait for it to end; nothing needs to be unlocked",
                ) from err
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def recall(base: Path, address: str) -> Pin | None:
    """The repository that was met at an address before, or None. Raises `RootInvalid` for a damaged file."""
    return _read_pin(_place(base, address))


def remember(base: Path, address: str, pin: Pin) -> None:
    """Remember which repository was met at an address, and its root. Durable on return."""
    path = _place(base, address)
    _make_folder(path.parent)
    if _read_pin(path) != pin:
        _write_pin(path, pin)


def _place(base: Path, address: str) -> Path:
    return base / "places" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _make_folder(folder: Path) -> Path:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as err:
        raise PreconditionFailed(
            f"the state folder {folder} cannot be used: {err.strerror}", hint="name another with --state-dir"
        ) from err
    return folder


def _read_pin(path: Path) -> Pin | None:
    try:
        with path.open("rb") as file:
            body = file.read(_PIN_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise PreconditionFailed(f"{path} cannot be read: {err.strerror}") from err
    try:
        return document.decode(body, _PIN, error=RootInvalid, what=str(path))
    except RootInvalid as err:
        raise RootInvalid(
            f"what this host remembers of the repository is damaged: {err}",
            hint=f"compare the repository's id with your key file, then remove {path}",
        ) from err


def _write_pin(path: Path, pin: Pin) -> None:
    try:
        replace_file(path, document.encode(pin))
    except OSError as err:
        raise NoSpace(f"{path} cannot be written: {err.strerror}") from err
