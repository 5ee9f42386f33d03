"""All that may keep a restored cluster from coming up, in one look, before anybody else can reach its API server."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bbr.apiserver.client import ApiServer
from bbr.apiserver.extensions import Conversion, Extension, conversions, extensions
from bbr.apiserver.leases import Lease, leader_leases
from bbr.apiserver.nodes import Node, nodes
from bbr.apiserver.volumes import Attachment, attachments
from bbr.apiserver.webhooks import Webhook, webhooks


@dataclass(frozen=True, slots=True)
class Triage:
    """What was found. Nothing was changed."""

    nodes: tuple[Node, ...]
    leaders: tuple[Lease, ...]
    webhooks: tuple[Webhook, ...]
    conversions: tuple[Conversion, ...]
    extensions: tuple[Extension, ...]
    attachments: tuple[Attachment, ...]

    @property
    def blocking(self) -> tuple[Webhook, ...]:
        """Webhooks that must be in quarantine before admission is switched on."""
        return tuple(one for one in self.webhooks if one.would_block)

    def warnings(self) -> tuple[str, ...]:
        """What a person should know of, in sentences; none of it keeps the API server from being ready."""
        return (
            *(
                f"webhook {one.configuration}/{one.name} is skipped: {one.problem}"
                for one in self.webhooks
                if one.problem and not one.would_block
            ),
            *(
                f"webhook {one.configuration}/{one.name} is asked at {one.backend}; nobody knows whether it lives"
                for one in self.webhooks
                if one.backend.startswith("https:") and one.failure_policy == "Fail"
            ),
            *(
                f"objects of {one.crd} cannot be converted, nor read in other versions than they are stored in: "
                f"{one.problem}"
                for one in self.conversions
                if one.problem
            ),
            *(
                f"{one.name} is not served, and no namespace can be deleted until it is: {one.problem}"
                for one in self.extensions
                if one.problem
            ),
        )


def triage(api: ApiServer, *, gone: Collection[str] = ()) -> Triage:
    """Look at everything. ``gone`` are the names of nodes that do not live: what ran there is dead."""
    return Triage(
        nodes=nodes(api),
        leaders=leader_leases(api),
        webhooks=webhooks(api, gone=gone),
        conversions=conversions(api, gone=gone),
        extensions=extensions(api, gone=gone),
        attachments=attachments(api),
    )
