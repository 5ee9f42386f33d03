"""A container's process on a lab's host: started, found again by another run of the stand-in, ended.

What a process belongs to stands in its environment, so there is nothing to write down, and nothing that can be out of
date: who starts anew reads /proc. A container is a session of its own, and its first process leads it.

Imports the standard library only: it is put on hosts that have no bbr. Source: proc(5), setsid(2).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bbr.lab.cluster.fast_pod import Container, HostPath, Refused

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MARK = "KUBELET_STANDIN"
_STATE, _SESSION, _STARTED = 0, 3, 19
"""Of what /proc/<pid>/stat has behind the program's name."""

_MOUNTING = """\
while [ "$1" != -- ]; do
  mount --bind "$1" "$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$2"
  shift 3
done
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Belonging:
    """What a process belongs to: the manifest's file name, its digest, the container, its time to end."""

    file: str
    digest: str
    container: str
    grace_s: int

    def to_text(self) -> str:
        """As it stands in the environment. A file's name may have any character, so it is the last."""
        return f"{self.digest} {self.grace_s} {self.container} {self.file}"


@dataclass(slots=True)
class Process:
    """A container's first process. ``child`` is None for one that an earlier run of the stand-in started."""

    pid: int
    started: str
    belonging: Belonging
    child: subprocess.Popen[bytes] | None = None
    kill_at_s: float | None = field(default=None)
    """By the monotonic clock, once it was asked to end."""

    def is_alive(self) -> bool:
        """Whether it still runs. A child that has ended is collected."""
        if self.child is not None:
            return self.child.poll() is None
        stat = _stat(self.pid)
        return bool(stat) and stat[_STARTED] == self.started and stat[_STATE] not in "ZX"

    def ask_to_end(self, now_s: float) -> None:
        """SIGTERM, once."""
        if self.kill_at_s is None:
            self.kill_at_s = now_s + self.belonging.grace_s
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all that is in its process group: with a container's first process the others end."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def start(container: Container, belonging: Belonging, log: Path) -> Process:
    """Start a container. It outlives this process. Raises `Refused` for what a kubelet would not start either."""
    for path in container.paths:
        _ensure(path)
    moved = [path for path in container.paths if path.is_elsewhere]
    if shutil.which(container.command[0], path=PATH) is None:
        raise Refused(f"there is no program {container.command[0]} on {PATH}")
    log.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    environment = {"PATH": PATH, **dict(container.environment), _MARK: belonging.to_text()}
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*_mounting(moved), *container.command],
            executable=None if moved else shutil.which(container.command[0], path=PATH),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=container.folder or "/",
            start_new_session=True,
        )
    stat = _stat(child.pid)
    return Process(child.pid, stat[_STARTED] if stat else "", belonging, child)


def find() -> Iterator[Process]:
    """The containers that run on this host."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        stat = _stat(int(folder.name))
        belonging = _belonging(folder)
        if stat and belonging is not None and stat[_SESSION] == folder.name and stat[_STATE] not in "ZX":
            yield Process(int(folder.name), stat[_STARTED], belonging)


def _ensure(path: HostPath) -> None:
    """What the type of a hostPath promises. Without one, a container runtime makes the folder that is missing."""
    source = Path(path.source)
    if path.kind == "FileOrCreate":
        source.touch(mode=0o644)
    elif path.kind == "DirectoryOrCreate" or (not path.kind and not source.exists()):
        source.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif not source.exists():
        raise Refused(f"{source} is not there")
    target = Path(path.target)
    if path.is_elsewhere and not target.exists():
        # A container has it in a root of its own; here it is left behind, empty.
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if source.is_dir() else target.touch()


def _mounting(moved: list[HostPath]) -> list[str]:
    """The command that shows its own view of the host's files to the command behind it. No process more."""
    if not moved:
        return []
    words = [word for one in moved for word in (one.source, one.target, "ro" if one.is_read_only else "rw")]
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-euc", _MOUNTING, "sh", *words, "--"]


def _belonging(folder: Path) -> Belonging | None:
    try:
        environment = (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is the kernel's
        return None
    mark = next((entry for entry in environment if entry.startswith(f"{_MARK}=".encode())), None)
    if mark is None:
        return None
    digest, grace_s, container, file = mark.partition(b"=")[2].decode(errors="surrogateescape").split(" ", 3)
    return Belonging(file, digest, container, int(grace_s))


def _stat(pid: int) -> list[str]:
    """What /proc/<pid>/stat says behind the name; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
