"""What went wrong elsewhere in the world, done to a small cluster on purpose: docs/what-goes-wrong.md lists it all.

One cluster, on which restores follow each other: one that fails and is taken back, one in place, one onto a new machine
on which an old master's leftovers lie. Every test looks at one old mistake.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bbr.lab.cluster import fast, programs
from bbr.lab.cluster.spec import ClusterSpec, host_specs
from bbr.servers.binaries import search_path
from tests.bad_input.restore_cluster.broken import shim, the_lab
from tests.restore.cluster.site import Site, object_names, opened_site

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

WAL_DIR = "/var/lib/etcd-wal"
LEFTOVER = "left-behind"
WAIT_S = 60.0
ETCDCTL = (
    "etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt "
    "--cert /etc/kubernetes/pki/etcd/healthcheck-client.crt --key /etc/kubernetes/pki/etcd/healthcheck-client.key"
)
DEAD_SERVICE = {"service": {"namespace": "nowhere", "name": "nobody", "path": "/"}}


@dataclass(frozen=True, slots=True)
class Before:
    """The old cluster at its end: ``revision`` is what clients saw last, ``said`` what bbr said since."""

    revision: int
    cluster_id: int
    api_servers: frozenset[str]
    plan: Path
    said: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A master, and a worker, with everything in it that has hurt somebody; backed up; and changed since."""
    with opened_site(tmp_path_factory.mktemp("world"), masters=("m1",), workers=("w1",)) as site:
        separate_wal(site)
        site.kubectl("m1", "create", "namespace", "before")
        site.kubectl("m1", "-n", "before", "create", "secret", "generic", "known", "--from-literal=word=plugh")
        for node in ("m1", "w1"):
            apply(site, attachment(node))
        apply(site, conversion())
        wait(lambda: "Established" in site.kubectl("m1", "get", "crd", "toads.example.com", "-o", "yaml"))
        apply(site, deadlock())  # from here on nobody can write anything
        site.back_up()
        site.kubectl("m1", "delete", "validatingwebhookconfiguration", "deadlock")
        site.kubectl("m1", "create", "namespace", "after")
        yield site


@pytest.fixture(scope="module")
def went_back(site: Site) -> Before:
    """In place."""
    listed = json.loads(site.kubectl("m1", "get", "--raw", "/api/v1/namespaces"))
    revision, cluster_id = int(listed["metadata"]["resourceVersion"]), id_of_cluster(site, "m1")
    api_servers = frozenset(site.on("m1", "pgrep -x kube-apiserver").split())
    plan = site.plan("in-place", name="back.json")
    return Before(revision, cluster_id, api_servers, plan, site.apply(plan).stderr)


@pytest.fixture(scope="module")
def rebuilt(site: Site, went_back: Before) -> Before:
    """Onto a machine where another life of this cluster lies about."""
    cluster_id = id_of_cluster(site, "m1")
    spec = ClusterSpec(masters=("n1",))
    lab = the_lab(site)
    lab.add(*host_specs(spec, programs.folders(programs.FAST, search_path(bin_dir=None, environ=os.environ))))
    fast.prepare(lab, ["n1"])
    leave_behind(site, "n1")
    plan = site.plan("fresh", "--to", "n1", name="fresh.json")
    return Before(0, cluster_id, frozenset(), plan, site.apply(plan).stderr)


def test_a_failed_restore_is_taken_back_and_nothing_is_lost(site: Site) -> None:
    """rancher#23121: a restore failed after it had deleted what was there."""
    plan = site.plan("in-place", name="failed.json")
    refuses = '#!/bin/sh\ncase "$*" in *--bump-revision*) exit 1;; esac\nexec /root/real/etcdutl "$@"\n'
    with shim(site, "etcdutl", refuses):
        done = site.apply(plan, check=False)
    was_running = site.on("m1", "pgrep -x etcd || true")
    site.undo(plan)
    assert done.returncode != 0
    failed = [entry["step"] for entry in site.journal(plan) if entry["event"] == "failed"]
    assert failed == ["make-members"], done.stderr
    assert not was_running  # all of it was down by then
    assert "Namespace//after" in object_names(site, "m1", "namespaces")
    site.bbr("restore", "clean", plan, "--confirm", "prod")


