"""Admission webhooks: those with a dead backend that must not fail keep the API server from ever being ready.

Source: kubernetes#56761. Found while the recovery API server runs without webhook admission.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bbr.apiserver.backends import Backends, backend_of
from bbr.apiserver.client import ApiServer
from bbr.apiserver.objects import Saved, items_at, name_of, read_all, text_at

_GROUP = "/apis/admissionregistration.k8s.io/v1"
KINDS = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook of a configuration. ``path`` is the configuration's; ``problem`` is empty where it may live.

    A backend given by a URL is not asked: it may be anywhere.
    """

    configuration: str
    name: str
    path: str
    backend: str
    failure_policy: str
    problem: str

    @property
    def would_block(self) -> bool:
        """Whether it refuses whatever it should have been asked about."""
        return bool(self.problem) and self.failure_policy != "Ignore"


def webhooks(api: ApiServer, *, gone: Collection[str] = ()) -> tuple[Webhook, ...]:
    """All webhooks. ``gone`` are the names of nodes that do not live."""
    backends, found = Backends(api, gone), []
    for kind in KINDS:
        for configuration in api.list(f"{_GROUP}/{kind}"):
            for hook in items_at(configuration, "webhooks"):
                backend, service = backend_of(hook.get("clientConfig") or {})
                one = Webhook(
                    configuration=name_of(configuration),
                    name=text_at(hook, "name"),
                    path=f"{_GROUP}/{kind}/{name_of(configuration)}",
                    backend=backend,
                    failure_policy=text_at(hook, "failurePolicy") or "Fail",
                    problem=backends.problem(*service) if service else "",
                )
                found.append(one)
    return tuple(found)


def to_quarantine(api: ApiServer, found: Iterable[Webhook]) -> tuple[Saved, ...]:
    """The configurations of those webhooks that would block, whole: to be kept, then given to `objects.delete_all`.

    `objects.put_back` creates them again once what is behind them lives.
    """
    return read_all(api, sorted({one.path for one in found if one.would_block}))
