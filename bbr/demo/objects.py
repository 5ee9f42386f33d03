"""Objects such as a Kubernetes cluster keeps in etcd, made from a seed: for the demo, for benchmarks and for tests.

Keys, kinds and shapes are those of a real cluster: values of 3 kB on average, names and field lists that repeat, uids,
digests and secrets that do not, so that a snapshot of them compresses 6:1 to 7:1 by zstd -3. Built-in kinds are stored
as Kubernetes does, ``k8s\\0`` and a protobuf runtime.Unknown; custom resources are JSON. An object's content is a
function of (seed, number, version), so a million of them need no memory to be compared with. An update changes the few
fields that a controller would. Field numbers: k8s.io/apimachinery and k8s.io/api, generated.proto.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random

from bbr.demo.protobuf import message, number, text, time

SYSTEM_NAMESPACE = "kube-system"
_EPOCH_S = 1_760_000_000
_SPREAD_S = 20_000_000
_TEAMS = ("billing", "search", "identity", "media", "shipping", "ledger", "mobile", "risk", "catalog", "insight")
_STAGES = ("prod", "staging", "dev")
NAMESPACES = (SYSTEM_NAMESPACE, "default", *(f"{team}-{stage}" for team in _TEAMS for stage in _STAGES))
_APPS = (
    *("checkout", "frontend", "recommender", "session-store", "mailer", "image-proxy", "rate-limiter", "exporter"),
    *("webhook", "scheduler", "ingest", "query", "compactor", "gateway", "reporter", "sync-agent"),
)
_WORDS = (
    *("timeout", "endpoint", "replicas", "upstream", "buffer", "interval", "cache", "threshold", "window", "backend"),
    *("retry", "limit", "pool", "region", "bucket", "queue", "shard", "token", "session", "metrics"),
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One key and its value as kube-apiserver would write them. ``leased``: its key hangs on a lease, as events do."""

    key: bytes
    value: bytes
    leased: bool


@dataclass(slots=True)
class _Draft:
    """What one object is made of. ``fixed`` draws what stays for its life, ``fresh`` what this version brings."""

    number: int
    version: int
    namespace: str
    app: str
    fixed: Random
    fresh: Random

    @property
    def name(self) -> str:
        return f"{self.app}-{self.number:06d}"

    @property
    def born_s(self) -> int:
        return _EPOCH_S + self.number * 37 % _SPREAD_S

    @property
    def touched_s(self) -> int:
        return self.born_s + self.version * 60


def stored_object(seed: int, number: int, version: int = 1) -> StoredObject:
    """Object ``number`` in its ``version``. The first few are the namespaces, ``kube-system`` the very first."""
    fixed = Random(seed << 40 | number)  # noqa: S311 - made-up objects guard nothing
    fresh = Random((seed << 40 | number) << 24 | version)  # noqa: S311
    if number < len(NAMESPACES):
        draft = _Draft(number, version, "", NAMESPACES[number], fixed, fresh)
        return StoredObject(f"/registry/namespaces/{NAMESPACES[number]}".encode(), _namespace(draft), leased=False)
    kind = _KINDS[bisect(_CUMULATED, fixed.random() * _CUMULATED[-1])]
    draft = _Draft(number, version, fixed.choice(NAMESPACES), fixed.choice(_APPS), fixed, fresh)
    value = kind.make(draft)
    return StoredObject(f"/registry/{kind.path}/{draft.namespace}/{draft.name}".encode(), value, kind.leased)


def _namespace(draft: _Draft) -> bytes:
    return _built_in("v1", "Namespace", _metadata(draft, draft.app), text(1, "kubernetes"), text(1, "Active"))


def _pod(draft: _Draft) -> bytes:
    fixed = draft.fixed
    image = f"registry.example.com/{draft.namespace}/{draft.app}"
    containers = b"".join(message(2, _container(draft, f"{draft.app}-{part}", image)) for part in ("main", "proxy"))
    spec = (
        _volumes(draft.app)
        + containers
        + text(3, "Always")
        + text(6, "ClusterFirst")
        + text(8, draft.app)
        + text(10, f"node-{fixed.randrange(200):03d}.cluster.example.com")
    )
    conditions = b"".join(
        message(2, text(1, what) + text(2, "True") + time(4, draft.touched_s))
        for what in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    )
    states = b"".join(
        message(
            8,
            text(1, f"{draft.app}-{part}")
            + text(6, f"{image}:v1.{fixed.randrange(40)}")
            + text(7, f"{image}@sha256:{_hex(fixed, 32)}")
            + text(8, f"containerd://{_hex(draft.fresh, 32)}"),
        )
        for part in ("main", "proxy")
    )
    address = f"10.{fixed.randrange(256)}.{fixed.randrange(256)}.{draft.fresh.randrange(256)}"
    status = text(1, "Running") + conditions + text(5, "10.0.0.11") + text(6, address) + states
    return _built_in(
        "v1", "Pod", _metadata(draft, draft.name, owner="ReplicaSet", managers=_POD_MANAGERS), spec, status
    )