def test_a_damaged_part_stops_a_restore_before_its_first_step(site: Site) -> None:
    """etcd#18340, rke2#6281: empty, truncated and hashless snapshots were restored, and said to be well."""
    plan = site.plan("in-place", name="damaged.json")
    parts = [path for path in (site.folder / "repository").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    largest = max(parts, key=lambda path: path.stat().st_size)
    whole, mode = largest.read_bytes(), largest.stat().st_mode
    try:
        for body in (b"", whole[: len(whole) // 2], whole[:-32]):
            largest.chmod(0o600)
            largest.write_bytes(body)
            done = site.apply(plan, check=False)
            assert done.returncode == 4, done.stderr
            assert not [entry for entry in site.journal(plan) if entry["event"] == "begun"]
    finally:
        largest.write_bytes(whole)
        largest.chmod(mode)
    assert "Namespace//after" in object_names(site, "m1", "namespaces")


def test_revisions_do_not_go_back_and_old_watches_are_told(site: Site, went_back: Before) -> None:
    """kubernetes#107457: after a restore clients went on from revisions that had not been yet, and saw nothing."""
    listed = json.loads(site.kubectl("m1", "get", "--raw", "/api/v1/namespaces"))
    assert int(listed["metadata"]["resourceVersion"]) > went_back.revision
    assert "after" not in {one["metadata"]["name"] for one in listed["items"]}
    query = f"/api/v1/namespaces?watch=1&resourceVersion={went_back.revision}&timeoutSeconds=5"
    ask = shlex.join(("kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "get", "--raw", query))
    told = site.on("m1", f"{ask} 2>&1", check=False)
    assert "too old resource version" in told or '"code":410' in told, told


def test_no_api_server_runs_on_through_a_restore(site: Site, went_back: Before) -> None:
    """kubernetes#95958: etcd was restored under a running API server, whose caches were of the old data."""
    assert not went_back.api_servers & set(site.on("m1", "pgrep -x kube-apiserver").split())
    ended = [entry["step"] for entry in site.journal(went_back.plan) if entry["event"] == "done"]
    assert ended.index("stop-control-plane") < ended.index("make-members") < ended.index("start-api-servers")


def test_a_separate_wal_directory_goes_with_the_data(site: Site, went_back: Before) -> None:
    """etcd#9109: the data directory was exchanged, and the old log beside it played on top."""
    assert "Namespace//after" not in object_names(site, "m1", "namespaces")
    names = site.on("m1", f"find {WAL_DIR} /var/lib/etcd -name '*.wal' -not -path '*bbr*'").split()
    assert names
    assert all(name.startswith(WAL_DIR) for name in names)
    run = json.loads(went_back.plan.read_text())["plan"]["run"]
    assert run in site.on("m1", "find /var/lib -name '*.wal'")  # the old ones were kept


def test_a_webhook_that_nobody_answers_does_not_lock_the_cluster(site: Site, went_back: Before) -> None:
    """kubernetes#56761: a webhook for everything, whose pods could not start because of it."""
    site.kubectl("m1", "create", "namespace", "unlocked")
    assert "deadlock stays set aside" in went_back.said
    (kept,) = (site.folder / "state" / "restores").glob("*/saved/quarantine-*deadlock*")
    assert json.loads(kept.read_text())["metadata"]["name"] == "deadlock"


def test_a_dead_conversion_webhook_is_told_and_does_not_stop_a_restore(site: Site, went_back: Before) -> None:
    """kubernetes#110720: one CRD whose conversion is down kept the whole API server from its work."""
    assert "toads.example.com: its conversion webhook does not live" in went_back.said
    assert "CustomResourceDefinition//toads.example.com" in object_names(site, "m1", "crd")


def test_a_new_address_is_in_every_certificate(site: Site, rebuilt: Before) -> None:
    """kubeadm#338: the old certificates held only for the old address."""
    old, new = site.lab.host("m1").address, address(site, "n1")
    for name in ("apiserver", "etcd/server", "etcd/peer"):
        said = site.on("n1", f"openssl x509 -noout -text -in /etc/kubernetes/pki/{name}.crt")
        assert f"IP Address:{new}" in said
        assert f"IP Address:{old}" not in said
    assert "Namespace//before" in object_names(site, "n1", "namespaces")  # through the endpoint, verified


def test_no_old_peer_address_stays(site: Site, rebuilt: Before) -> None:
    """k0s#7876: etcd kept the old peer address, and never found itself."""
    (member,) = json.loads(site.on("n1", f"{ETCDCTL} member list -w json"))["members"]
    assert member["peerURLs"] == [f"https://{address(site, 'n1')}:2380"]
    old = site.lab.host("m1").address
    assert site.on("n1", f"grep -rlF {old} /etc/kubernetes/manifests /etc/kubernetes/*.conf || true") == ""


def test_a_reused_data_directory_goes_aside_and_the_cluster_has_a_new_id(site: Site, rebuilt: Before) -> None:
    """etcd#8169, etcd#11562: a member found old data, or another cluster's id, and was refused or served it."""
    assert id_of_cluster(site, "n1") != rebuilt.cluster_id
    found = site.on("n1", f"find /var/lib -name {LEFTOVER}").split()
    assert len(found) == 2  # of the data and of the log: both kept
    assert not [one for one in found if one.startswith(("/var/lib/etcd/member/", f"{WAL_DIR}/{LEFTOVER}"))]
    assert site.on("n1", f"ls {WAL_DIR}/*.wal")


def test_old_leaves_and_manifests_on_a_new_machine_go_aside(site: Site, rebuilt: Before) -> None:
    """What kubeadm finds it uses: an old leaf, or a manifest that the kubelet would run."""
    run = json.loads(rebuilt.plan.read_text())["plan"]["run"]
    aside = f"/var/lib/bbr/runs/{run}/before/etc/kubernetes"
    kept = site.on("n1", f"cat {aside}/pki/apiserver.crt {aside}/manifests/stray.yaml")
    assert kept == "an old leaf\nan old manifest\n"
    assert site.on("n1", "ls /etc/kubernetes/manifests/stray.yaml 2>/dev/null || true") == ""


def test_stale_masters_are_off_and_nowhere_named(site: Site, rebuilt: Before) -> None:
    """kops#7054: clients were sent to masters that were no more, and one that came back served old data."""
    states = {one.host.name: one.first_process for one in the_lab(site).status()}
    assert states["m1"] is None
    assert "Node//m1" not in object_names(site, "n1", "nodes")
    wait(lambda: endpoints(site) == [address(site, "n1")])
    assert not [name for name in object_names(site, "n1", "leases") if name.endswith("/m1")]


def test_attachments_of_fenced_nodes_go_and_those_of_others_stay(site: Site, rebuilt: Before) -> None:
    """longhorn#7313: volumes stayed attached to nodes that were no more, or were attached twice."""
    assert object_names(site, "n1", "volumeattachments") == {"VolumeAttachment//of-w1"}
    (kept,) = (site.folder / "state" / "restores").glob("*/saved/*volumeattachments*of-m1*")
    assert json.loads(kept.read_text())["spec"]["nodeName"] == "m1"


def test_nodes_can_join_after_old_tokens_have_expired(site: Site, rebuilt: Before) -> None:
    """A bootstrap token lives for a day, uploaded certificates for two hours: a backup's have ended."""
    expect = json.loads(rebuilt.plan.read_text())["plan"]["expect"]
    assert [line for line in expect if "kubeadm token create --print-join-command" in line]
    joining = site.on("n1", "kubeadm token create --print-join-command")
    assert joining.startswith("kubeadm join api.lab:6443 --token ")
    # A host of a lab has no default route, from which kubeadm would know the machine's address.
    version = site.on("n1", "kubeadm version -o short").strip()
    api = "apiVersion: kubeadm.k8s.io/v1beta4"
    here = f"{api}\nkind: InitConfiguration\nlocalAPIEndpoint: {{advertiseAddress: {address(site, 'n1')}}}\n"
    told = f"{here}---\n{api}\nkind: ClusterConfiguration\nkubernetesVersion: {version}\n"
    uploaded = site.on("n1", "kubeadm init phase upload-certs --upload-certs --config /dev/stdin", stdin=told)
    assert "Using certificate key" in uploaded


def separate_wal(site: Site) -> None:
    """Give etcd's log a folder of its own, as people do with a fast disk."""
    pod = yaml.safe_load(site.on("m1", "cat /etc/kubernetes/manifests/etcd.yaml"))
    (container,) = pod["spec"]["containers"]
    container["command"].append(f"--wal-dir={WAL_DIR}")
    container["volumeMounts"].append({"mountPath": WAL_DIR, "name": "etcd-wal"})
    pod["spec"]["volumes"].append({"name": "etcd-wal", "hostPath": {"path": WAL_DIR, "type": "DirectoryOrCreate"}})
    site.on("m1", "mv /etc/kubernetes/manifests/etcd.yaml /root/")
    wait(lambda: not site.on("m1", "pgrep -x etcd || true"))
    site.on("m1", f"mv /var/lib/etcd/member/wal {WAL_DIR} && cat >/etc/kubernetes/manifests/.new", stdin=yaml.dump(pod))
    site.on("m1", "chmod 600 /etc/kubernetes/manifests/.new && cd /etc/kubernetes/manifests && mv .new etcd.yaml")
    wait(
        lambda: "ok" in site.on("m1", "kubectl --kubeconfig=/etc/kubernetes/admin.conf get --raw /readyz", check=False)
    )


def leave_behind(site: Site, host: str) -> None:
    """What an earlier life of a machine leaves on it: data of the very cluster, a log, a leaf, a manifest."""
    site.on(
        host,
        f"mkdir -p /var/lib/etcd/member/snap /var/lib/etcd/member/wal {WAL_DIR} /etc/kubernetes/pki && "
        f"echo old | tee /var/lib/etcd/member/{LEFTOVER} >{WAL_DIR}/{LEFTOVER} && "
        "echo an old leaf >/etc/kubernetes/pki/apiserver.crt && "
        "echo an old manifest >/etc/kubernetes/manifests/stray.yaml",
    )


def apply(site: Site, thing: dict[str, object]) -> None:
    """`kubectl create`."""
    site.kubectl("m1", "create", "-f", "-", stdin=json.dumps(thing))


def attachment(node: str) -> dict[str, object]:
    """A volume that is attached to a node."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"name": f"of-{node}"},
        "spec": {"attacher": "csi.example.com", "nodeName": node, "source": {"persistentVolumeName": f"disk-{node}"}},
    }


def conversion() -> dict[str, object]:
    """A CRD of two versions, which nobody converts."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": name, "served": True, "storage": name == "v1", "schema": schema} for name in ("v1", "v2")]
    webhook = {"clientConfig": DEAD_SERVICE, "conversionReviewVersions": ["v1"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "toads.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "toads", "singular": "toad", "kind": "Toad"},
            "versions": versions,
            "conversion": {"strategy": "Webhook", "webhook": webhook},
        },
    }


def deadlock() -> dict[str, object]:
    """A webhook that must agree to everything, and does not exist."""
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "operations": ["*"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "deadlock"},
        "webhooks": [
            {
                "name": "deadlock.example.com",
                "clientConfig": DEAD_SERVICE,
                "rules": [rule],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 1,
            }
        ],
    }


def id_of_cluster(site: Site, host: str) -> int:
    """etcd's."""
    (status,) = json.loads(site.on(host, f"{ETCDCTL} endpoint status -w json"))
    return int(status["Status"]["header"]["cluster_id"])


def address(site: Site, host: str) -> str:
    """Of a host that may have come later."""
    return the_lab(site).host(host).address


def endpoints(site: Site) -> list[str]:
    """Where the ``kubernetes`` service sends clients."""
    slices = json.loads(site.kubectl("n1", "get", "endpointslices", "kubernetes", "-o", "json"))
    return [one for endpoint in slices["endpoints"] for one in endpoint["addresses"]]


def wait(is_so: Callable[[], bool]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)
