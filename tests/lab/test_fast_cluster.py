"""The fast tier: static pods as processes of a host, and whole control planes of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from bbr.errors import PreconditionFailed
from bbr.lab.cluster import fast, fast_pod, programs
from bbr.lab.cluster.remote import run
from bbr.lab.cluster.spec import Cluster, ClusterSpec, host_specs
from bbr.lab.lab import Lab
from bbr.servers.binaries import search_path

MANIFESTS = "/etc/kubernetes/manifests"
DEADLINE_S = 60
_POLL_S = 0.1
ONE = ClusterSpec(masters=("m1",), workers=("w1",))
THREE = ClusterSpec(masters=("m1", "m2", "m3"))


def eventually(is_so: Callable[[], bool], what: str) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(_POLL_S)


def lab_for(spec: ClusterSpec, base: Path) -> Lab:
    """The hosts of a cluster that is wanted."""
    folders = programs.folders(programs.FAST, search_path(bin_dir=None, environ=os.environ))
    return Lab.up(host_specs(spec, folders), base=base)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, root: None) -> Iterator[Lab]:
    """One prepared host with a running stand-in, and no cluster."""
    with lab_for(ClusterSpec(masters=("h1",)), tmp_path_factory.mktemp("labs")) as lab:
        fast.prepare(lab, ["h1"])
        run(lab, "h1", "systemctl start kubelet")
        yield lab


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, root: None) -> Iterator[tuple[Lab, Cluster]]:
    """A cluster of one master and one worker."""
    with lab_for(ONE, tmp_path_factory.mktemp("labs")) as lab:
        yield lab, fast.create(lab, ONE)


def pod(script: str, *, grace_s: int = 5, **container: object) -> str:
    """A manifest in JSON, which is YAML too."""
    volumes = container.pop("volumes", [])
    spec = {
        "hostNetwork": True,
        "terminationGracePeriodSeconds": grace_s,
        "containers": [{"name": "main", "command": ["sh", "-c", script], **container}],
        "volumes": volumes,
    }
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec})


def place(lab: Lab, file: str, body: str) -> None:
    """Put a manifest there in one step, as bbr does."""
    run(lab, "h1", f"cat >{MANIFESTS}/.new && mv {MANIFESTS}/.new {MANIFESTS}/{file}", stdin=body)


def pids(lab: Lab, host: str, program: str) -> list[str]:
    """Processes by their whole command line."""
    return run(lab, host, f"pgrep -xf -- '{program}' || :").split()


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ("{", "not the manifest"),
        ("[]", "not the manifest"),
        ("!!python/object/apply:os.system [id]", "not the manifest"),
        (json.dumps({"kind": "Deployment"}), "no Pod"),
        (pod("true").replace('"hostNetwork": true', '"hostNetwork": false'), "network of its own"),
        (pod("true", securityContext={"runAsUser": 1000}), "another user"),
        (pod("true", command=[]), "no command"),
        (pod("true", env=[{"name": "A", "valueFrom": {}}]), "from elsewhere"),
        (
            pod("true", volumeMounts=[{"name": "v", "mountPath": "/v"}], volumes=[{"name": "v", "emptyDir": {}}]),
            "no hostPath",
        ),
        (
            pod(
                "true",
                volumeMounts=[{"name": "v", "mountPath": "/../etc"}],
                volumes=[{"name": "v", "hostPath": {"path": "/etc"}}],
            ),
            "no absolute path",
        ),
    ],
)
def test_manifest_that_processes_cannot_stand_in_for_is_refused(manifest: str, why: str) -> None:
    with pytest.raises(fast_pod.Refused, match=why):
        fast_pod.parse(manifest.encode())


def test_manifest_in_yaml_of_every_style_is_read() -> None:
    text = """
# kubeadm's style, and others
kind: Pod
metadata: {name: "a", namespace: kube-system}
spec:
  hostNetwork: true
  containers:
  - command:
    - etcd
    - --name=m1
    - |-
      two
      lines
    args: [--more, "1"]
    name: etcd
    volumeMounts:
    - {mountPath: /data/x, name: d, subPath: x, readOnly: true}
  volumes:
  - hostPath: {path: /var/lib/etcd, type: DirectoryOrCreate}
    name: d
