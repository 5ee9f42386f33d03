"""What lies in a cluster before its disaster, what is done to it after the backup, and a client that watches all along.

All that a restore may lose or break: many objects, Secrets, rights, custom resources, a webhook whose backend never
lived, pods that run, a token that a pod could hold.
"""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bbr.apiserver.client import ApiServer
from bbr.errors import ApiServerError
from bbr.etcd.client import EtcdClient
from bbr.etcd.write import TXN_LIMIT, lease_grant, put, txn
from bbr.lab.cluster.images import APP
from bbr.machines.ssh import ssh_machine
from restore.iaas.lab import ssh_host
from restore.reach import API_PORT, Reach
from tests.restore.cluster.site import Site

OBJECTS = 20_000
ENCRYPTED_SECRETS = 50
NAMESPACE = "before"
PODS = 3
WORKER = "w1"
ROBOT = "/root/robot.conf"
"""On the worker: a kubeconfig with the token of a service account, of which the cluster's endpoint is asked."""

WORD = "plugh"
LEASE_S = 86_400
ETCD_CA = "/etc/kubernetes/pki/etcd/ca.crt"
LIMIT_S = 240
_CONFIGMAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_WATCH = f"{_CONFIGMAPS}?watch=1&timeoutSeconds=3600&resourceVersion="

Body = dict[str, Any]


@contextmanager
def api(site: Site, host: str) -> Iterator[ApiServer]:
    """The API server of a master, over SSH."""
    with ssh_machine(ssh_host(site.lab.host(host))) as machine, Reach().api(machine, API_PORT) as client:
        yield client


@contextmanager
def etcd(site: Site, host: str) -> Iterator[EtcdClient]:
    """The etcd of a master, over SSH."""
    with ssh_machine(ssh_host(site.lab.host(host))) as machine, Reach().etcd(machine, ETCD_CA) as client:
        yield client


def soon(what: Callable[[], object], *, why: str) -> None:
    """Return once ``what`` says something true. What cannot be asked yet says nothing."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            if what():
                return
            last: object = "no"
        except (ApiServerError, AssertionError) as err:
            last = err
        assert time.monotonic() < deadline, f"{why}: {last}"
        time.sleep(0.3)


def fill(site: Site, master: str, *, objects: int = OBJECTS) -> None:
    """Fill the cluster, and hand the worker a token. Returns when all pods run."""
    site.kubectl(master, "create", "-f", "-", stdin=_listed(*_foundation()))
    with etcd(site, master) as client:
        _fill_etcd(client, objects)
    with api(site, master) as client:
        path = "/apis/example.test/v1/namespaces/before/widgets"
        soon(lambda: client.page(path) is not None, why="the custom resource is not served")
        for number in range(5):
            client.create(path, _widget(f"widget-{number}"))
        client.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", _dead_webhook())
    bound = ("--bound-object-kind", "Secret", "--bound-object-name", "known", "--duration", "24h")
    token = site.kubectl(master, "-n", NAMESPACE, "create", "token", "robot", *bound).strip()
    site.on(WORKER, f"umask 077 && cat >{ROBOT}", stdin=json.dumps(_kubeconfig(token)))
    soon(lambda: len(running_pods(site, master, "app")) == PODS, why="the pods do not run")


def change(site: Site, master: str) -> None:
    """What happens after the backup, and must be undone by a restore. Returns when the new pods run."""
    site.kubectl(master, "create", "namespace", "after")
    site.kubectl(master, "-n", NAMESPACE, "create", "configmap", "later", "--from-literal=a=b")
    site.kubectl(master, "-n", NAMESPACE, "delete", "configmap", "filling-00000", "filling-00001")
    site.kubectl(master, "-n", NAMESPACE, "patch", "secret", "known", "-p", json.dumps({"data": {"word": "eA=="}}))
    site.kubectl(master, "-n", NAMESPACE, "scale", "deployment", "app", f"--replicas={PODS + 1}")
    site.kubectl(master, "-n", "after", "create", "-f", "-", stdin=json.dumps(_deployment("phantom", 1)))
    soon(lambda: running_pods(site, master, "phantom", namespace="after"), why="the later pod does not run")
    soon(lambda: len(running_pods(site, master, "app")) == PODS + 1, why="the fourth pod does not run")


def running_pods(site: Site, master: str, app: str, *, namespace: str = NAMESPACE) -> set[str]:
    """The uids of the pods of a Deployment that run."""
    listed = json.loads(site.kubectl(master, "-n", namespace, "get", "pods", "-l", f"app={app}", "-o", "json"))["items"]
    return {
        pod["metadata"]["uid"]
        for pod in listed
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    }


def start_another(site: Site, master: str) -> None:
    """A Deployment that was never there gets its pod: scheduler, controllers and kubelet work."""
    site.kubectl(master, "-n", NAMESPACE, "create", "-f", "-", stdin=json.dumps(_deployment("another", 1)))
    soon(lambda: running_pods(site, master, "another"), why="a new Deployment gets no pod")


def as_robot(site: Site, *words: str, check: bool = True) -> str:
    """What kubectl says on the worker, with the token from before, by the cluster's endpoint."""
    return site.on(WORKER, f"kubectl --kubeconfig {ROBOT} {shlex.join(words)} 2>&1", check=check)


