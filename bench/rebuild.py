"""A lost control plane rebuilt in the lab's true tier: by bbr, and by hand with the stock tools, in turn.

Both sides start from a machine that is ready to be a node, and end when its API server is ready; both have etcd's
snapshot and the old master's files at hand. By hand means `RESTORE`: etcdutl, kubeadm's phases and kubectl, over ssh.
That is the shortest way there is: nothing is compared, rehearsed, looked at before clients see it, or written down.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bbr.demo.bastion import PLAN, Bastion
from bbr.demo.cluster import ready_after_s
from bbr.lab.cluster import kubeadm, true
from bbr.lab.cluster.programs import TRUE, folders
from bbr.lab.cluster.remote import run as on_host
from bbr.lab.cluster.spec import ClusterSpec, host_specs
from bbr.lab.lab import Lab
from bbr.progress import Silent
from bbr.servers.binaries import search_path
from bench.cases import REBUILD, Result, Told
from bench.measure import Run, run
from restore.iaas.lab import prepare
from restore.runfolder import read_plan

TARGET, OLD = "bench", "m1"
WAITS = frozenset({"start-etcd", "start-recovery", "start-api-servers"})
"""Steps whose time is etcd's and Kubernetes' own: they start a program, and wait until it is ready."""

MASTERS = (1, 3)
API_LIMIT_S = {1: 60, 3: 120}
SHARE_LIMIT, PLAN_LIMIT_S, UPLOAD_LIMIT, BY_HAND_LIMIT = 0.5, 3, 3, 4

_SAVE = """\
set -eu
cd /etc/kubernetes/pki/etcd
etcdctl --cacert ca.crt --cert healthcheck-client.crt --key healthcheck-client.key snapshot save /root/snapshot.db >&2
tar -C / -cf - root/snapshot.db etc/kubernetes/encryption.yaml etc/kubernetes/pki/ca.crt etc/kubernetes/pki/ca.key \\
  etc/kubernetes/pki/sa.key etc/kubernetes/pki/sa.pub etc/kubernetes/pki/front-proxy-ca.crt \\
  etc/kubernetes/pki/front-proxy-ca.key etc/kubernetes/pki/etcd/ca.crt etc/kubernetes/pki/etcd/ca.key
"""
RESTORE = """\
set -eu
name=$(hostname)
image=$(ctr -n k8s.io images ls -q | grep '/etcd:')
kubeadm init phase certs all --config /root/kubeadm.yaml
kubeadm init phase kubeconfig all --config /root/kubeadm.yaml
ctr -n k8s.io run --rm --mount type=bind,src=/root,dst=/root,options=rbind:rw \\
  --mount type=bind,src=/var/lib,dst=/var/lib,options=rbind:rw "$image" restore etcdutl snapshot restore \\
  /root/snapshot.db --data-dir /var/lib/etcd-new --name "$name" --initial-cluster "$name=https://$1:2380" \\
  --initial-advertise-peer-urls "https://$1:2380" --bump-revision 1000000000 --mark-compacted
mkdir -p /var/lib/etcd
mv /var/lib/etcd-new/member /var/lib/etcd/member
kubeadm init phase etcd local --config /root/kubeadm.yaml
kubeadm init phase control-plane apiserver --config /root/kubeadm.yaml
kubeadm init phase kubelet-start --config /root/kubeadm.yaml
until kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz 2>/dev/null; do sleep 0.2; done
"""
"""the new master's address. Its endpoint leads to it already; /root has snapshot.db and kubeadm.yaml."""


def rebuild(objects: int, pairs: int, told: Told) -> list[Result]:
    """Rebuild one master and three, and one by hand, ``pairs`` times. Needs root and what `make testbed-lab` builds."""
    with tempfile.TemporaryDirectory(prefix="bbr-bench-") as name, _cluster(Path(name), objects, told) as bastion:
        # By its id: each rebuild ends with a backup of its own, which is the latest then.
        backup = str(json.loads(bastion.bbr("backup", "-o", "json", inside=True))["id"])
        saved = _save(bastion)
        bastion.lab.remove(OLD)
        ours: dict[int, list[_Rebuilt]] = {count: [] for count in MASTERS}
        by_hand: list[float] = []
        for number in range(pairs):
            by_hand.append(_by_hand(bastion, saved, number))
            told(f"  1 by hand: {by_hand[-1]:.1f} s")
            for count in MASTERS:
                ours[count].append(_ours(bastion, backup, count, number))
                told(f"  {count} by bbr: {ours[count][-1]}")
    results = [row for count in MASTERS for row in _rows(count, objects, ours[count])]
    ratio = statistics.median(one.ready_s / hand for one, hand in zip(ours[1], by_hand, strict=True))
    results.append(
        Result(
            "rebuild of one master, against kubeadm's phases by hand",
            ratio,
            BY_HAND_LIMIT,
            "x",
            ours_s=statistics.median(one.ready_s for one in ours[1]),
            theirs_s=statistics.median(by_hand),
            case=REBUILD,
            runs={"theirs": [{"wall_s": seconds} for seconds in by_hand]},
        )
    )
    uploads = [three.steps["upload"] / one.steps["upload"] for one, three in zip(ours[1], ours[3], strict=True)]
    results.append(Result("upload to three masters, of that to one", statistics.median(uploads), UPLOAD_LIMIT, "x"))
    return results