"""
    read = fast_pod.parse(text.encode())
    (container,) = read.containers
    assert (read.namespace, read.name, read.grace_s) == ("kube-system", "a", fast_pod.DEFAULT_GRACE_S)
    assert container.command == ("etcd", "--name=m1", "two\nlines", "--more", "1")
    assert container.paths == (fast_pod.HostPath("/var/lib/etcd/x", "/data/x", "DirectoryOrCreate", True),)


def test_pod_follows_its_manifest_and_outlives_the_kubelet(bare: Lab) -> None:
    place(bare, "follow.yaml", pod("exec sleep 4001"))
    eventually(lambda: len(pids(bare, "h1", "sleep 4001")) == 1, "it runs")
    before = pids(bare, "h1", "sleep 4001")
    run(bare, "h1", "systemctl restart kubelet")
    place(bare, "other.yaml", pod("exec sleep 4002"))
    eventually(lambda: len(pids(bare, "h1", "sleep 4002")) == 1, "the new kubelet works")
    assert pids(bare, "h1", "sleep 4001") == before

    run(bare, "h1", f"systemctl stop kubelet; rm {MANIFESTS}/other.yaml")
    assert run(bare, "h1", "systemctl is-active kubelet || echo $?").split() == ["inactive", "3"]
    assert len(pids(bare, "h1", "sleep 4002")) == 1
    run(bare, "h1", "systemctl start kubelet && systemctl is-active --quiet kubelet")
    eventually(lambda: pids(bare, "h1", "sleep 4002") == [], "one that an earlier kubelet started is ended")

    place(bare, "follow.yaml", pod("exec sleep 4003"))
    eventually(lambda: len(pids(bare, "h1", "sleep 4003")) == 1, "the changed one runs")
    assert pids(bare, "h1", "sleep 4001") == []
    run(bare, "h1", f"kill -9 {pids(bare, 'h1', 'sleep 4003')[0]}; mv {MANIFESTS}/follow.yaml /root/")
    eventually(lambda: pids(bare, "h1", "sleep 4003") == [], "a removed one ends")


def test_pod_that_dies_is_started_again(bare: Lab) -> None:
    place(bare, "dies.yaml", pod("exec sleep 4011"))
    eventually(lambda: len(pids(bare, "h1", "sleep 4011")) == 1, "it runs")
    before = pids(bare, "h1", "sleep 4011")
    run(bare, "h1", f"kill -9 {before[0]}")
    eventually(lambda: len(pids(bare, "h1", "sleep 4011")) == 1, "it runs again")
    assert pids(bare, "h1", "sleep 4011") != before
    run(bare, "h1", f"rm {MANIFESTS}/dies.yaml")
    eventually(lambda: pids(bare, "h1", "sleep 4011") == [], "a removed one ends")


def test_pod_that_ignores_sigterm_is_killed_with_all_its_processes_after_its_grace_period(bare: Lab) -> None:
    place(bare, "deaf.yaml", pod("trap '' TERM; sleep 4021 & exec sleep 4022", grace_s=1))
    eventually(lambda: len(pids(bare, "h1", "sleep 402[12]")) == 2, "both run")
    run(bare, "h1", f"rm {MANIFESTS}/deaf.yaml")
    eventually(lambda: pids(bare, "h1", "sleep 402[12]") == [], "both are ended")


def test_mount_at_another_path_is_seen_by_its_container_only(bare: Lab) -> None:
    run(bare, "h1", "mkdir -p /srv/from && echo here >/srv/from/file")
    script = "cat /srv/to/file >/srv/said; touch /srv/to/new 2>>/srv/said; exec sleep 4031"
    mounts = [{"name": "v", "mountPath": "/srv/to", "readOnly": True}]
    place(
        bare, "moved.yaml", pod(script, volumeMounts=mounts, volumes=[{"name": "v", "hostPath": {"path": "/srv/from"}}])
    )
    eventually(lambda: len(pids(bare, "h1", "sleep 4031")) == 1, "it runs")
    said = run(bare, "h1", "cat /srv/said; ls -A /srv/to /srv/from")
    assert "here" in said
    assert "Read-only file system" in said
    assert "new" not in said.partition("/srv/to:")[2]
    run(bare, "h1", f"rm {MANIFESTS}/moved.yaml")
    eventually(lambda: pids(bare, "h1", "sleep 4031") == [], "a removed one ends")


def test_what_is_no_manifest_is_said_and_keeps_nothing_else_from_running(bare: Lab) -> None:
    place(bare, "broken.yaml", "{")
    place(bare, "missing.yaml", pod("true", command=["no-such-program"]))
    place(bare, ".hidden.yaml", pod("exec sleep 4041"))
    place(bare, "good.yaml", pod("exec sleep 4042"))
    eventually(lambda: len(pids(bare, "h1", "sleep 4042")) == 1, "it runs")
    assert pids(bare, "h1", "sleep 4041") == []
    log = run(bare, "h1", "cat /var/log/kubelet.log")
    assert "broken.yaml: it is not the manifest of a pod" in log
    assert "there is no program no-such-program" in log
    place(bare, "good.yaml", "{ half")
    run(bare, "h1", f"rm {MANIFESTS}/broken.yaml {MANIFESTS}/missing.yaml {MANIFESTS}/.hidden.yaml")
    eventually(lambda: "good.yaml: it is not" in run(bare, "h1", "cat /var/log/kubelet.log"), "it is read")
    assert len(pids(bare, "h1", "sleep 4042")) == 1
    run(bare, "h1", f"rm {MANIFESTS}/good.yaml")
    eventually(lambda: pids(bare, "h1", "sleep 4042") == [], "a removed one ends")


def test_unit_that_is_not_there_is_told_in_the_words_of_systemctl(bare: Lab) -> None:
    said = run(bare, "h1", "for verb in start is-active is-enabled; do systemctl $verb containerd 2>&1; echo $?; done")
    assert said.split("\n")[:-1] == [
        "Unit containerd.service not found.",
        "5",
        "inactive",
        "3",
        "not-found",
        "4",
    ]
    assert run(bare, "h1", "systemctl daemon-reload; systemctl is-enabled kubelet.service || :") == "disabled\n"
    assert run(bare, "h1", "systemctl start -q kubelet && pgrep -xc kubelet") == "1\n"


def test_cluster_without_api_server_is_refused(bare: Lab) -> None:
    with pytest.raises(PreconditionFailed, match="kube-apiserver"):
        fast.create(bare, ClusterSpec(masters=("h1",)), programs=("kube-scheduler",))


def test_cluster_of_a_master_and_a_worker_is_as_kubeadm_leaves_it(one: tuple[Lab, Cluster]) -> None:
    lab, cluster = one
    nodes = json.loads(cluster.kubectl(lab, "m1", "get", "nodes", "-o", "json"))["items"]
    assert {node["metadata"]["name"]: address(node) for node in nodes} == {
        name: lab.host(name).address for name in ("m1", "w1")
    }
    master = next(node for node in nodes if node["metadata"]["name"] == "m1")
    assert "node-role.kubernetes.io/control-plane" in master["metadata"]["labels"]
    assert "node-role.kubernetes.io/control-plane" in {taint["key"] for taint in master["spec"]["taints"]}
    maps = cluster.kubectl(lab, "m1", "get", "configmaps", "-A", "-o", "name")
    assert {"configmap/kubeadm-config", "configmap/kubelet-config", "configmap/cluster-info"} <= set(maps.split())
    assert "server: https://api.lab:6443" in run(lab, "m1", "cat /etc/kubernetes/admin.conf")
    assert run(lab, "w1", f"ls -A {MANIFESTS}") == ""
    files = run(lab, "m1", f"ls {MANIFESTS} /etc/kubernetes /var/lib/kubelet").split()
    assert {"etcd.yaml", "kube-scheduler.yaml", "super-admin.conf", "config.yaml", "kubeadm-flags.env"} <= set(files)


def address(node: dict[str, dict[str, list[dict[str, str]]]]) -> str:
    """A Node's own."""
    return next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")


