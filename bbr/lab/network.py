"""The network of a lab: a bridge in a network namespace of its own, and one namespace for each host, wired to it.

Namespaces are named ones, as ``ip netns`` shows them, and all names begin with the lab's: what a killed run left can
be seen and removed by its name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.lab import programs

SUBNET = IPv4Network("10.20.30.0/24")
"""Every lab's: they do not meet. It touches neither kubeadm's service range (10.96.0.0/12) nor usual pod ranges."""

GATEWAY = SUBNET[1]
"""The bridge's own address: clients that entered the lab's network come from it. It leads nowhere."""

FIRST_HOST = 11
_NAMED = Path("/run/netns")
_BRIDGE = "bridge"
_END_LIMIT_S = 20
_POLL_S = 0.01


def namespace_file(namespace: str) -> Path:
    """Where a named network namespace is to be entered."""
    return _NAMED / namespace


def create_bridge(namespace: str) -> None:
    """Make the lab's own network. Raises `PreconditionFailed`, also when it exists."""
    programs.run(["ip", "netns", "add", namespace])
    programs.batch(
        (
            "link set lo up",
            # Without a spanning tree a port forwards at once.
            f"link add {_BRIDGE} type bridge stp_state 0 forward_delay 0",
            f"addr add {GATEWAY}/{SUBNET.prefixlen} dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        ),
        inside=namespace,
    )


def attach(namespace: str, address: IPv4Address, *, lab: str) -> None:
    """Make a host's network and plug it into the lab's. Raises `PreconditionFailed`, also when it exists."""
    port = f"port{address.packed[-1]}"
    programs.run(["ip", "netns", "add", namespace])
    programs.batch(
        (
            f"link add {port} type veth peer name eth0 address {_hardware_address(address)} netns {namespace}",
            f"link set {port} master {_BRIDGE} up",
        ),
        inside=lab,
    )
    programs.batch(
        ("link set lo up", f"addr add {address}/{SUBNET.prefixlen} dev eth0", "link set eth0 up"), inside=namespace
    )


def _hardware_address(address: IPv4Address) -> str:
    """The same for a host that takes another's place: its neighbours know the old one's for half a minute yet."""
    return ":".join(f"{part:02x}" for part in (0x02, 0x00, *address.packed))


def remove(namespace: str) -> None:
    """Remove a named namespace with the interfaces in it, once nothing runs in it. A missing one is no error."""
    if not namespace_file(namespace).exists():
        return
    try:
        programs.run(["ip", "netns", "del", namespace])
    except PreconditionFailed:
        # What `ip` was killed over is an empty file, and no namespace.
        with contextlib.suppress(FileNotFoundError):
            namespace_file(namespace).unlink()


def named_for(lab: str) -> list[str]:
    """The namespaces of a lab that exist, its own and its hosts'."""
    if not _NAMED.exists():
        return []
    return sorted(path.name for path in _NAMED.iterdir() if path.name == lab or path.name.startswith(f"{lab}-"))


def processes(namespace: str) -> list[int]:
    """Who runs in a named namespace, as this process' own numbers. Empty when there is no such namespace."""
    try:
        there = namespace_file(namespace).stat()
    except FileNotFoundError:
        return []
    return [pid for pid, inode in _networks() if inode == (there.st_dev, there.st_ino)]


def end_processes(namespace: str) -> None:
    """Kill all that runs in a namespace, and return once it is gone.

    SIGKILL, because the first process of a process namespace gets no other signal; the kernel then ends every other
    process of that namespace, also those of containers with networks of their own. Raises `PreconditionFailed` when
    some do not go, or when this process is one of them.
    """
    deadline = time.monotonic() + _END_LIMIT_S
    while pids := processes(namespace):
        if os.getpid() in pids:
            raise PreconditionFailed(f"this process runs in {namespace} itself", hint="do it from outside of the lab")
        if time.monotonic() > deadline:
            raise PreconditionFailed(f"processes {pids} in {namespace} do not end", hint="look at them with ps -l")
        for pid in pids:
            _kill(pid, namespace)
        time.sleep(_POLL_S)


def first_process(namespace: str) -> int | None:
    """The host's own process number 1, by this process' own count; None when it is off."""
    depth = len(_numbers(os.getpid())) + 1
    for pid in processes(namespace):
        numbers = _numbers(pid)
        # A pod that shares the host's network has a number 1, too, but one namespace deeper.
        if len(numbers) == depth and numbers[-1] == 1:
            return pid
    return None


def _networks() -> Iterator[tuple[int, tuple[int, int]]]:
    for pid in _pids(Path("/proc").iterdir()):
        try:
            network = Path(f"/proc/{pid}/ns/net").stat()
        except OSError:  # it has ended
            continue
        yield pid, (network.st_dev, network.st_ino)


def _pids(folders: Iterable[Path]) -> Iterator[int]:
    return (int(folder.name) for folder in folders if folder.name.isdigit())


def _kill(pid: int, namespace: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # The number may be another's by now; what the handle names stays what it is.
            if pid in processes(namespace):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _numbers(pid: int) -> list[int]:
    """A process' numbers, from this process' namespace inwards. Empty when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    found = next((line for line in status.splitlines() if line.startswith("NSpid:")), "NSpid:")
    return [int(number) for number in found.split()[1:]]