def _container(draft: _Draft, name: str, image: str) -> bytes:
    return (
        text(1, name)
        + text(2, f"{image}:v1.{draft.fixed.randrange(40)}")
        + text(4, f"--config=/etc/{draft.app}/config.yaml")
        + _variables(draft.app, draft.namespace)
        + _mounts(draft.app)
        + text(13, "/dev/termination-log")
        + text(14, "IfNotPresent")
        + text(20, "File")
    )


@cache
def _volumes(app: str) -> bytes:
    return b"".join(
        message(1, text(1, f"{app}-{what}") + message(2, message(19, text(1, f"{app}-{what}"))))
        for what in ("config", "secrets", "cache")
    )


@cache
def _variables(app: str, namespace: str) -> bytes:
    return b"".join(
        message(7, text(1, f"{app}_{word}".upper()) + text(2, f"{word}.{namespace}.svc:8080")) for word in _WORDS[:9]
    )


@cache
def _mounts(app: str) -> bytes:
    return b"".join(
        message(9, text(1, f"{app}-{what}") + text(3, f"/var/run/{app}/{what}"))
        for what in ("config", "secrets", "cache")
    )


def _deployment(draft: _Draft) -> bytes:
    image = f"registry.example.com/{draft.namespace}/{draft.app}"
    template = message(1, _labels(draft)) + message(2, message(2, _container(draft, draft.app, image)))
    spec = number(1, 1 + draft.fresh.randrange(9)) + message(2, _labels(draft)) + message(3, template)
    status = number(1, draft.version) + b"".join(
        message(
            6,
            text(1, what)
            + text(2, "True")
            + text(4, "MinimumReplicasAvailable")
            + text(5, f'ReplicaSet "{draft.name}-{_hex(draft.fresh, 5)}" has successfully progressed.'),
        )
        for what in ("Available", "Progressing")
    )
    return _built_in("apps/v1", "Deployment", _metadata(draft, draft.name, managers=_POD_MANAGERS), spec, status)


def _config_map(draft: _Draft) -> bytes:
    lines = [
        f"{draft.fresh.choice(_WORDS)}_{draft.fixed.choice(_WORDS)}: {draft.fixed.randrange(100)}"
        for _ in range(20 + draft.fixed.randrange(100))
    ]
    return _built_in("v1", "ConfigMap", _metadata(draft, draft.name), _entry("config.yaml", "\n".join(lines).encode()))


def _secret(draft: _Draft) -> bytes:
    token = base64.b64encode(draft.fresh.randbytes(850 + draft.fixed.randrange(2200)))
    return _built_in("v1", "Secret", _metadata(draft, draft.name), _entry("token", token), text(3, "Opaque"))


def _event(draft: _Draft) -> bytes:
    involved = (
        text(1, "Pod")
        + text(2, draft.namespace)
        + text(3, f"{draft.app}-{_hex(draft.fixed, 5)}")
        + text(4, _uid(draft.fixed))
    )
    spec = involved + text(5, "v1")
    said = f"Readiness probe failed: Get http://10.1.2.{draft.fixed.randrange(256)}:8080/healthz: connection refused"
    status = text(3, "Unhealthy") + text(4, said) + time(6, draft.touched_s) + number(8, draft.version)
    return _built_in("v1", "Event", _metadata(draft, draft.name), spec, status)


def _lease(draft: _Draft) -> bytes:
    spec = text(1, draft.name) + number(2, 40) + time(4, draft.touched_s)
    return _built_in("coordination.k8s.io/v1", "Lease", _metadata(draft, draft.name, owner="Node"), spec)


