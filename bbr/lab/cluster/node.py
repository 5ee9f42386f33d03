"""Makes hosts of a lab able to be nodes: containerd with the images, a systemctl, a network plugin, and a kubelet unit.

A host that was switched off and on again comes back with what was enabled: containerd, and the kubelet.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from bbr.lab.cluster import images, imagestore, programs
from bbr.lab.cluster.imagestore import CACHE, Runtime
from bbr.lab.cluster.kubeadm import Versions, image_references, versions
from bbr.lab.cluster.remote import run
from bbr.lab.lab import Lab
from bbr.threads import pool

CONTAINERD_FOLDER = "/var/lib/containerd"
_FILES = Path(__file__).parent / "node_files"
_START_TIME = timedelta(minutes=3)
_IN_IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "etcdctl", "etcdutl")

_SCRIPTS = {
    "etc/lab/units/containerd": "containerd",
    "etc/lab/units/kubelet": "kubelet",
    "etc/rc.local": "rc.local",
    "opt/cni/bin/lab": "cni",
    "usr/local/bin/systemctl": "systemctl",
}
"""Paths on a host, and what lies there; all of it can be run."""

_START = """\
set -e
tar -xf - -C /
# As the packages of the kubelet leave it.
mkdir -p -m 755 /etc/kubernetes/manifests
systemctl enable containerd kubelet
/etc/rc.local
answers() {
    until ctr version >/dev/null 2>&1; do
        systemctl is-active containerd >/dev/null || { tail -n 5 /var/log/containerd.log >&2; exit 1; }
        sleep 0.05
    done
}
answers
tries=0
until ctr plugins ls | grep -q '^io.containerd.grpc.v1 *cri .* ok *$'; do
    if [ "$tries" = 20 ]; then
        echo "containerd runs, and does not serve a kubelet:" >&2
        grep 'failed to load plugin.*grpc.v1.cri' /var/log/containerd.log | tail -n 1 >&2
        limit=$(cat /proc/sys/fs/inotify/max_user_instances)
        echo "if that is too many open files: all labs of this machine share fs.inotify.max_user_instances=$limit;" \
            "take others down, or raise it" >&2
        exit 1
    fi
    tries=$((tries + 1))
    sleep 1
    systemctl restart containerd
    answers
done
"""
"""A containerd that found no inotify instance left runs on without what a kubelet needs: a later start may find one."""


def prepare(
    lab: Lab, names: Sequence[str], *, wanted: Versions | None = None, cache: Path = CACHE, threads: int = 8
) -> None:
    """Make these hosts nodes to be, side by side: containerd runs, and the kubelet waits for its configuration.

    A host that is prepared already stays as it is. The images are those of ``wanted``, of the hosts' own programs
    unless given. Raises `PreconditionFailed` and `ToolMissing`.
    """
    if not names:
        return
    first = names[0]
    references = image_references(lab, first, wanted or versions(lab, first))
    found = images.of_cluster(references, {name: programs.of_host(lab, first, name) for name in _IN_IMAGES})
    runtime = Runtime(programs.of_host(lab, first, "containerd"), programs.of_host(lab, first, "ctr"))
    body = _archive(next(one.reference for one in found if one.is_pause))
    with imagestore.prepared(found, runtime, cache=cache) as lend, pool(threads, "node") as workers:
        for job in [workers.submit(_prepare, lab, name, lend, body) for name in names]:
            job.result()


def _prepare(lab: Lab, name: str, lend: Callable[[Path], None], body: bytes) -> None:
    lend(lab.volume(name, CONTAINERD_FOLDER))
    run(lab, name, _START, stdin=body, timeout=_START_TIME)


def _archive(pause: str) -> bytes:
    """The files that a node has and a host has not."""
    files = {path: ((_FILES / name).read_bytes(), 0o755) for path, name in _SCRIPTS.items()}
    config = (_FILES / "containerd.toml").read_text().format(pause=pause)
    files["etc/containerd/config.toml"] = (config.encode(), 0o644)
    files["etc/cni/net.d/10-lab.conflist"] = ((_FILES / "cni.conflist").read_bytes(), 0o644)
    buffer = io.BytesIO()
    with contextlib.closing(tarfile.open(fileobj=buffer, mode="w")) as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
