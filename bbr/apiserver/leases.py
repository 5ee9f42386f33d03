"""Leases: who leads, which API servers there were, and when a kubelet last reported.

A dead leader's lease is waited for (16 s measured) unless it is deleted; an old API server's identity lease stays an
hour. `restore` deletes them while no controller runs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from bbr.apiserver.client import ApiServer, Object, path_of
from bbr.apiserver.nodes import NODE_LEASES
from bbr.apiserver.objects import Saved, at, name_of, text_at

SYSTEM_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEADERS = ("kube-controller-manager", "kube-scheduler", "cloud-controller-manager")
_IDENTITY = "apiserver-"
_HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease. ``renewed`` is by the holder's clock, None when it never was."""

    name: str
    path: str
    holder: str
    hostname: str
    """The host of an API server's identity lease; else empty."""
    renewed: datetime | None


def node_leases(api: ApiServer) -> dict[str, Lease]:
    """When each node's kubelet last reported, by the node's name: a Ready condition alone may be of the backup."""
    return {one.name: one for one in _leases(api, NODE_LEASES)}


def leader_leases(api: ApiServer) -> tuple[Lease, ...]:
    """The leases of the controller-manager, scheduler and cloud-controller-manager, of those that exist."""
    return tuple(one for one in _leases(api, SYSTEM_LEASES) if one.name in LEADERS)


def server_leases(api: ApiServer) -> tuple[Lease, ...]:
    """The identity leases of API servers; the one that answers has one too."""
    return tuple(one for one in _leases(api, SYSTEM_LEASES) if one.name.startswith(_IDENTITY))


def stale_leases(api: ApiServer, *, gone_hosts: Collection[str]) -> tuple[Saved, ...]:
    """All leaders' leases, and the identity leases of API servers on hosts that are gone: for `objects.delete_all`.

    To be deleted only while no controller runs: a living leader would lose its lead.
    """
    found = []
    for one in api.list(SYSTEM_LEASES):
        is_old_server = name_of(one).startswith(_IDENTITY) and _hostname(one) in gone_hosts
        if name_of(one) in LEADERS or is_old_server:
            whole = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **one}
            found.append(Saved(path_of(SYSTEM_LEASES, name_of(one)), whole))
    return tuple(found)


def _leases(api: ApiServer, collection: str) -> list[Lease]:
    return [_lease(one, collection) for one in api.list(collection)]


def _lease(source: Object, collection: str) -> Lease:
    renewed = text_at(source, "spec", "renewTime")
    return Lease(
        name=name_of(source),
        path=path_of(collection, name_of(source)),
        holder=text_at(source, "spec", "holderIdentity"),
        hostname=_hostname(source),
        renewed=datetime.fromisoformat(renewed) if renewed else None,
    )


def _hostname(source: Object) -> str:
    return str((at(source, "metadata", "labels") or {}).get(_HOSTNAME, ""))