def test_secret_is_encrypted_in_etcd(one: tuple[Lab, Cluster]) -> None:
    lab, cluster = one
    cluster.kubectl(lab, "m1", "create", "secret", "generic", "probe", "--from-literal=a=visible")
    assert cluster.kubectl(lab, "m1", "get", "secret", "probe", "-o", "jsonpath={.data.a}") == "dmlzaWJsZQ=="
    stored = run(lab, "m1", f"{etcdctl('get /registry/secrets/default/probe --print-value-only')} | head -c 30")
    assert stored.startswith("k8s:enc:aescbc:v1:key1:")


def etcdctl(words: str) -> str:
    """An etcdctl command on a master."""
    pki = "/etc/kubernetes/pki/etcd"
    return (
        f"etcdctl --endpoints https://127.0.0.1:2379 --cacert {pki}/ca.crt "
        f"--cert {pki}/healthcheck-client.crt --key {pki}/healthcheck-client.key {words}"
    )


def lease(lab: Lab, cluster: Cluster, node: str) -> str:
    """When a Node's lease was renewed."""
    words = ("get", "lease", "-n", "kube-node-lease", node, "-o", "jsonpath={.spec.renewTime}")
    return cluster.kubectl(lab, "m1", *words)


def is_serving(lab: Lab, cluster: Cluster) -> bool:
    """Whether the endpoint answers."""
    try:
        return cluster.kubectl(lab, "m1", "get", "--raw", "/readyz") == "ok"
    except PreconditionFailed:
        return False


