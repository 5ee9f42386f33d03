"""The fast tier: control planes of kubeadm's own files and of the real programs, in seconds and without containers.

kubeadm's phases write certificates, kubeconfigs and manifests; the kubelet's stand-in (`kubelet_standin`) runs them as
processes of the host. What kubeadm leaves in a cluster is there, too: its configuration, cluster-info, the masters'
labels and taints. Missing are containers, pods of the API, addons, and what kubeadm's join adds beside the files.

All etcd members of several masters begin together, as members of one new cluster.
"""

from __future__ import annotations

import base64
import json
import shlex
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from bbr.errors import PreconditionFailed
from bbr.lab.cluster import fast_host, kubeadm
from bbr.lab.cluster.kubeadm import Joining, Versions
from bbr.lab.cluster.remote import run
from bbr.lab.cluster.spec import ADMIN_CONF, Cluster, ClusterSpec
from bbr.lab.lab import Lab
from bbr.progress import Progress, Silent
from bbr.threads import pool

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
READY_TIME = timedelta(seconds=180)

_PKI = "/etc/kubernetes/pki"
_CONFIG = "/root/kubeadm.yaml"
_PORT = 6443
_POLL_S = 0.1
_THREADS = 8
_SHARED = "ca.crt ca.key sa.pub sa.key front-proxy-ca.crt front-proxy-ca.key etcd/ca.crt etcd/ca.key"
"""What the masters have in common. Source: kubeadm's app/phases/copycerts."""
_WORKERS = "etc/kubernetes/pki/ca.crt var/lib/kubelet/config.yaml var/lib/kubelet/kubeadm-flags.env"
"""What a worker has in common with the first master."""

prepare = fast_host.prepare


def create(
    lab: Lab,
    spec: ClusterSpec,
    *,
    progress: Progress | None = None,
    programs: Sequence[str] = PROGRAMS,
) -> Cluster:
    """A new cluster on hosts of the lab; returns when every API server answers and every Node is Ready.

    ``programs`` may leave out the controller-manager and the scheduler, which a test may not need, and which take
    180 MB on each master. Raises `PreconditionFailed`, `ToolMissing`; the hosts are left as they are then.
    """
    spec.check(lab)
    if PROGRAMS[0] not in programs or set(programs) - set(PROGRAMS):
        raise PreconditionFailed(f"{', '.join(programs)}: of {', '.join(PROGRAMS)} the first is needed")
    building = _Building(lab, spec, progress or Silent(), tuple(programs))
    building.prepare()
    building.write_files()
    building.start()
    building.introduce()
    building.wait_for_nodes()
    return Cluster(lab.name, spec.masters, spec.workers, spec.endpoint)