@dataclass(slots=True)
class Watch:
    """A client on the worker that watches from a revision which the restore takes away."""

    site: Site
    process: subprocess.Popen[str]
    seen: str

    def goes_on(self) -> str:
        """What it is told when it goes on from what it saw last, as every client does whose connection broke."""
        self.process.terminate()
        return as_robot(self.site, "get", "--raw", f"{_WATCH}{self.seen}", check=False)


@contextmanager
def watching(site: Site, master: str) -> Iterator[Watch]:
    """A watch that has seen an event after the backup: `change` is made meanwhile."""
    listed = json.loads(as_robot(site, "get", "--raw", f"{_CONFIGMAPS}?limit=1"))
    command = f"kubectl --kubeconfig {ROBOT} get --raw '{_WATCH}{listed['metadata']['resourceVersion']}'"
    line = ["ssh", "-F", str(site.lab.ssh_config), WORKER, command]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        change(site, master)
        assert process.stdout is not None
        event = json.loads(process.stdout.readline())
        assert event["object"]["metadata"]["namespace"] == NAMESPACE
        yield Watch(site, process, event["object"]["metadata"]["resourceVersion"])
    finally:
        process.terminate()
        process.communicate()


def _fill_etcd(client: EtcdClient, objects: int) -> None:
    """ConfigMaps as an API server wrote them before anybody turned encryption on, and keys with a lease."""
    stored = ((f"filling-{number:05d}", number) for number in range(objects))
    batch: dict[bytes, bytes] = {}
    for name, number in stored:
        batch[f"/registry/configmaps/{NAMESPACE}/{name}".encode()] = json.dumps(_configmap(name, number)).encode()
        if len(batch) == TXN_LIMIT:
            txn(client, batch)
            batch = {}
    if batch:
        txn(client, batch)
    lease = lease_grant(client, LEASE_S)
    put(client, b"/registry/bbr-test/leased", b"of a lease that must come back", lease=lease)


def _configmap(name: str, number: int) -> Body:
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    data = {"number": str(number), "text": f"{number:05d} " * 100}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data}


def _foundation() -> Iterator[Body]:
    here = {"namespace": NAMESPACE}
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", **here}}
    yield _secret("known", WORD)
    yield from (_secret(f"secret-{number}", f"{number}-{WORD}") for number in range(ENCRYPTED_SECRETS))
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["get", "list", "watch"]}]
    yield {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "reader", **here}, "rules": rules}
    yield {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "robot-reads", **here},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", **here}],
    }
    yield _definition()
    yield _deployment("app", PODS) | {"metadata": {"name": "app", **here}}


def _secret(name: str, word: str) -> Body:
    data = {"word": base64.b64encode(word.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}


def _definition() -> Body:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.test"},
        "spec": {
            "group": "example.test",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def _widget(name: str) -> Body:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "example.test/v1", "kind": "Widget", "metadata": metadata, "spec": {"size": len(name)}}


def _dead_webhook() -> Body:
    """Nobody ever answers for it, and nothing of its kind can be made any more; all else goes on."""
    rule = {"apiGroups": ["example.test"], "apiVersions": ["v1"], "resources": ["widgets"], "operations": ["CREATE"]}
    hook = {
        "name": "dead.example.test",
        "clientConfig": {"service": {"name": "nobody", "namespace": NAMESPACE}},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "dead"},
        "webhooks": [hook],
    }


def _deployment(name: str, pods: int) -> Body:
    container = {"name": name, "image": APP, "imagePullPolicy": "Never", "command": ["/bin/sleep", "infinity"]}
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def _kubeconfig(token: str) -> Body:
    cluster = {"server": "https://api.lab:6443", "certificate-authority": "/etc/kubernetes/pki/ca.crt"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "robot", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "robot"}}],
        "current-context": "lab",
    }


def _listed(*items: Body) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
