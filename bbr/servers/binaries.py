"""Finding server programs of a fitting version: given, of kubebuilder, on the PATH, or built by the testbed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbr.errors import ToolMissing

DEFAULT_ETCD = "etcd-3.6."
"""Of several etcds that the testbed built, the one to take when no version is asked for."""

_VERSION_ARGUMENTS = {
    "etcdctl": ("version",),
    "etcdutl": ("version",),
    "kubeadm": ("version", "-o", "short"),
    "kubectl": ("version", "--client"),
    "containerd-shim-runc-v2": ("-v",),
}
_VERSION = re.compile(r"(\d+\.\d+\.\d+)|(DEVELOPMENT\.[A-Z0-9-]+|RELEASE\.[0-9TZ-]+)")


@dataclass(frozen=True, slots=True)
class Binary:
    """A program that was found. ``version`` is what it says of itself, empty when it says nothing."""

    name: str
    path: Path
    version: str


def search_path(*, bin_dir: Path | None, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Folders to look into, in order: the one given, ``KUBEBUILDER_ASSETS``, the ``PATH``, the testbed's cache."""
    folders = [bin_dir] if bin_dir else []
    folders += [Path(folder) for folder in environ.get("KUBEBUILDER_ASSETS", "").split(os.pathsep) if folder]
    folders += [Path(folder) for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    built = testbed_cache(environ).glob("*/bin")
    return (*folders, *sorted(built, key=lambda folder: (not folder.parent.name.startswith(DEFAULT_ETCD), folder)))


def testbed_cache(environ: Mapping[str, str]) -> Path:
    """Where the testbed puts what it builds, one folder for each family and version."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/")) / ".cache")
    return Path(base) / "bbr" / "testbed"


def find(name: str, *, search: Sequence[Path], version: str | None = None) -> Binary:
    """The first fitting program. ``version`` is "3.6" for any 3.6, "3.6.16" for that one. Raises `ToolMissing`."""
    seen = []
    for folder in search:
        path = folder / name
        if not os.access(path, os.X_OK) or path.is_dir():
            continue
        try:
            own = version_of(path)
        except ToolMissing:  # of another processor, or no program at all: the next folder may have a good one
            seen.append(f"{path} (does not run)")
            continue
        if version is None or own == version or own.startswith(f"{version}."):
            return Binary(name, path, own)
        seen.append(f"{path} ({own})")
    wanted = f"{name} {version}" if version else name
    there = f"; found {', '.join(seen)}" if seen else ""
    raise ToolMissing(
        f"{wanted} is not on this machine{there}",
        hint="name its folder with --bin-dir, or build it: `make testbed`",
    )


def version_of(path: Path) -> str:
    """What a program says of its version; "" when it says nothing. Raises `ToolMissing` when it does not run."""
    arguments = _VERSION_ARGUMENTS.get(path.name, ("--version",))
    try:
        answer = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ToolMissing(f"{path} does not run: {err}") from err
    found = _VERSION.search(answer.stdout + answer.stderr)
    return found[0] if found else ""
