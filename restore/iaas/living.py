"""Whether a host serves a living cluster: by its processes, by what listens there, and by a kubelet that has a cluster.

All of it stands in /proc, which needs no program on the host; containers' processes are seen there too. Source:
proc(5), Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from bbr.machines.machine import Machine

ASK_TIME = timedelta(seconds=30)
_PROGRAMS = frozenset({"etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "k3s", "k3s-server", "rke2"})
"""As the kernel has their names: the first 15 characters."""

_PORTS = {2379: "etcd", 2380: "etcd", 6443: "an API server"}
_LISTENING = "0A"
_SCRIPT = """\
cat /proc/[0-9]*/comm 2>/dev/null
echo --
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null
echo --
[ -e /etc/kubernetes/kubelet.conf ] && echo kubelet.conf
exit 0
"""


def signs_of_life(machine: Machine) -> tuple[str, ...]:
    """What shows that a host serves a cluster, in words; empty when nothing does. Raises `MachineError`."""
    said = machine.run(["sh", "-c", _SCRIPT], timeout=ASK_TIME).stdout.decode(errors="replace")
    processes, _, rest = said.partition("--\n")
    sockets, _, files = rest.partition("--\n")
    running = set(processes.split("\n"))
    signs = [f"{name} runs" for name in sorted({name[:15] for name in running} & _PROGRAMS)]
    signs += [f"something listens on port {port}, as {_PORTS[port]} does" for port in _listening(sockets.splitlines())]
    if "kubelet" in running and "kubelet.conf" in files:
        signs.append("its kubelet belongs to a cluster")
    return tuple(signs)


def _listening(lines: Iterable[str]) -> list[int]:
    """The ports of `_PORTS` that a line of /proc/net/tcp shows as listened to."""
    found = set()
    for line in lines:
        words = line.split()
        if len(words) > 3 and words[3] == _LISTENING:
            found.add(int(words[1].rpartition(":")[2], 16))
    return sorted(found & _PORTS.keys())