@dataclass(frozen=True, slots=True)
class _Building:
    """One cluster while it is made, step by step."""

    lab: Lab
    spec: ClusterSpec
    progress: Progress
    programs: tuple[str, ...]

    @property
    def _first(self) -> str:
        return self.spec.masters[0]

    def prepare(self) -> None:
        """The hosts, and the endpoint's name on each."""
        self.progress.step("preparing the hosts")
        fast_host.prepare(self.lab, self.spec.nodes)
        self.lab.point(self.spec.endpoint_name, self._first)

    def write_files(self) -> None:
        """Certificates, kubeconfigs and manifests on each host; nothing runs yet."""
        self.progress.step("certificates, kubeconfigs and manifests")
        found, joining = kubeadm.versions(self.lab, self._first), kubeadm.new_joining()
        versions = replace(found, kubernetes=self.spec.kubernetes_version or found.kubernetes)
        encryption = kubeadm.encryption_file()
        self._on(self.spec.masters, lambda host: self._configure(host, versions, joining, encryption))
        self._begin(self._first)
        others = self.spec.masters[1:]
        if others:
            archive = self._run(self._first, f"tar -C {_PKI} -c {_SHARED} | base64 -w0")
            self._on(others, lambda host: self._take_shared(host, base64.b64decode(archive)))
        self._on(self.spec.nodes, self._write)

    def start(self) -> None:
        """The kubelets; returns when every API server is ready."""
        self.progress.step("starting the kubelets")
        self._on(self.spec.nodes, lambda host: self._run(host, "systemctl enable --now kubelet"))
        authority = self._run(self._first, f"cat {_PKI}/ca.crt")
        for host in self.spec.masters:
            self.progress.step(f"waiting for the API server of {host}")
            self._wait(partial(self._is_ready, host, authority), f"the API server of {host} is not ready")

    def introduce(self) -> None:
        """What kubeadm leaves in a cluster."""
        self.progress.step("kubeadm's configuration, cluster-info, labels and taints")
        # The first one also binds the administrators' group, which admin.conf needs.
        self._kubeadm(self._first, "upload-config all", "bootstrap-token")
        self._on(self.spec.masters, lambda host: self._kubeadm(host, "mark-control-plane"))

    def wait_for_nodes(self) -> None:
        """Until all are Ready."""
        self.progress.step("waiting for the nodes")
        self._wait(self._are_nodes_ready, "not all nodes are Ready")

    def _configure(self, host: str, versions: Versions, joining: Joining, encryption: str) -> None:
        spec = replace(self.spec, masters=(host,))  # each begins as the first of a cluster
        config = kubeadm.init_file(spec, versions, joining, address=self.lab.host(host).address)
        self._run(host, f"umask 077 && cat >{_CONFIG}", stdin=config)
        if spec.encryption:
            self._run(host, f"umask 077 && cat >{kubeadm.ENCRYPTION_FILE}", stdin=encryption)

    def _take_shared(self, host: str, archive: bytes) -> None:
        self._run(host, f"mkdir -p {_PKI} && tar -C {_PKI} -x", stdin=archive)
        self._begin(host)

    def _begin(self, host: str) -> None:
        self._kubeadm(host, "certs all", "kubelet-start")
        # kubeadm has started it; all masters are to start together.
        self._run(host, "systemctl stop kubelet")

    def _write(self, host: str) -> None:
        if host in self.spec.workers:
            self._write_worker(host)
        else:
            self._write_master(host)

    def _write_master(self, host: str) -> None:
        names = [program.removeprefix("kube-") for program in self.programs]
        self._kubeadm(host, "kubeconfig all", "etcd local", *(f"control-plane {name}" for name in names))
        members = ",".join(f"{name}=https://{self.lab.host(name).address}:2380" for name in self.spec.masters)
        script = f"sed -i 's|--initial-cluster=.*|--initial-cluster={members}|' /etc/kubernetes/manifests/etcd.yaml"
        if host != self._first:
            script += "; rm /etc/kubernetes/super-admin.conf"  # a master that joins has none
        self._run(host, script)

    def _write_worker(self, host: str) -> None:
        """What kubeadm join leaves on a worker: its kubelet's configuration and certificate, and the authority."""
        user = f"kubeadm kubeconfig user --config {_CONFIG} --client-name system:node:{host} --org system:nodes"
        conf = self._run(self._first, user)
        self._run(host, "umask 077 && cat >/etc/kubernetes/kubelet.conf", stdin=conf)
        archive = self._run(self._first, f"tar -C / -c {_WORKERS} | base64 -w0")
        self._run(host, "tar -C / -x", stdin=base64.b64decode(archive))

    def _is_ready(self, host: str, authority: str) -> bool:
        try:
            return _ask(self.lab, host, "/readyz", authority).startswith(b"HTTP/1.1 200")
        except OSError:  # not yet
            return False

    def _are_nodes_ready(self) -> bool:
        words = ("kubectl", f"--kubeconfig={ADMIN_CONF}", "get", "nodes", "-o", "json")
        try:
            nodes = json.loads(self._run(self._first, shlex.join(words)))["items"]
        except PreconditionFailed:  # not yet
            return False
        ready = {node["metadata"]["name"] for node in nodes if _is_node_ready(node)}
        return ready >= set(self.spec.nodes)

    def _kubeadm(self, host: str, *phases: str) -> None:
        self._run(host, " && ".join(f"kubeadm init phase {phase} --config {_CONFIG}" for phase in phases))

    def _run(self, host: str, script: str, stdin: str | bytes = "") -> str:
        return run(self.lab, host, script, stdin=stdin)

    def _on(self, hosts: Iterable[str], work: Callable[[str], object]) -> None:
        """The same on several hosts, side by side."""
        with pool(_THREADS, "fast cluster") as threads:
            for _ in threads.map(work, hosts):
                pass

    def _wait(self, is_done: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + READY_TIME.total_seconds()
        while not is_done():
            if time.monotonic() > deadline:
                raise PreconditionFailed(
                    f"{problem} after {READY_TIME}", hint="see /var/log/kubelet.log and /var/log/pods on the host"
                )
            time.sleep(_POLL_S)


def _is_node_ready(node: dict[str, dict[str, list[dict[str, str]]]]) -> bool:
    conditions = node["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _ask(lab: Lab, host: str, path: str, authority: str) -> bytes:
    """The head of an API server's answer, also without a right to anything. Raises `OSError`."""
    tls = ssl.create_default_context(cadata=authority)
    with lab.connect(host, _PORT) as plain:
        plain.settimeout(5)
        with tls.wrap_socket(plain, server_hostname=lab.host(host).address) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(64)