def _certificate(draft: _Draft) -> bytes:
    host = f"{draft.name}.{draft.namespace}.example.com"
    document = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {
            "name": draft.name,
            "namespace": draft.namespace,
            "uid": _uid(draft.fixed),
            "generation": draft.version,
            "labels": {"app.kubernetes.io/name": draft.app, "app.kubernetes.io/managed-by": "Helm"},
            "managedFields": [
                {"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": _CERTIFICATE_FIELDS}
                for manager in ("helm", "cert-manager-certificates-readiness")
            ],
        },
        "spec": {"secretName": f"{draft.name}-tls", "dnsNames": [host], "issuerRef": {"name": "internal"}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "observedGeneration": draft.version}],
            "notAfter": draft.touched_s + 7_776_000,
            "revision": draft.version,
            "lastFingerprint": _hex(draft.fresh, 32),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class _Kind:
    path: str
    weight: int
    make: Callable[[_Draft], bytes]
    leased: bool = False


_KINDS = (
    _Kind("pods", 36, _pod),
    _Kind("deployments", 10, _deployment),
    _Kind("configmaps", 12, _config_map),
    _Kind("secrets", 16, _secret),
    _Kind("events", 14, _event, leased=True),
    _Kind("leases", 4, _lease),
    _Kind("cert-manager.io/certificates", 8, _certificate),
)
_CUMULATED = tuple(accumulate(kind.weight for kind in _KINDS))

_FIELDS = json.dumps(
    {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:pod-template-hash": {}}, "f:ownerReferences": {".": {}}},
        "f:spec": {
            "f:containers": {
                'k:{"name":"main"}': {
                    ".": {},
                    **{f"f:{name}": {} for name in ("image", "imagePullPolicy", "name", "resources", "args")},
                    "f:env": {f'k:{{"name":"{word.upper()}"}}': {".": {}, "f:value": {}} for word in _WORDS[:13]},
                    "f:volumeMounts": {'k:{"mountPath":"/etc/config"}': {".": {}, "f:mountPath": {}, "f:name": {}}},
                }
            },
            **{f"f:{name}": {} for name in ("dnsPolicy", "enableServiceLinks", "restartPolicy", "securityContext")},
        },
        "f:status": {f"f:{name}": {} for name in ("conditions", "hostIP", "phase", "podIP", "startTime")},
    },
    separators=(",", ":"),
)
_CERTIFICATE_FIELDS: dict[str, dict[str, object]] = {
    "f:spec": {"f:dnsNames": {}, "f:issuerRef": {}},
    "f:status": {"f:conditions": {}},
}
_POD_MANAGERS = ("kube-controller-manager", "kubelet")


def _built_in(api_version: str, kind: str, metadata: bytes, spec: bytes, status: bytes = b"") -> bytes:
    raw = message(1, metadata) + message(2, spec) + (message(3, status) if status else b"")
    about = text(1, api_version) + text(2, kind)
    return b"k8s\x00" + message(1, about) + message(2, raw) + text(3, "") + text(4, "")


def _metadata(draft: _Draft, name: str, *, owner: str = "", managers: tuple[str, ...] = ("kubectl",)) -> bytes:
    owners = (
        message(13, text(1, owner) + text(3, f"{draft.app}-{_hex(draft.fixed, 5)}") + text(4, _uid(draft.fixed)))
        if owner
        else b""
    )
    managed = b"".join(
        message(
            17,
            text(1, manager)
            + text(2, "Update")
            + text(3, "v1")
            + time(4, draft.touched_s)
            + text(6, "FieldsV1")
            + message(7, text(1, _FIELDS if len(managers) > 1 else '{"f:data":{}}')),
        )
        for manager in managers
    )
    return (
        text(1, name)
        + text(3, draft.namespace)
        + text(5, _uid(draft.fixed))
        + number(7, draft.version)
        + time(8, draft.born_s)
        + _labels(draft)
        + owners
        + managed
    )


def _labels(draft: _Draft) -> bytes:
    return _label_map(draft.app, draft.namespace, draft.number % 40)


@cache
def _label_map(app: str, namespace: str, version: int) -> bytes:
    labels = {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/part-of": namespace,
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/version": f"1.{version}.0",
    }
    return b"".join(message(11, text(1, name) + text(2, value)) for name, value in labels.items())


def _entry(key: str, value: bytes) -> bytes:
    return text(1, key) + message(2, value)


def _uid(random: Random) -> str:
    digits = _hex(random, 16)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _hex(random: Random, count_bytes: int) -> str:
    return random.randbytes(count_bytes).hex()
