"""One host: started, waited for, and switched off as by its power button."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

from bbr.errors import PreconditionFailed
from bbr.lab import door, network
from bbr.lab.cgroups import LEAF, Cgroup
from bbr.lab.disk import CONSOLE
from bbr.lab.programs import SYSTEM_PATH

SSH_PORT = 22
READY_TIME = timedelta(seconds=30)
_POLL_S = 0.02
_TAIL_LINES = 15
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host that is wanted. Without an address it gets the next free one of `network.SUBNET`.

    ``lower`` are the folders that its root lies on, the topmost first; none may lie in another. ``programs`` are
    folders of the machine that it may read, and whose programs are on its PATH. ``volumes`` are paths in the host that
    are folders of the machine's own file system, and no overlay.
    """

    name: str
    address: str = ""
    lower: tuple[Path, ...] = (Path("/"),)
    programs: tuple[Path, ...] = ()
    volumes: tuple[str, ...] = ("/var/lib/containerd", "/var/lib/kubelet")


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a lab, and what a client needs to reach it.

    ``host_key`` is its public key (type and key, as in known_hosts), ``identity`` the file of the private key that may
    log in as root, ``network`` the file of the network namespace from which its address can be reached.
    """

    name: str
    address: str
    ssh_port: int
    host_key: str
    identity: Path
    network: Path
    spec: HostSpec


def start(
    host: Host, *, namespace: str, folder: Path, cgroups: Sequence[Cgroup], lock: IO[bytes] | None = None
) -> None:
    """Start a host whose disk, network and cgroups are there, and do not wait for it. It outlives this process.

    It holds ``lock``, the lab's, until its processes can be found by their network. Raises `PreconditionFailed`.
    """
    environ = {
        "PATH": SYSTEM_PATH,
        "LC_ALL": "C",
        "INIT": str(_HERE / "init.sh"),
        "FOLDER": str(folder),
        "LOWER": ":".join(map(str, host.spec.lower)),
        "HOST": host.name,
        "PROGRAMS": " ".join(map(str, host.spec.programs)),
        "VOLUMES": " ".join(host.spec.volumes),
        "MOUNTS": " ".join(f"{one.mounted_at.name}:{one.kind}:{_mount_options(one)}" for one in cgroups),
        "CGROUPS": " ".join(str(one.folder / "cgroup.procs") for one in cgroups),
        "LEAVES": " ".join(str(one.folder / LEAF / "cgroup.procs") for one in cgroups if one.kind == "cgroup2"),
    }
    # The network first: from then on the host's processes are found by it.
    enter = ["nsenter", f"--net={network.namespace_file(namespace)}", "setsid", "--fork"]
    with (folder / CONSOLE).open("ab") as console:
        done = subprocess.run(
            [*enter, "/bin/sh", str(_HERE / "boot.sh")],
            stdin=lock or subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=environ,
            cwd="/",
            check=False,
        )
    if done.returncode:
        raise PreconditionFailed(f"host {host.name} was not started; its console:\n{_console(folder)}")


def wait_ready(host: Host, *, namespace: str, folder: Path, limit: timedelta = READY_TIME) -> None:
    """Return once its sshd answers. Raises `PreconditionFailed` with the end of its console when it does not."""
    deadline = time.monotonic() + limit.total_seconds()
    while not _answers(host):
        if not network.processes(namespace):
            raise PreconditionFailed(f"host {host.name} did not start; its console:\n{_console(folder)}")
        if time.monotonic() > deadline:
            raise PreconditionFailed(f"host {host.name} has no sshd after {limit}; its console:\n{_console(folder)}")
        time.sleep(_POLL_S)


def _answers(host: Host) -> bool:
    try:
        with door.connect(host.network, host.address, host.ssh_port, limit=timedelta(seconds=2)) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:  # not yet
        return False


def _console(folder: Path) -> str:
    return "\n".join((folder / CONSOLE).read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def _mount_options(cgroup: Cgroup) -> str:
    return f"none,{cgroup.options}" if cgroup.options.startswith("name=") else cgroup.options
