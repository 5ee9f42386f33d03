"""Proofs that a cluster came back whole: every Secret decrypts, all that was counted is there, caches list anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bbr.apiserver.client import ApiServer, Object
from bbr.apiserver.extensions import extensions
from bbr.apiserver.objects import at, items_at, name_of, text_at
from bbr.errors import ApiServerError, Forbidden, Gone, NotReady

SECRETS = "/api/v1/secrets"
_WATCHED = "/api/v1/namespaces"
_GONE = 410
_WATCH_S = 5
_WITHOUT_MEANING = {"events", "componentstatuses", "leases", "endpointslices", "endpoints", "bindings"}
"""They change by themselves from second to second, or are not stored."""


@dataclass(frozen=True, slots=True)
class SecretsRead:
    """How many Secrets the API server could read; ``problem`` names what it could not, and is empty when it could."""

    count: int
    problem: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Objects of each resource (``deployments.apps``), and the parts of the API that could not be asked, with why."""

    objects: Mapping[str, int]
    problems: tuple[str, ...]


def read_secrets(api: ApiServer) -> SecretsRead:
    """Let the API server read, and so decrypt, every Secret. Only their names come here.

    The server's own words name the provider or key that fails. Raises `NotReady` and `Forbidden`.
    """
    count = 0
    try:
        for _ in api.names(SECRETS):
            count += 1
    except (NotReady, Forbidden):
        raise
    except ApiServerError as err:
        return SecretsRead(count, str(err))
    return SecretsRead(count, "")


def secret_names(api: ApiServer) -> tuple[str, ...]:
    """``namespace/name`` of every Secret."""
    return tuple(f"{text_at(one, 'metadata', 'namespace')}/{name_of(one)}" for one in api.names(SECRETS))


def counts(api: ApiServer) -> Counts:
    """How many objects of each resource there are, those left out that change by themselves."""
    found: dict[str, int] = {}
    dead = {one.name: one for one in extensions(api) if not one.is_available}
    problems = [f"{name}: {one.problem or 'it does not answer'}" for name, one in dead.items()]
    for group, version in _groups(api):
        if f"{version}.{group}" in dead:
            continue
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            for plural in _listable(api.get(path)):
                found[f"{plural}.{group}" if group else plural] = count(api, f"{path}/{plural}")
        except ApiServerError as err:  # the rest is worth knowing
            problems.append(f"{version}.{group}: {err}")
    return Counts(found, tuple(problems))


def count(api: ApiServer, collection: str) -> int:
    """How many objects a collection has, by one request for one of them."""
    page = api.page(collection, limit="1")
    return len(items_at(page, "items")) + int(at(page, "metadata", "remainingItemCount") or 0)


def revision(api: ApiServer) -> int:
    """The revision that the API server serves now."""
    return int(text_at(api.page(_WATCHED, limit="1"), "metadata", "resourceVersion"))


def relist_needed(api: ApiServer, resource_version: int) -> bool:
    """Whether a watch from an old revision is told to list anew (410): so no controller goes on from a lost future.

    False is a finding: its caches would hold objects that are gone, without ever knowing (kubernetes#107457).
    """
    try:
        event = api.first_event(_WATCHED, resourceVersion=str(resource_version), timeoutSeconds=str(_WATCH_S))
    except Gone:
        return True
    return event is not None and event.get("type") == "ERROR" and at(event, "object", "code") == _GONE


def _groups(api: ApiServer) -> Iterator[tuple[str, str]]:
    """(group, version) of all that the API server serves, of each group its preferred version."""
    yield "", "v1"
    for group in items_at(api.get("/apis"), "groups"):
        version = text_at(group, "preferredVersion", "version")
        if version:
            yield text_at(group, "name"), version


def _listable(resources: Mapping[str, Any]) -> list[str]:
    def is_meant(one: Object) -> bool:
        name = text_at(one, "name")
        return "/" not in name and name not in _WITHOUT_MEANING and "list" in (one.get("verbs") or ())

    return sorted(text_at(one, "name") for one in items_at(resources, "resources") if is_meant(one))
