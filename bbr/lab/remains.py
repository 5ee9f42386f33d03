"""What a lab leaves, and removing it: when it is taken down, and when the run that owned it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from bbr.errors import BbrError
from bbr.lab import cgroups, disk, label, network
from bbr.lab.label import Label

_SWEEP_LOCK = ".lock"

_log = logging.getLogger(__name__)


def labels(base: Path) -> list[Label]:
    """The labs in a base folder, those that are up and those that were left, by name."""
    if not base.exists():
        return []
    found = (label.read(folder) for folder in sorted(base.iterdir()) if folder.is_dir())
    return [one for one in found if one is not None]


def take_down(its: Label) -> None:
    """Remove all that belongs to a lab; its label goes last. What is missing is no error.

    Raises `PreconditionFailed` when something would not go.
    """
    namespaces = network.named_for(its.namespace)
    # Clients in the lab's own network end, too: it would live as long as they do.
    for namespace in namespaces:
        network.end_processes(namespace)
    for namespace in namespaces:
        network.remove(namespace)
    cgroups.remove([one.folder for one in its.cgroups])
    disk.remove(its.folder / label.HOSTS)
    disk.remove(its.folder)


def sweep(base: Path) -> list[str]:
    """Take down every lab whose run was killed. Returns their names. One that will not go is told to the log."""
    swept = []
    with only_one(base):
        _remove_unlabelled(base)
        for its in labels(base):
            if its.is_kept or (owner := label.own(its.folder)) is None:
                continue
            with owner:
                try:
                    take_down(its)
                except BbrError as err:
                    _log.warning(
                        "a lab that a killed run left cannot be removed", extra={"lab": its.name}, exc_info=err
                    )
                else:
                    swept.append(its.name)
    return swept


@contextlib.contextmanager
def only_one(base: Path) -> Iterator[None]:
    """One process at a time makes or sweeps labs in a base folder: a lab that is being labelled has no owner yet."""
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (base / _SWEEP_LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_unlabelled(base: Path) -> None:
    """Folders of runs that were killed before the label was written. Anything else that lies there is not ours."""
    for folder in base.iterdir():
        if not folder.is_dir() or (folder / label.FILE).exists():
            continue
        for path in folder.iterdir():
            if path.name == label.LOCK or path.name.startswith(f"{label.FILE}."):
                path.unlink()
        with contextlib.suppress(OSError):  # not empty: not ours
            folder.rmdir()
