"""Nodes: which there are, masters that are gone, and masters that come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bbr.apiserver.client import ApiServer, Object, path_of
from bbr.apiserver.objects import Saved, at, items_at, name_of, read_all, text_at
from bbr.errors import Conflict, NotFoundObject

NODES = "/api/v1/nodes"
NODE_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_ROLE = "node-role.kubernetes.io/"
_TAINT: Object = {"key": CONTROL_PLANE, "effect": "NoSchedule"}
_EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Node:
    """A Node. ``is_ready`` is what was last reported: after a restore it is old until the lease is renewed."""

    name: str
    addresses: tuple[str, ...]
    is_ready: bool
    roles: tuple[str, ...]
    provider_id: str
    pod_cidrs: tuple[str, ...]
    kubelet_version: str
    uid: str

    @property
    def is_master(self) -> bool:
        """Whether it carries the label of the control plane."""
        return "control-plane" in self.roles


def nodes(api: ApiServer) -> tuple[Node, ...]:
    """All Nodes, by name."""
    return tuple(sorted((_node(one) for one in api.list(NODES)), key=lambda node: node.name))


def stale_nodes(api: ApiServer, gone: Collection[str]) -> tuple[Saved, ...]:
    """These Nodes and their leases, those that exist: to be kept, then given to `objects.delete_all`.

    Never name a Node whose kubelet lives: its pods are deleted with it.
    """
    paths = [path_of(kind, name) for name in sorted(set(gone)) for kind in (NODE_LEASES, NODES)]
    return read_all(api, paths)


def ensure_master(api: ApiServer, name: str, *, provider_id: str = "") -> Node:
    """A Node with the label and taint of the control plane: made beforehand, or put on the one that is there.

    So no pod lands on a master between its kubelet's first report and the day somebody remembers. Idempotent.

    A new one gets the capacity of another Node, a master's if there is one, until its kubelet reports: a kubelet that
    is started when the API server knows its Node without any refuses etcd and API server there, for good ("Pod
    admission denied": pkg/kubelet/lifecycle/predicate.go takes the Node's allocatable from the API server).
    """
    path = path_of(NODES, name)
    for left in reversed(range(_TRIES)):
        try:
            node = api.get(path)
        except NotFoundObject:
            status = _capacity(api)
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}, "status": status}
        wanted = _as_master(node, provider_id)
        try:
            if wanted == node:
                return _node(node)
            if text_at(node, "metadata", "uid"):
                return _node(api.replace(path, wanted))
            return _node(api.create(NODES, wanted))
        except Conflict:  # its kubelet, or a controller, wrote to it meanwhile
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _capacity(api: ApiServer) -> Object:
    """The capacity of a master, else of any Node, as a status; empty when no Node has one."""
    able = [one for one in api.list(NODES) if at(one, "status", "allocatable")]
    able.sort(key=lambda one: (not _node(one).is_master, name_of(one)))
    return {field: able[0]["status"].get(field) for field in ("capacity", "allocatable")} if able else {}


def _as_master(node: Object, provider_id: str) -> Object:
    metadata, spec = dict(node.get("metadata") or {}), dict(node.get("spec") or {})
    metadata["labels"] = {**(metadata.get("labels") or {}), CONTROL_PLANE: "", _EXCLUDE: ""}
    taints = list(items_at(node, "spec", "taints"))
    if not any(one.get("key") == CONTROL_PLANE and one.get("effect") == _TAINT["effect"] for one in taints):
        spec["taints"] = [*taints, _TAINT]
    if provider_id and not spec.get("providerID"):
        spec["providerID"] = provider_id
    return {**node, "metadata": metadata, "spec": spec}


def _node(source: Object) -> Node:
    labels = at(source, "metadata", "labels") or {}
    conditions = items_at(source, "status", "conditions")
    return Node(
        name=name_of(source),
        addresses=tuple(text_at(one, "address") for one in items_at(source, "status", "addresses")),
        is_ready=any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions),
        roles=tuple(sorted(label.removeprefix(_ROLE) for label in labels if label.startswith(_ROLE))),
        provider_id=text_at(source, "spec", "providerID"),
        pod_cidrs=tuple(at(source, "spec", "podCIDRs") or ()),
        kubelet_version=text_at(source, "status", "nodeInfo", "kubeletVersion"),
        uid=text_at(source, "metadata", "uid"),
    )
