"""Every object of a cluster, and what may differ after a restore: named here, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bbr.apiserver.client import ApiServer

REST_S, LIMIT_S = 5.0, 180.0
LARGE = "configmaps"

MEANT = ("spec", "data", "rules", "roleRef", "subjects", "webhooks", "type", "provisioner", "value", "secrets")
"""What is compared of an object, beside its uid. Status is what somebody saw last, and is seen anew."""

MAY_DIFFER = {
    r"events(\.events\.k8s\.io)? .*": "what happened is told on, and forgotten after an hour",
    r"leases\.coordination\.k8s\.io .*": "of kubelets, leaders and API servers: renewed, or gone with them",
    r"endpoints default/kubernetes": "the addresses of the API servers",
    r"endpointslices\.discovery\.k8s\.io default/kubernetes": "the addresses of the API servers",
    r"nodes /(?!w1$).*": "masters that came and went",
    r"csinodes\.storage\.k8s\.io /(?!w1$).*": "masters that came and went",
    r"pods kube-system/(etcd|kube-apiserver|kube-controller-manager|kube-scheduler)-.*": "static pods of masters",
    r"certificatesigningrequests\.certificates\.k8s\.io .*": "kubelets that asked for a certificate",
    r"validatingwebhookconfigurations\.admissionregistration\.k8s\.io /dead": "set aside: its backend never lived",
    r"componentstatuses .*": "nothing that is stored",
    r"configmaps kube-system/kubeadm-config": "holds the masters' addresses",
}
"""Patterns of names, and why."""

_MAY_DIFFER = re.compile("|".join(MAY_DIFFER))


def every_object(api: ApiServer, *, but: str = "") -> dict[str, str]:
    """``plural.group namespace/name`` of every object but those that may differ, and a digest of uid and meaning.

    ``but`` is a collection that is not looked at, because it is the large one.
    """
    return {
        name: _digest(one)
        for plural, path in _collections(api)
        if plural != but
        for one in api.list(path)
        if not _MAY_DIFFER.fullmatch(name := f"{plural} {_place(one)}")
    }


def every_settled(api: ApiServer) -> dict[str, str]:
    """The same, once controllers have come to rest."""
    found, since = every_object(api, but=LARGE), time.monotonic()
    deadline = since + LIMIT_S
    while time.monotonic() - since < REST_S:
        assert time.monotonic() < deadline, "the cluster's objects do not come to rest"
        if (now := every_object(api, but=LARGE)) != found:
            found, since = now, time.monotonic()
    return every_object(api)


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is missing, new or changed; empty when all is as it was."""
    return [
        *(f"missing: {name}" for name in sorted(before.keys() - after.keys())),
        *(f"new: {name}" for name in sorted(after.keys() - before.keys())),
        *(f"changed: {name}" for name in sorted(before.keys() & after.keys()) if before[name] != after[name]),
    ]


def _collections(api: ApiServer) -> Iterator[tuple[str, str]]:
    yield from _served(api, "", "/api/v1")
    for group in api.get("/apis")["groups"]:
        yield from _served(api, f".{group['name']}", f"/apis/{group['preferredVersion']['groupVersion']}")


def _served(api: ApiServer, suffix: str, path: str) -> Iterator[tuple[str, str]]:
    for resource in api.get(path)["resources"]:
        if "/" not in resource["name"] and "list" in resource["verbs"]:
            yield f"{resource['name']}{suffix}", f"{path}/{resource['name']}"


def _place(one: Mapping[str, Any]) -> str:
    return f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"


def _digest(one: Mapping[str, Any]) -> str:
    meant = [one["metadata"].get("uid", ""), {name: one[name] for name in MEANT if name in one}]
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:16]
