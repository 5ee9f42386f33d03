"""The true tier: kubeadm's own cluster on hosts of the lab, with containers, which outlives its master's power cut."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bbr.errors import PreconditionFailed, ToolMissing
from bbr.lab.cluster import images, imagestore, programs, true
from bbr.lab.cluster.images import APP
from bbr.lab.cluster.imagestore import Runtime
from bbr.lab.cluster.spec import Cluster, ClusterSpec, host_specs
from bbr.lab.lab import Lab
from bbr.progress import Silent
from tests.conftest import program
from tests.lab.conftest import said, ssh, traces

LIMIT_S = 120
SPEC = ClusterSpec(("m1",), ("w1",))
ETCD = (
    "etcdctl --cacert /etc/kubernetes/pki/etcd/ca.crt --cert /etc/kubernetes/pki/etcd/healthcheck-client.crt "
    "--key /etc/kubernetes/pki/etcd/healthcheck-client.key"
)
CONTAINER = {"name": "app", "image": APP, "imagePullPolicy": "Never", "command": ["/bin/sleep", "infinity"]}
APPLICATION = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "app"},
    "spec": {
        "selector": {"matchLabels": {"app": "app"}},
        "template": {
            "metadata": {"labels": {"app": "app"}},
            "spec": {"containers": [CONTAINER], "terminationGracePeriodSeconds": 1},
        },
    },
}


@pytest.fixture
def lab_programs(search: tuple[Path, ...]) -> tuple[Path, ...]:
    """Folders of the programs. A test without them fails: it has shown nothing."""
    try:
        return programs.folders(programs.TRUE, search)
    except ToolMissing as err:
        pytest.fail(f"{err} ({err.hint})")


def soon(what: Callable[[], object]) -> None:
    """Return once ``what`` says something true. An API server that is not there says nothing."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            if what():
                return
        except PreconditionFailed as err:
            last: object = err
        else:
            last = "false"
        assert time.monotonic() < deadline, last
        time.sleep(0.3)


