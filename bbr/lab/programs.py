"""What the lab needs of its machine, and running the programs that it has.

Network namespaces, mounts and cgroups are made by ip(8), mount(8), unshare(1) and nsenter(1): every Linux has them,
and what they do can be repeated by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bbr.errors import PreconditionFailed, ToolMissing

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""sshd and ip lie in folders that a user's PATH may lack."""

LIMIT_S = 30
_PACKAGES = {
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "pivot_root": "util-linux",
    "setsid": "util-linux",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}
_SYS_ADMIN = 1 << 21  # linux/capability.h


def check_machine() -> None:
    """Raise `PreconditionFailed` where a lab cannot be made, `ToolMissing` where a program is missing."""
    if os.geteuid() != 0:
        raise PreconditionFailed(
            f"a lab needs root, to make network namespaces and mounts; this is user {os.geteuid()}",
            hint="run it with sudo",
        )
    if not _capabilities() & _SYS_ADMIN:
        raise PreconditionFailed(
            "a lab needs the right to make namespaces and mounts (CAP_SYS_ADMIN), and this root has not got it",
            hint="run it outside of the container, or start the container as a privileged one",
        )
    if missing := [name for name in _PACKAGES if shutil.which(name, path=SYSTEM_PATH) is None]:
        packages = " ".join(sorted({_PACKAGES[name] for name in missing}))
        raise ToolMissing(
            f"a lab needs {', '.join(missing)}, and this machine has not got it",
            hint=f"apt-get install {packages}, or what your distribution calls it",
        )


def run(command: Sequence[str], *, stdin: str = "") -> str:
    """What a program prints. Raises `PreconditionFailed` with what it complains about.

    It inherits the lab's lock (`bbr.lab.label.own`): nobody sweeps while a program of a killed run is still at work.
    """
    environ = {"PATH": SYSTEM_PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            env=environ,
            timeout=LIMIT_S,
            check=False,
            close_fds=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise PreconditionFailed(f"{command[0]} was not run: {err}") from err
    if done.returncode:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        raise PreconditionFailed(f"`{' '.join(command)}`: {said}")
    return done.stdout


def batch(lines: Iterable[str], *, inside: str | None = None) -> None:
    """Carry out ip(8) commands in one go, in the machine or in a named network namespace; the first that fails ends it.

    Raises `PreconditionFailed`.
    """
    place = ["-netns", inside] if inside else []
    run(["ip", *place, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))


def _capabilities() -> int:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 16) if found else 0
