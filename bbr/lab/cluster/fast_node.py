"""The Node of a lab's host, kept alive at the API server by the client certificate of its kubelet.conf.

A missing Node is made; of an existing one labels, taints and annotations stay. Its Lease is renewed at every beat, its
conditions when they are old or wrong. Every beat reads kubelet.conf and connects anew, so that a new certificate, and
an endpoint whose name leads elsewhere, need no restart.

Imports the standard library and PyYAML only: it is put on hosts that have no bbr. Source: the kubelet's
pkg/kubelet/kubelet_node_status.go and component-helpers' apimachinery/lease.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import platform
import re
import socket
import ssl
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

KUBELET_CONF = Path("/etc/kubernetes/kubelet.conf")
FLAGS = Path("/var/lib/kubelet/kubeadm-flags.env")
STATUS_TIME = timedelta(seconds=10)
LEASE_SECONDS = 40  # the kubelet's own
_ANSWER_S = 5
_BODY_BYTES = 4 * 1024 * 1024

Json = dict[str, Any]
_MERGE, _STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class NoAnswer(Exception):
    """The API server was not reached, or answered with something else than was asked for."""


def beat() -> None:
    """Make the Node where it is missing, report its status where that is due, renew its Lease. Raises `NoAnswer`."""
    try:
        api = _Api(yaml.safe_load(KUBELET_CONF.read_bytes()))
        name, now = _name(), datetime.now(timezone.utc)  # noqa: UP017 - datetime.UTC begins with Python 3.11
        with api:
            node = api.ask("GET", f"/api/v1/nodes/{name}")
            if node is None:
                node = api.must("POST", "/api/v1/nodes", _node(name))
            if _is_due(node, now):
                api.must("PATCH", f"/api/v1/nodes/{name}/status", _status(node, now), kind=_STRATEGIC)
            _renew(api, node, name, now)
    except (OSError, http.client.HTTPException) as err:
        raise NoAnswer(f"{type(err).__name__}: {err}") from err
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as err:
        raise NoAnswer(f"kubelet.conf, or the answer, is not what it should be: {err!r}") from err


class _Api:
    """One connection to the API server that a kubeconfig names."""

    def __init__(self, config: Json) -> None:
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        server = urlsplit(cluster["server"])
        tls = ssl.create_default_context(cadata=_content(cluster, "certificate-authority").decode("ascii"))
        with _in_memory(_content(user, "client-certificate")) as one, _in_memory(_content(user, "client-key")) as other:
            tls.load_cert_chain(f"/proc/self/fd/{one.fileno()}", f"/proc/self/fd/{other.fileno()}")
        self._connection = http.client.HTTPSConnection(
            server.hostname or "", server.port or 443, timeout=_ANSWER_S, context=tls
        )

    def __enter__(self) -> _Api:  # noqa: PYI034 - typing.Self begins with Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Json | None = None, *, kind: str = "application/json") -> Json | None:
        """An object, or None when there is no such thing. Raises `NoAnswer` and what a connection raises."""
        headers = {"Accept": "application/json", "Content-Type": kind}
        self._connection.request(method, path, json.dumps(body).encode() if body is not None else None, headers)
        answer = self._connection.getresponse()
        text = answer.read(_BODY_BYTES)
        if answer.status == http.client.NOT_FOUND:
            return None
        if answer.status >= http.client.MULTIPLE_CHOICES:
            raise NoAnswer(f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise NoAnswer(f"{method} {path}: the answer is no object")
        return found

    def must(self, method: str, path: str, body: Json, *, kind: str = "application/json") -> Json:
        """The same; that there is no such thing is an error, too."""
        found = self.ask(method, path, body, kind=kind)
        if found is None:
            raise NoAnswer(f"{method} {path}: not found")
        return found


def _renew(api: _Api, node: Json, name: str, now: datetime) -> None:
    spec = {
        "holderIdentity": name,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    uid = node["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    # Also of one that was there: the Node may be another since.
    lease = {"metadata": {"name": name, "ownerReferences": [owner]}, "spec": spec}
    if api.ask("PATCH", f"{leases}/{name}", lease, kind=_MERGE) is None:
        api.must("POST", leases, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease})


def _node(name: str) -> Json:
    system, machine = _platform()
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": system,
        "kubernetes.io/arch": machine,
        "beta.kubernetes.io/os": system,
        "beta.kubernetes.io/arch": machine,
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def _status(node: Json, now: datetime) -> Json:
    """A patch: conditions and addresses are merged by their types."""
    system, machine = _platform()
    name = node["metadata"]["name"]
    amounts = {"cpu": str(os.cpu_count() or 1), "memory": f"{_memory_bytes() // 1024}Ki", "pods": "110"}
    return {
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [{"type": "InternalIP", "address": _address()}, {"type": "Hostname", "address": name}],
            "conditions": [
                _condition(node, now, "MemoryPressure", "False", "KubeletHasSufficientMemory"),
                _condition(node, now, "DiskPressure", "False", "KubeletHasNoDiskPressure"),
                _condition(node, now, "PIDPressure", "False", "KubeletHasSufficientPID"),
                _condition(node, now, "Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "machineID": _text(Path("/etc/machine-id")),
                "systemUUID": _text(Path("/etc/machine-id")),
                "bootID": _text(Path("/proc/sys/kernel/random/boot_id")),
                "kernelVersion": platform.release(),
                "osImage": "host of a lab",
                "containerRuntimeVersion": "none://0.0.0",
                "kubeletVersion": _kubelet_version(),
                "kubeProxyVersion": "",
                "operatingSystem": system,
                "architecture": machine,
            },
        }
    }


def _condition(node: Json, now: datetime, kind: str, status: str, reason: str) -> Json:
    before = _conditions(node).get(kind, {})
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "a stand-in of the kubelet says so",
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": since or stamp,
    }


def _is_due(node: Json, now: datetime) -> bool:
    ready = _conditions(node).get("Ready", {})
    if ready.get("status") != "True":
        return True
    addresses = {one["address"] for one in node["status"].get("addresses") or () if one["type"] == "InternalIP"}
    if addresses != {_address()}:
        return True
    last = datetime.fromisoformat(ready["lastHeartbeatTime"].replace("Z", "+00:00"))
    return not timedelta() <= now - last < STATUS_TIME  # a Node from a backup may be of any time


def _conditions(node: Json) -> dict[str, Json]:
    return {one["type"]: one for one in (node.get("status") or {}).get("conditions") or ()}


def _name() -> str:
    return _flag("hostname-override") or socket.gethostname().lower()


def _address() -> str:
    return _flag("node-ip") or socket.gethostbyname(socket.gethostname())


def _flag(name: str) -> str:
    """A flag of the kubelet that kubeadm wrote down."""
    found = re.search(rf"--{name}[= ]([^\s\"']+)", _text(FLAGS))
    return found[1] if found else ""


_version = ""


def _kubelet_version() -> str:
    """That of the real one beside us: asked once, for it takes a moment."""
    global _version
    if not _version:
        found = None
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(["kubelet", "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S607
            found = re.search(r"v\d+\.\d+\.\d+\S*", done.stdout)
        _version = found[0] if found else "v0.0.0"
    return _version


def _platform() -> tuple[str, str]:
    machine = platform.machine()
    return platform.system().lower(), {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _named(config: Json, kind: str, name: str) -> Json:
    found: Json = next(one for one in [*config[kind], None] if one is None or one["name"] == name)
    return found


def _content(entry: Mapping[str, str], name: str) -> bytes:
    """What a kubeconfig holds itself, or the file that it names."""
    data = entry.get(f"{name}-data")
    return base64.b64decode(data) if data else Path(entry[name]).read_bytes()


def _in_memory(body: bytes) -> Any:
    """A file that is on no disk: OpenSSL takes keys from files only."""
    file = os.fdopen(os.memfd_create("key"), "w+b")
    file.write(body)
    file.flush()
    return file