def running(lab: Lab, cluster: Cluster) -> dict[str, str]:
    """The application's pods that run, and on which nodes."""
    listed = json.loads(cluster.kubectl(lab, "m1", "get", "pods", "-l", "app=app", "-o", "json"))["items"]
    return {
        pod["metadata"]["uid"]: pod["spec"]["nodeName"]
        for pod in listed
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_a_master_and_a_worker_works_and_comes_back_from_a_power_cut_and_goes_without_a_trace(
    base: Path, lab_programs: tuple[Path, ...]
) -> None:
    with Lab.up(host_specs(SPEC, lab_programs), base=base) as lab:
        cluster = true.create(lab, SPEC, progress=Silent())
        assert cluster == Cluster(lab.name, ("m1",), ("w1",), "api.lab:6443")

        # A pod of a Deployment runs, as a process of the worker.
        cluster.kubectl(lab, "m1", "apply", "-f", "-", stdin=json.dumps(APPLICATION))
        soon(lambda: running(lab, cluster))
        (before,) = running(lab, cluster).items()
        assert before[1] == "w1"
        containers = "ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"==app' | wc -l"
        assert (said(lab, "w1", containers), said(lab, "m1", containers)) == ("1", "0")

        # Secrets are encrypted where they lie, by a key that only root of the master can read.
        cluster.kubectl(lab, "m1", "create", "secret", "generic", "s", "--from-literal=word=vRxq7")
        stored = said(lab, "m1", f"{ETCD} get /registry/secrets/default/s --print-value-only | head -c 23")
        assert stored == "k8s:enc:aescbc:v1:key1:"
        assert said(lab, "m1", "stat -c %a%u /etc/kubernetes/encryption.yaml") == "6000"
        assert ssh(lab, "w1", "ls /etc/kubernetes/encryption.yaml").returncode != 0

        # The kubelet is a unit; what it runs stays when it is stopped.
        assert said(lab, "m1", "systemctl is-active kubelet") == "active"
        etcd = said(lab, "m1", "pidof etcd")
        assert ssh(lab, "m1", "systemctl stop kubelet && systemctl is-active kubelet").stdout == "inactive\n"
        assert said(lab, "m1", "pidof etcd") == etcd
        said(lab, "m1", "systemctl start kubelet")

        # The power fails, and all is there again: without controllers and scheduler there would be no new pod.
        lab.power_off("m1")
        lab.power_on("m1")
        soon(lambda: cluster.kubectl(lab, "m1", "delete", "pod", "-l", "app=app", "--wait=false"))
        soon(lambda: set(running(lab, cluster)) - {before[0]})
        true.wait_ready(lab, cluster)
        assert cluster.kubectl(lab, "m1", "get", "secret", "s", "-o", "jsonpath={.data.word}") == "dlJ4cTc="
    assert traces(lab.name, base) == []


def test_a_host_without_the_programs_is_told_by_name_and_nothing_was_begun(base: Path) -> None:
    spec = ClusterSpec(("m1",))
    with Lab.up(host_specs(spec, ()), base=base) as lab:
        for wrong in (ClusterSpec(()), ClusterSpec(("m1", "m1")), ClusterSpec(("m2",)), ClusterSpec(("m1",), (), "x")):
            with pytest.raises(PreconditionFailed):
                true.create(lab, wrong, progress=Silent())
        with pytest.raises(PreconditionFailed, match=r"host m1.*kubeadm"):
            true.create(lab, spec, progress=Silent())
        assert lab.pointers == {}


def test_programs_of_one_family_come_from_one_folder(tmp_path: Path) -> None:
    for name, tools in {"half": ("etcd",), "whole": ("etcd", "etcdctl", "etcdutl")}.items():
        (tmp_path / name).mkdir()
        for tool in tools:
            (tmp_path / name / tool).write_text("#!/bin/sh\n")
            (tmp_path / name / tool).chmod(0o755)
    found = programs.folders([programs.ETCD], [tmp_path / "half", tmp_path / "whole"])
    assert found == (tmp_path / "whole",)
    with pytest.raises(ToolMissing) as missing:
        programs.folders([programs.Family(("no-such-program",), "build it")], [tmp_path])
    assert os.fspath(missing.value.hint or "") == "build it"


def archive(scratch: Path) -> bytes:
    scratch.mkdir()
    file = io.BytesIO()
    images.write_archive(images.of_cluster([], {}), file, scratch)
    return file.getvalue()


def test_the_same_programs_make_the_same_archive(tmp_path: Path) -> None:
    assert archive(tmp_path / "1") == archive(tmp_path / "2")


def test_hosts_share_the_layers_of_a_store_and_none_of_its_databases(
    tmp_path: Path, root: None, search: tuple[Path, ...]
) -> None:
    runtime = Runtime(program("containerd", search), program("ctr", search))
    wanted, cache = images.of_cluster([], {}), tmp_path / "cache"
    folders = [tmp_path / name for name in ("h1", "h2")]
    for folder in folders:
        folder.mkdir()
        with imagestore.prepared(wanted, runtime, cache=cache) as lend:
            lend(folder)
    inodes = [
        {str(path.relative_to(one)): path.stat().st_ino for path in one.rglob("*") if path.is_file()} for one in folders
    ]
    assert inodes[0].keys() == inodes[1].keys()
    shared = {name for name in inodes[0] if inodes[0][name] == inodes[1][name]}
    assert {name for name in inodes[0] if name.endswith(".db")} == inodes[0].keys() - shared
    assert any(name.endswith("fs/bin/sleep") for name in shared)

    # What a containerd wrote since then stays; so does nothing of the making.
    database = next(folders[0].rglob("meta.db"))
    database.write_bytes(b"written by a containerd")
    with imagestore.prepared(wanted, runtime, cache=cache) as lend:
        lend(folders[0])
    assert database.read_bytes() == b"written by a containerd"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "h1", "h2"]
    assert [path.name for path in cache.iterdir() if path.name != ".lock"] == [images.fingerprint(wanted)]


def test_a_runtime_that_fails_says_why_and_leaves_no_half_store(
    tmp_path: Path, root: None, search: tuple[Path, ...]
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\ncase $* in *version*) exit 0;; esac\necho out of order >&2\nexit 1\n")
    broken.chmod(0o755)
    containerd, ctr = program("containerd", search), program("ctr", search)
    for runtime in (Runtime(broken, ctr), Runtime(containerd, broken)):
        making = imagestore.prepared(images.of_cluster([], {}), runtime, cache=tmp_path / "cache")
        with pytest.raises(PreconditionFailed, match="out of order"), making:
            pass
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
