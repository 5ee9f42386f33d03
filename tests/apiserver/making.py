"""Objects that a restored cluster may bring: nodes, services with and without anybody behind them, webhooks."""

from __future__ import annotations

from collections.abc import Sequence

from bbr.apiserver.client import ApiServer, Object

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


def make_node(api: ApiServer, name: str, **labels: str) -> Object:
    """A Node as its kubelet makes it, at an address."""
    keys = {f"node-role.kubernetes.io/{role}": value for role, value in labels.items()}
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": keys},
        "spec": {"providerID": f"lab://{name}"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.77.0.99"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    return api.create("/api/v1/nodes", body)


def make_lease(api: ApiServer, namespace: str, name: str, *, holder: str = "somebody", hostname: str = "") -> None:
    """A lease, renewed at some time."""
    labels = {"kubernetes.io/hostname": hostname} if hostname else {}
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "labels": labels},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-01-02T03:04:05.678901Z"},
    }
    api.create(LEASES.format(namespace), body)


def make_service(api: ApiServer, namespace: str, name: str, *, ready_on: Sequence[str] = (), unready: int = 0) -> None:
    """A Service, with endpoints on these nodes, and some that are not ready."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 443}], "selector": {"app": name}},
    }
    api.create(f"/api/v1/namespaces/{namespace}/services", service)
    endpoints: list[Object] = [
        {"addresses": [f"10.244.0.{at}"], "nodeName": node, "conditions": {"ready": True}}
        for at, node in enumerate(ready_on, 1)
    ]
    endpoints += [{"addresses": [f"10.244.1.{at}"], "conditions": {"ready": False}} for at in range(1, unready + 1)]
    if endpoints:
        piece = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": 443}],
            "endpoints": endpoints,
        }
        api.create(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", piece)


def make_webhook(
    api: ApiServer, kind: str, name: str, *, client: Object, policy: str = "Fail", resource: str = "configmaps"
) -> None:
    """A webhook that is asked about some resource in the namespace of its own name."""
    hook = {
        "name": "hook.example.org",
        "clientConfig": client,
        "failurePolicy": policy,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
    }
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [hook],
    }
    api.create(f"/apis/admissionregistration.k8s.io/v1/{kind.lower()}webhookconfigurations", body)


def service(namespace: str, name: str) -> Object:
    """A clientConfig that calls a Service."""
    return {"service": {"namespace": namespace, "name": name}}


def make_crd(api: ApiServer, plural: str, *, client: Object) -> str:
    """A custom resource of two versions that a webhook converts; returns its name."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": name, "served": True, "storage": name == "v1", "schema": schema} for name in ("v1", "v1beta1")]
    name = f"{plural}.example.org"
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural, "kind": plural.capitalize(), "listKind": f"{plural}List"},
            "versions": versions,
            "conversion": {
                "strategy": "Webhook",
                "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]},
            },
        },
    }
    api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    return name
