"""What cluster is wanted, and the cluster that came of it: the same values for both tiers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.lab.cluster.remote import run
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab

ADMIN_CONF = "/etc/kubernetes/admin.conf"
KUBECTL_TIME = timedelta(seconds=60)

VOLUMES = ("/var/lib/containerd", "/var/lib/kubelet")
"""What no overlay can carry. /var/lib/etcd is a plain folder, as kubeadm leaves it on a machine."""

_ENDPOINT = re.compile(r"([a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster that is wanted, on hosts of a lab that are there. The first master is the one that is made first.

    ``endpoint`` is where clients find the API server; its name is told to every host, and leads to the first master
    until `Lab.point` says otherwise. With ``encryption`` Secrets and ConfigMaps are encrypted at rest (aescbc).
    ``kubernetes_version`` is kubeadm's own unless given ("1.37.2").
    """

    masters: tuple[str, ...]
    workers: tuple[str, ...] = ()
    endpoint: str = "api.lab:6443"
    encryption: bool = True
    kubernetes_version: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All hosts, masters first."""
        return (*self.masters, *self.workers)

    @property
    def endpoint_name(self) -> str:
        """The endpoint without its port."""
        return self.endpoint.rpartition(":")[0]

    def check(self, lab: Lab) -> None:
        """Raise `PreconditionFailed` for what cannot be: no master, a host twice, or one that the lab has not got."""
        if not self.masters:
            raise PreconditionFailed("a cluster needs a master")
        if len(set(self.nodes)) != len(self.nodes):
            raise PreconditionFailed(f"a host is named twice: {', '.join(self.nodes)}")
        if _ENDPOINT.fullmatch(self.endpoint) is None:
            raise PreconditionFailed(f"{self.endpoint!r} is no endpoint", hint="a name and a port, as in api.lab:6443")
        for name in self.nodes:
            lab.host(name)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is up. ``lab`` is the name of the lab that it is in."""

    lab: str
    masters: tuple[str, ...]
    workers: tuple[str, ...]
    endpoint: str

    def kubectl(self, lab: Lab, host: str, *words: str, stdin: str = "", timeout: timedelta = KUBECTL_TIME) -> str:
        """What kubectl prints on a master, as its administrator. Raises `PreconditionFailed`, with what it said."""
        command = shlex.join(("kubectl", f"--kubeconfig={ADMIN_CONF}", *words))
        return run(lab, host, command, stdin=stdin, timeout=timeout)


def host_specs(spec: ClusterSpec, programs: Sequence[Path]) -> list[HostSpec]:
    """The hosts that such a cluster needs. ``programs`` are folders of the machine, see `bbr.lab.cluster.programs`."""
    return [HostSpec(name, programs=tuple(programs), volumes=VOLUMES) for name in spec.nodes]
