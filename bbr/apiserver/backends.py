"""Whether a Service that the API server itself must call has anybody behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bbr.apiserver.client import ApiServer, path_of
from bbr.apiserver.objects import at, items_at, text_at
from bbr.errors import NotFoundObject

SERVICES = "/api/v1/services"
_SLICES = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
_SERVICE_NAME = "kubernetes.io/service-name"


class Backends:
    """Answers from one API server, each Service asked for once.

    ``gone`` are nodes that no longer live: what ran there is dead, whatever the restored objects say. An endpoint on
    another node may be dead too: until its kubelet has reported, nobody knows.
    """

    def __init__(self, api: ApiServer, gone: Collection[str]) -> None:
        self._api, self._gone = api, frozenset(gone)
        self._problems: dict[tuple[str, str], str] = {}

    def problem(self, namespace: str, name: str) -> str:
        """Why nobody can answer for the Service; empty where somebody may."""
        key = (namespace, name)
        if key not in self._problems:
            self._problems[key] = self._look(namespace, name)
        return self._problems[key]

    def _look(self, namespace: str, name: str) -> str:
        try:
            service = self._api.get(path_of(SERVICES, name, namespace))
        except NotFoundObject:
            return f"there is no Service {namespace}/{name}"
        if text_at(service, "spec", "type") == "ExternalName":
            return ""
        slices = self._api.list(_SLICES.format(namespace=namespace), labelSelector=f"{_SERVICE_NAME}={name}")
        endpoints = [endpoint for one in slices for endpoint in items_at(one, "endpoints")]
        ready = [endpoint for endpoint in endpoints if at(endpoint, "conditions", "ready") is not False]
        if not ready:
            return f"Service {namespace}/{name} has no endpoint that is ready"
        if all(endpoint.get("nodeName") in self._gone for endpoint in ready):
            return f"all that is behind Service {namespace}/{name} ran on nodes that are gone"
        return ""


def backend_of(config: Mapping[str, Any]) -> tuple[str, tuple[str, str] | None]:
    """Whom a ``clientConfig`` calls: in words, and as (namespace, name) where it is a Service."""
    service = at(config, "service")
    if isinstance(service, Mapping):
        namespace, name = text_at(service, "namespace"), text_at(service, "name")
        return f"Service {namespace}/{name}", (namespace, name)
    return text_at(config, "url"), None


def api_endpoints(api: ApiServer) -> tuple[str, ...]:
    """The addresses that pods are led to by the Service default/kubernetes: one for each API server that lives.

    A stale one goes by itself within a minute (its masterlease ends); until then some connections fail.
    """
    slices = api.list(_SLICES.format(namespace="default"), labelSelector=f"{_SERVICE_NAME}=kubernetes")
    found = {address for one in slices for end in items_at(one, "endpoints") for address in end.get("addresses") or ()}
    return tuple(sorted(found))
