"""What kubeadm is told: its configuration files, as values in JSON, which is YAML.

Source: https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/
"""

from __future__ import annotations

import base64
import json
import secrets
import string
from dataclasses import dataclass
from typing import Any

from bbr.errors import PreconditionFailed
from bbr.lab.cluster.remote import run
from bbr.lab.cluster.spec import ClusterSpec
from bbr.lab.lab import Lab

ENCRYPTION_FILE = "/etc/kubernetes/encryption.yaml"
"""On every master, 0600. Beside pki/, where kubeadm mounts nothing by itself: its manifest names it."""

DISCOVERY_FILE = "/run/kubeadm-discovery.conf"
"""How a joining host finds the cluster and knows its authority. With a token alone it would have to wait until the
cluster has signed its own description: up to ten seconds."""

_API = "kubeadm.k8s.io/v1beta4"
_SOCKET = "unix:///run/containerd/containerd.sock"
_EVICTED_FOR = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
_TOKEN_LETTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Versions:
    """Of Kubernetes and of etcd, without a v."""

    kubernetes: str
    etcd: str


@dataclass(frozen=True, slots=True)
class Joining:
    """The secrets with which a host joins a cluster."""

    token: str
    certificate_key: str


def versions(lab: Lab, host: str) -> Versions:
    """Those of the programs of a host."""
    said = run(lab, host, "kubeadm version -o short && etcd --version")
    words = said.split()
    if len(words) < 4 or not words[0].startswith("v"):
        raise PreconditionFailed(f"host {host}: kubeadm and etcd do not say their versions: {said.strip()}")
    return Versions(words[0].removeprefix("v"), words[3])


def image_references(lab: Lab, host: str, wanted: Versions) -> list[str]:
    """The images that kubeadm would take."""
    command = "kubeadm config images list --config /dev/stdin"
    return run(lab, host, command, stdin=_documents(_cluster(wanted, endpoint="", encryption=False))).split()


def new_joining() -> Joining:
    """Fresh ones."""
    letters = [secrets.choice(_TOKEN_LETTERS) for _ in range(22)]
    return Joining(f"{''.join(letters[:6])}.{''.join(letters[6:])}", secrets.token_hex(32))


def init_file(spec: ClusterSpec, wanted: Versions, joining: Joining, *, address: str) -> str:
    """For ``kubeadm init``."""
    init = {
        "apiVersion": _API,
        "kind": "InitConfiguration",
        "bootstrapTokens": [{"token": joining.token}],
        "certificateKey": joining.certificate_key,
        "localAPIEndpoint": {"advertiseAddress": address},
        "nodeRegistration": _registration(spec.masters[0]),
        "skipPhases": ["addon"],
    }
    return _documents(init, _cluster(wanted, endpoint=spec.endpoint, encryption=spec.encryption), _kubelet())


def join_file(spec: ClusterSpec, joining: Joining, name: str, *, address: str) -> str:
    """For ``kubeadm join``, of a further master or a worker."""
    join: dict[str, Any] = {
        "apiVersion": _API,
        "kind": "JoinConfiguration",
        "discovery": {"file": {"kubeConfigPath": DISCOVERY_FILE}, "tlsBootstrapToken": joining.token},
        "nodeRegistration": _registration(name),
    }
    if name in spec.masters:
        join["controlPlane"] = {
            "localAPIEndpoint": {"advertiseAddress": address},
            "certificateKey": joining.certificate_key,
        }
    return _documents(join)


def discovery_file(spec: ClusterSpec, authority: str) -> str:
    """A kubeconfig without a user. ``authority`` is the cluster's CA certificate (PEM)."""
    cluster = {
        "server": f"https://{spec.endpoint}",
        "certificate-authority-data": base64.b64encode(authority.encode()).decode(),
    }
    return _documents(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "", "cluster": cluster}],
            "contexts": [],
            "users": [],
            "current-context": "",
        }
    )


def encryption_file() -> str:
    """An EncryptionConfiguration with a fresh key, for Secrets and ConfigMaps."""
    key = {"name": "key1", "secret": base64.b64encode(secrets.token_bytes(32)).decode()}
    return _documents(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {"resources": ["secrets", "configmaps"], "providers": [{"aescbc": {"keys": [key]}}, {"identity": {}}]}
            ],
        }
    )


def _cluster(wanted: Versions, *, endpoint: str, encryption: bool) -> dict[str, Any]:
    # With open watches an API server takes a minute to end otherwise.
    arguments = [{"name": "shutdown-watch-termination-grace-period", "value": "1s"}]
    volumes = []
    if encryption:
        arguments.append({"name": "encryption-provider-config", "value": ENCRYPTION_FILE})
        volumes.append(
            {
                "name": "encryption",
                "hostPath": ENCRYPTION_FILE,
                "mountPath": ENCRYPTION_FILE,
                "readOnly": True,
                "pathType": "File",
            }
        )
    # No host of a lab loses what it wrote when it is switched off: the machine's kernel has it.
    etcd_arguments = [{"name": "unsafe-no-fsync", "value": "true"}]
    return {
        "apiVersion": _API,
        "kind": "ClusterConfiguration",
        "kubernetesVersion": f"v{wanted.kubernetes}",
        "controlPlaneEndpoint": endpoint,
        "apiServer": {"extraArgs": arguments, "extraVolumes": volumes},
        "etcd": {"local": {"imageTag": f"{wanted.etcd}-0", "extraArgs": etcd_arguments}},
    }


def _kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "resolvConf": "",
        # The disk is the machine's: how full it is, is not the cluster's business, and a removed image is lost.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": dict.fromkeys(_EVICTED_FOR, "0%"),
    }


def _registration(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "criSocket": _SOCKET,
        "imagePullPolicy": "Never",
        # It looks for a kernel's configuration, which a host has not got.
        "ignorePreflightErrors": ["SystemVerification"],
    }


def _documents(*documents: dict[str, Any]) -> str:
    return "".join(f"---\n{json.dumps(document, indent=2)}\n" for document in documents)
