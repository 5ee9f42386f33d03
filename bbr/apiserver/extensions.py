"""What else the API server calls: conversion webhooks of custom resources, and API servers behind it (APIServices).

A dead one keeps its own resources from being read, and namespaces from being deleted, but not the API server from
being ready. So they are reported, and taken away only on request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bbr.apiserver.backends import Backends, backend_of
from bbr.apiserver.client import ApiServer, path_of
from bbr.apiserver.objects import Saved, at, items_at, name_of, text_at

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


@dataclass(frozen=True, slots=True)
class Conversion:
    """A custom resource whose versions are converted by a webhook. ``problem`` is empty where that may live.

    ``stored`` are versions that objects may be stored in: with only one, and that one served, no object need be
    converted for who asks for it.
    """

    crd: str
    path: str
    backend: str
    stored: tuple[str, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class Extension:
    """A part of the API that another server serves. ``is_available`` is what the aggregator last found."""

    name: str
    path: str
    backend: str
    is_available: bool
    problem: str


def conversions(api: ApiServer, *, gone: Collection[str] = ()) -> tuple[Conversion, ...]:
    """All custom resources that a webhook converts."""
    backends, found = Backends(api, gone), []
    for crd in api.list(CRDS):
        if text_at(crd, "spec", "conversion", "strategy") != "Webhook":
            continue
        backend, service = backend_of(at(crd, "spec", "conversion", "webhook", "clientConfig") or {})
        one = Conversion(
            crd=name_of(crd),
            path=path_of(CRDS, name_of(crd)),
            backend=backend,
            stored=tuple(at(crd, "status", "storedVersions") or ()),
            problem=backends.problem(*service) if service else "",
        )
        found.append(one)
    return tuple(found)


def suspend_conversion(api: ApiServer, saved: Saved) -> None:
    """Let a custom resource be served without conversion. ``saved`` is the CRD, read and kept before.

    NOT safe in general: an object stored in one version is then served as another with only its apiVersion changed,
    and a controller that writes it back loses what the versions have not in common. Only while no controller runs.
    Raises `Conflict` when the CRD has changed since it was read.
    """
    _set_conversion(api, saved.path, {"strategy": "None", "webhook": None}, text_at(saved.object, "metadata", "uid"))


def resume_conversion(api: ApiServer, saved: Saved) -> None:
    """Let the webhook of the saved CRD convert again. Idempotent."""
    conversion = at(saved.object, "spec", "conversion") or {}
    _set_conversion(api, saved.path, conversion, text_at(saved.object, "metadata", "uid"))


def extensions(api: ApiServer, *, gone: Collection[str] = ()) -> tuple[Extension, ...]:
    """All APIServices that another server serves; the API server's own are left out.

    Their objects are not in this etcd, and the APIService itself may be taken away and put back like a webhook.
    """
    backends, found = Backends(api, gone), []
    for one in api.list(API_SERVICES):
        backend, service = backend_of(one.get("spec") or {})
        if service is None:
            continue
        conditions = items_at(one, "status", "conditions")
        found.append(
            Extension(
                name=name_of(one),
                path=path_of(API_SERVICES, name_of(one)),
                backend=backend,
                is_available=any(has.get("type") == "Available" and has.get("status") == "True" for has in conditions),
                problem=backends.problem(*service),
            )
        )
    return tuple(found)


def _set_conversion(api: ApiServer, path: str, conversion: dict[str, object], uid: str) -> None:
    api.patch(path, {"metadata": {"uid": uid}, "spec": {"conversion": conversion}})
