"""The true tier: an unmodified kubeadm makes the cluster, with the real kubelet, containerd and runc on every host."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.lab.cluster import kubeadm, node
from bbr.lab.cluster.imagestore import CACHE
from bbr.lab.cluster.kubeadm import DISCOVERY_FILE, ENCRYPTION_FILE, Joining, Versions
from bbr.lab.cluster.remote import run
from bbr.lab.cluster.spec import Cluster, ClusterSpec
from bbr.lab.lab import Lab
from bbr.progress import Progress
from bbr.threads import pool

KUBEADM_TIME = timedelta(minutes=5)
READY_TIME = timedelta(minutes=3)
_POLL_S = 0.3
_READY = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}'

prepare = node.prepare


def create(lab: Lab, spec: ClusterSpec, *, progress: Progress, cache: Path = CACHE) -> Cluster:
    """Make a cluster on hosts of the lab that are up and have its programs; every Node is Ready on return.

    Masters join one after another, as etcd takes one learner at a time; workers beside them. When it fails the hosts
    are left as they are, to be looked at. Raises `PreconditionFailed` and `ToolMissing`.
    """
    spec.check(lab)
    first, *others = spec.masters
    found = kubeadm.versions(lab, first)
    wanted = Versions(spec.kubernetes_version or found.kubernetes, found.etcd)
    cluster = Cluster(lab.name, spec.masters, spec.workers, spec.endpoint)
    joining = kubeadm.new_joining()
    progress.step("images and container runtimes")
    node.prepare(lab, spec.nodes, wanted=wanted, cache=cache)
    lab.point(spec.endpoint_name, first)
    if spec.encryption:
        _put_everywhere(lab, spec.masters, kubeadm.encryption_file())
    progress.step(f"kubeadm init on {first}")
    config = kubeadm.init_file(spec, wanted, joining, address=lab.host(first).address)
    _kubeadm(lab, first, "init --upload-certs", config)
    discovery = kubeadm.discovery_file(spec, run(lab, first, "cat /etc/kubernetes/pki/ca.crt"))
    with pool(max(len(spec.workers), 1), "join") as threads:
        jobs = [threads.submit(_join, lab, spec, joining, name, discovery) for name in spec.workers]
        for name in others:
            progress.step(f"kubeadm join on {name}")
            _join(lab, spec, joining, name, discovery)
        for job in jobs:
            job.result()
    progress.step("nodes become ready")
    wait_ready(lab, cluster)
    return cluster


def wait_ready(lab: Lab, cluster: Cluster, *, limit: timedelta = READY_TIME) -> None:
    """Return once every Node of the cluster is Ready. Raises `PreconditionFailed`, naming those that are not."""
    deadline = time.monotonic() + limit.total_seconds()
    wanted = {f"{name}=True" for name in (*cluster.masters, *cluster.workers)}
    while True:
        try:
            said = cluster.kubectl(lab, cluster.masters[0], "get", "nodes", "-o", f"jsonpath={_READY}")
        except PreconditionFailed as err:  # an API server that is not there yet
            said, why = "", f": {err}"
        else:
            why = ""
        missing = sorted(one.partition("=")[0] for one in wanted - set(said.split()))
        if not missing:
            return
        if time.monotonic() > deadline:
            raise PreconditionFailed(f"not ready after {limit}: {', '.join(missing)}{why}")
        time.sleep(_POLL_S)


def _join(lab: Lab, spec: ClusterSpec, joining: Joining, name: str, discovery: str) -> None:
    run(lab, name, f"cat >{DISCOVERY_FILE}", stdin=discovery)
    _kubeadm(lab, name, "join", kubeadm.join_file(spec, joining, name, address=lab.host(name).address))


def _kubeadm(lab: Lab, host: str, words: str, config: str) -> None:
    # Its configuration holds secrets: no file of it stays.
    try:
        run(lab, host, f"kubeadm {words} --config /dev/stdin 2>&1", stdin=config, timeout=KUBEADM_TIME)
    except PreconditionFailed as err:
        raise PreconditionFailed(str(err), hint=f"the host is as it was left: /var/log/kubelet.log on {host}") from err


def _put_everywhere(lab: Lab, masters: tuple[str, ...], body: str) -> None:
    script = f"umask 077 && mkdir -p -m 755 /etc/kubernetes && cat >{ENCRYPTION_FILE}"
    for name in masters:
        run(lab, name, script, stdin=body)