class _Rebuilt:
    """One rebuild of ours. ``steps`` are the journal's seconds of each step up to the API servers' readiness."""

    def __init__(self, ready_s: float, steps: Mapping[str, float], plan: Run, apply: Run) -> None:
        self.ready_s, self.steps, self.plan, self.apply = ready_s, steps, plan, apply

    def __str__(self) -> str:
        """For a person: every step, those that are etcd's and Kubernetes' own marked."""
        steps = (f"{name} {seconds:.1f}{'*' if name in WAITS else ''}" for name, seconds in self.steps.items())
        return f"API server ready after {self.ready_s:.1f} s, {self.own_s:.1f} s of it ours ({', '.join(steps)})"

    @property
    def own_s(self) -> float:
        """What is neither etcd's start nor Kubernetes'."""
        return self.ready_s - sum(seconds for name, seconds in self.steps.items() if name in WAITS)

    def figures(self) -> dict[str, float]:
        """All of it, for a program."""
        steps = {f"step_{name}_s": seconds for name, seconds in self.steps.items()}
        return {
            "ready_s": self.ready_s,
            "own_s": self.own_s,
            "plan_s": self.plan.wall_s,
            "plan_cpu_s": self.plan.cpu_s,
            **steps,
            **self.apply.figures(),
        }


def _rows(count: int, objects: int, runs: Sequence[_Rebuilt]) -> Iterator[Result]:
    what = "one master" if count == 1 else f"{count} masters"
    peak = max(one.apply.anonymous_bytes for one in runs)
    made = {"ours": [one.figures() for one in runs]}
    ready_s = statistics.median(one.ready_s for one in runs)
    name = f"rebuild of {what}, {objects:,} objects, to API server ready"
    yield Result(name, ready_s, API_LIMIT_S[count], "s", case=REBUILD, anonymous_bytes=peak, runs=made)
    share = statistics.median(one.own_s / one.ready_s for one in runs)
    yield Result(f"bbr's own share of it, {what}", share, SHARE_LIMIT, "", case=REBUILD)
    plan_s = statistics.median(one.plan.wall_s for one in runs)
    peak = max(one.plan.anonymous_bytes for one in runs)
    yield Result(f"bbr restore plan, {what}", plan_s, PLAN_LIMIT_S, "s", case=REBUILD, anonymous_bytes=peak)


@contextmanager
def _cluster(folder: Path, objects: int, told: Told) -> Iterator[Bastion]:
    """A cluster full of objects, and an empty repository. Its lab is gone at the end."""
    told(f"a cluster with {objects:,} objects in the lab")
    spec = ClusterSpec((OLD,))
    programs = folders(TRUE, search_path(bin_dir=None, environ=os.environ))
    with Lab.up(host_specs(spec, programs)) as lab:
        try:
            bastion = Bastion(lab, true.create(lab, spec, progress=Silent()), folder, TARGET)
            bastion.init()
            url = f"https://{lab.host(OLD).address}:2379"
            words = [sys.executable, "-m", "bench.fill", url, str(objects), str(folder)]
            run(lab.entering(words), environ={**os.environ, "PYTHONPATH": str(Path.cwd())}, folder=folder)
            yield bastion
        finally:
            # With the machines that were made since.
            Lab.open(lab.name, base=lab.folder.parent).down()


def _save(bastion: Bastion) -> Path:
    """What a person with the stock tools would have kept."""
    path = bastion.folder / "saved.tar"
    with path.open("wb") as file:
        command = ["ssh", "-F", str(bastion.lab.ssh_config), OLD, _SAVE]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"the old master's files were not saved:\n{done.stderr.decode(errors='replace')}")
    return path


def _ours(bastion: Bastion, backup: str, count: int, number: int) -> _Rebuilt:
    names = [f"n{number}{count}{one}" for one in range(count)]
    lab = Lab.open(bastion.lab.name, base=bastion.lab.folder.parent)
    like = host_specs(ClusterSpec((OLD,)), folders(TRUE, search_path(bin_dir=None, environ=os.environ)))[0]
    lab.add(*(replace(like, name=name) for name in names))
    prepare(lab, "true", names)
    (bastion.folder / PLAN).unlink(missing_ok=True)
    environ = dict(os.environ)
    plan = run(
        bastion.command(*bastion.plan_words(backup, to=names, attest=[OLD])), environ=environ, folder=bastion.folder
    )
    began = datetime.now(UTC)
    apply = run(bastion.command(*bastion.apply_words()), environ=environ, folder=bastion.folder)
    steps: dict[str, float] = {}
    for entry in bastion.journal():
        if entry.event in ("done", "found"):
            steps[entry.step] = entry.seconds
        if entry.step == "start-api-servers" and entry.event == "done":
            break
    if len(read_plan(bastion.folder / PLAN).members) != count:
        raise RuntimeError(f"the plan is not for {count} masters")
    result = _Rebuilt(ready_after_s(bastion, began), steps, plan, apply)
    _remove(bastion, names)
    return result


def _by_hand(bastion: Bastion, saved: Path, number: int) -> float:
    name = f"h{number}"
    lab = Lab.open(bastion.lab.name, base=bastion.lab.folder.parent)
    spec = ClusterSpec((name,))
    lab.add(*host_specs(spec, folders(TRUE, search_path(bin_dir=None, environ=os.environ))))
    prepare(lab, "true", [name])
    lab.point(spec.endpoint_name, name)
    address = lab.host(name).address
    config = kubeadm.init_file(spec, kubeadm.versions(lab, name), kubeadm.new_joining(), address=address)
    os.sync()
    began = time.monotonic()
    on_host(lab, name, "tar -C / -xf -", stdin=saved.read_bytes())
    on_host(lab, name, "cat >/root/kubeadm.yaml", stdin=config)
    on_host(lab, name, f"set -- {address}\n{RESTORE}")
    seconds = time.monotonic() - began
    _remove(bastion, [name])
    return seconds


def _remove(bastion: Bastion, names: Sequence[str]) -> None:
    for name in names:
        Lab.open(bastion.lab.name, base=bastion.lab.folder.parent).remove(name)
