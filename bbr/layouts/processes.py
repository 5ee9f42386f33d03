"""What runs on a machine, read from /proc: the same whichever container runtime, or none, started it.

Root sees the processes of containers too. A program is told by the file that it runs, or by the name that it was
started with: the former survives a wrapper, the latter an exchanged binary. Source: proc(5).
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from bbr.errors import PreconditionFailed
from bbr.layouts.staticpod import read_flags
from bbr.machines.machine import Machine
from bbr.progress import Progress

END_TIME = timedelta(seconds=60)
"""For a program to end: with open watches an API server takes a minute, and the kubelet kills it after 30 s."""

PATIENCE = timedelta(seconds=5)
"""For a kubelet to end what it was told to."""

_POLL_S = 0.3

_FIND = """\
{
  find /proc/[0-9]*/exe -prune -printf '%h %l\\n'
  grep -aHzm1 '' /proc/[0-9]*/cmdline | tr '\\n\\0' ' \\n' | sed 's|/cmdline:| |'
} 2>/dev/null | while read -r folder name; do
  name=${name% (deleted)}
  [ "${name##*/}" != "$1" ] || echo "$folder"
done | sort -u | while read -r folder; do
  echo "${folder#/proc/} $(base64 -w0 < "$folder/stat") $(base64 -w0 < "$folder/cmdline")"
done 2>/dev/null
exit 0
"""
# A handful of processes for a machine with hundreds. One that ends meanwhile leaves a line that is not whole.

_STARTED_FIELD = 19  # of stat, behind the name, which may hold anything, also brackets

_ASK = """\
stat=$(cat "/proc/$1/stat" 2>/dev/null) || exit 0
set -- "$1" "$2" ${stat##*)}
[ "${22}" != "$2" ] || kill -TERM "$1" 2>/dev/null
exit 0
"""
"""number, clock ticks of its start: told to end, unless the number is another process's by now."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``started`` (clock ticks from the machine's start) tells it from a later one of the same number."""

    pid: int
    arguments: tuple[str, ...]
    started: int

    @property
    def flags(self) -> Mapping[str, str]:
        """``--name=value`` and ``--name value`` of its command line; the last of a name counts."""
        return dict(read_flags(self.arguments[1:]))


def find_processes(machine: Machine, program: str) -> tuple[Process, ...]:
    """All processes of a program, in order of their numbers. Raises what the machine raises.

    ``program`` is the last part of its path. What has ended, and was not yet collected by its parent, does not count.
    """
    output = machine.run(["sh", "-c", _FIND, "bbr", program])
    found = (_process(line.split(b" ")) for line in output.stdout.splitlines())
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.pid))


def wait_ended(
    machine: Machine,
    program: str,
    *,
    progress: Progress,
    limit: timedelta = END_TIME,
    which: Callable[[Process], bool] = lambda _: True,
    ours: Callable[[Process], bool] = lambda _: False,
    patience: timedelta = PATIENCE,
) -> None:
    """Return once no process of the program is left for which ``which`` is true. At least one look is taken.

    Those for which ``ours`` is true are sent SIGTERM, once each, when they have not ended after ``patience``: a kubelet
    that has reached no API server since its own start ends no static pod whose manifest is gone ("sources aren't
    ready", deletePod in pkg/kubelet/kubelet.go), and starts none again either. Only what certainly is the program that
    was taken out of service may be called ours.

    Raises `PreconditionFailed`, which names those that are left, when the limit is over.
    """
    deadline = time.monotonic() + limit.total_seconds()
    told = False
    seen: dict[tuple[int, int], float] = {}
    while left := [one for one in find_processes(machine, program) if which(one)]:
        pids = ", ".join(str(one.pid) for one in left)
        if time.monotonic() > deadline:
            raise PreconditionFailed(
                f"{machine.name}: {program} (process {pids}) has not ended after {limit}",
                hint="see there what keeps it: `journalctl -u kubelet`, or of its own unit",
            )
        if not told:
            progress.step(f"{machine.name}: waiting for {program} (process {pids}) to end, at most {limit}")
            told = True
        for one in left:
            since = seen.setdefault((one.pid, one.started), time.monotonic())
            if ours(one) and time.monotonic() - since >= patience.total_seconds():
                machine.run(["sh", "-c", _ASK, "bbr", str(one.pid), str(one.started)])
                seen[one.pid, one.started] = math.inf
        time.sleep(_POLL_S)


def _process(words: list[bytes]) -> Process | None:
    try:
        pid, stat, line = words
        fields = base64.b64decode(stat).rpartition(b")")[2].split()
        arguments = base64.b64decode(line).removesuffix(b"\0").split(b"\0")
        started = int(fields[_STARTED_FIELD])
    except (ValueError, IndexError, binascii.Error):
        return None
    if arguments == [b""]:
        return None
    return Process(int(pid), tuple(one.decode(errors="replace") for one in arguments), started)
