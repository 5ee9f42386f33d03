"""The cgroups of a lab: in every hierarchy a child of our own, with a child for each host, which sees it as its root.

A real kubelet needs to own its tree. Version 1 (a folder for each controller) was run; version 2 is written by its
rules and UNPROVEN until it has run on such a machine. A machine that has both, with the controllers in version 1
(systemd calls it hybrid), counts as version 1.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bbr.errors import PreconditionFailed

_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")
LEAF = "init"
"""In version 2, the child of a host's cgroup that its processes are in."""

_REMOVE_LIMIT_S = 10
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup in one hierarchy. ``mounted_at`` and ``options`` are what a host mounts, to see the hierarchy too."""

    mounted_at: Path
    kind: str
    options: str
    folder: Path


def for_lab(lab: str) -> tuple[Cgroup, ...]:
    """Where a lab's cgroups are to be made by this process. Raises `PreconditionFailed` on a machine without any."""
    ours = own_cgroups(_MOUNTS.read_text(), _OWN.read_text())
    if not ours:
        raise PreconditionFailed("no cgroups are mounted below /sys/fs/cgroup", hint="mount them, as systemd would")
    return tuple(Cgroup(one.mounted_at, one.kind, one.options, _parent(one) / lab) for one in ours)


def own_cgroups(mounts: str, own: str) -> tuple[Cgroup, ...]:
    """Those with controllers, from the text of /proc/self/mountinfo and /proc/self/cgroup. Source: cgroups(7)."""
    places = _places(own)
    found: dict[str, Cgroup] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mounted_at = (Path(word) for word in before.split()[3:5])
        options = _identity(super_options, places) if kind == "cgroup" else ""
        place = places.get(options)
        if place is not None and place.is_relative_to(root):
            found.setdefault(options, Cgroup(mounted_at, kind, options, mounted_at / place.relative_to(root)))
    version_1 = tuple(found[options] for options in sorted(found) if options)
    return version_1 or tuple(found.values())


def create(lab: Sequence[Cgroup], host: str) -> tuple[Cgroup, ...]:
    """Make a host's cgroups, and the lab's before them. Returns the host's. Raises `PreconditionFailed`."""
    try:
        return tuple(replace(cgroup, folder=_create(cgroup, host)) for cgroup in lab)
    except OSError as err:
        raise PreconditionFailed(f"no cgroup for host {host}: {err}", hint="in a container: go outside") from err


def remove(folders: Sequence[Path]) -> None:
    """Remove cgroups and what is below them, once nothing runs in them. Missing ones are no error."""
    for folder in folders:
        _remove(folder)


def _parent(own: Cgroup) -> Path:
    # In version 2 a cgroup with processes in it, as ours, hands no controllers on; the one above it does, or the root.
    beside = own.kind == "cgroup2" and own.folder != own.mounted_at
    return own.folder.parent if beside else own.folder


def _create(lab: Cgroup, host: str) -> Path:
    for folder in (lab.folder, lab.folder / host):
        if lab.kind == "cgroup2":
            _hand_on_controllers(folder.parent)
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new child, and nothing may run on nothing
            setting = folder / name
            if lab.kind == "cgroup" and setting.exists() and not setting.read_text().strip():
                setting.write_text((folder.parent / name).read_text())
    if lab.kind == "cgroup2":
        (lab.folder / host / LEAF).mkdir(exist_ok=True)
    return lab.folder / host


def _hand_on_controllers(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # one that cannot be handed on is missed by who needs it, and said there
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove(folder: Path) -> None:
    """Children first. The kernel says "busy" for a moment after the last process has ended."""
    if not folder.exists():
        return
    for child in folder.iterdir():
        if child.is_dir():
            _remove(child)
    deadline = time.monotonic() + _REMOVE_LIMIT_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError as err:
            if err.errno != errno.EBUSY or time.monotonic() > deadline:
                raise PreconditionFailed(f"{folder}: the cgroup is not removed: {err.strerror}") from err
            time.sleep(_POLL_S)


def _places(own: str) -> dict[str, Path]:
    """Our cgroup in each hierarchy, by what names the hierarchy: its controllers, or "" for version 2."""
    lines = (line.split(":", 2) for line in own.splitlines())
    return {names: Path(place) for _, names, place in lines}


def _identity(super_options: str, places: dict[str, Path]) -> str:
    """Of a mount's options those that name the hierarchy: rw, xattr, clone_children and the like do not."""
    options = set(super_options.split(","))
    return next((names for names in places if names and set(names.split(",")) <= options), "unknown")