def test_manifest_moved_out_ends_the_program_and_put_back_starts_it(one: tuple[Lab, Cluster]) -> None:
    lab, cluster = one
    run(lab, "m1", "mkdir /root/aside")
    # In this order: an API server whose etcd has gone does not end before it is killed.
    for program in ("kube-apiserver", "etcd"):
        run(lab, "m1", f"mv {MANIFESTS}/{program}.yaml /root/aside/")
        eventually(lambda program=program: run(lab, "m1", f"pgrep -x {program} || :") == "", "it ends")  # type: ignore[misc]
    assert not is_serving(lab, cluster)
    run(lab, "m1", f"mv /root/aside/*.yaml {MANIFESTS}/")
    eventually(lambda: is_serving(lab, cluster), "it serves again")


def test_second_api_server_on_loopback_is_one_more_static_pod(one: tuple[Lab, Cluster]) -> None:
    lab, _ = one
    manifest = yaml.safe_load(run(lab, "m1", f"cat {MANIFESTS}/kube-apiserver.yaml"))
    manifest["metadata"]["name"] = "second"
    command = manifest["spec"]["containers"][0]["command"]
    # --advertise-address stays: without it, and without a default route, an API server does not start.
    kept = [word for word in command if not word.startswith("--secure-port")]
    more = ["--bind-address=127.0.0.1", "--secure-port=16443", "--endpoint-reconciler-type=none"]
    manifest["spec"]["containers"][0]["command"] = [*kept, *more]
    run(lab, "m1", f"cat >{MANIFESTS}/second.yaml", stdin=yaml.safe_dump(manifest))
    conf = "--kubeconfig /etc/kubernetes/super-admin.conf --server https://127.0.0.1:16443 --tls-server-name kubernetes"
    ready = f"kubectl {conf} get --raw /readyz 2>/dev/null || :"
    eventually(lambda: run(lab, "m1", ready) == "ok", "the second serves")
    assert len(run(lab, "m1", "pgrep -x kube-apiserver").split()) == 2
    run(lab, "m1", f"rm {MANIFESTS}/second.yaml")
    eventually(lambda: len(run(lab, "m1", "pgrep -x kube-apiserver").split()) == 1, "the second ends")


def test_leases_are_renewed_and_a_node_that_was_deleted_comes_back(one: tuple[Lab, Cluster]) -> None:
    lab, cluster = one
    for node in ("m1", "w1"):
        before = lease(lab, cluster, node)
        eventually(lambda node=node, before=before: lease(lab, cluster, node) > before, "it is renewed")  # type: ignore[misc]
    cluster.kubectl(lab, "m1", "label", "node", "w1", "mine=1")
    cluster.kubectl(lab, "m1", "delete", "node", "w1")
    jsonpath = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    words = ("get", "node", "w1", "--ignore-not-found", "-o", jsonpath)
    eventually(lambda: cluster.kubectl(lab, "m1", *words) == "True", "it is back")
    before = lease(lab, cluster, "w1")
    eventually(lambda: lease(lab, cluster, "w1") > before, "its lease is renewed")


def test_master_that_was_switched_off_comes_back(one: tuple[Lab, Cluster]) -> None:
    lab, cluster = one
    lab.power_off("m1")
    lab.power_on("m1")
    eventually(lambda: run(lab, "m1", "systemctl is-active kubelet || :") == "active\n", "the kubelet is started")
    eventually(lambda: is_serving(lab, cluster), "it serves again")
    before = lease(lab, cluster, "w1")
    eventually(lambda: lease(lab, cluster, "w1") > before, "its worker has found it")


@pytest.mark.slow
def test_three_masters_serve_one_cluster_and_the_endpoint_can_lead_to_each(tmp_path: Path, root: None) -> None:
    with lab_for(THREE, tmp_path / "labs") as lab:
        cluster = fast.create(lab, THREE, programs=fast.PROGRAMS[:1])
        members = run(lab, "m1", etcdctl("member list")).splitlines()
        assert len([line for line in members if ", started, " in line]) == 3
        cluster.kubectl(lab, "m1", "create", "configmap", "probe", "--from-literal=a=b")
        lab.power_off("m1")
        lab.point("api.lab", "m3")
        eventually(lambda: serves(lab, cluster, "m2"), "the other two serve")
        assert run(lab, "m2", "pgrep -x kube-scheduler || echo none") == "none\n"


def serves(lab: Lab, cluster: Cluster, host: str) -> bool:
    """Whether the endpoint has what was written before."""
    try:
        return cluster.kubectl(lab, host, "get", "configmap", "probe", "-o", "jsonpath={.data.a}") == "b"
    except PreconditionFailed:
        return False
