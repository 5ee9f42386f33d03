"""What a plan is made from: what the person decided, and what was gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bbr.errors import BbrError
from bbr.repository.catalog import Backup
from restore.iaas.iaas import Known
from restore.oldcluster import OldCluster
from restore.plan import Kind
from restore.safety import Safety
from restore.survey import Survey


@dataclass(frozen=True, slots=True)
class LiveMember:
    """A member as the living etcd's list has it. ``name`` is "" for one that never started."""

    name: str
    peer_urls: tuple[str, ...]
    is_learner: bool


@dataclass(frozen=True, slots=True)
class Live:
    """What still answers of the cluster that is to be replaced. ``revision`` is 0 where no etcd does.

    ``counts``: live objects by key prefix, for the prefixes that the backup knows; ``others`` lie under none of them.
    ``newest``: keys of objects that were made since the backup, the newest first, as far as they were looked for.
    """

    revision: int = 0
    members: tuple[LiveMember, ...] = ()
    has_leader: bool = False
    is_api_answering: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    others: int = 0
    newest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What the person decided. Names are the inventory's. ``to`` may be empty: then the inventory decides."""

    run: str
    kind: Kind
    target: str
    to: tuple[str, ...]
    lost: tuple[str, ...]
    attested: frozenset[str]
    new_endpoint: str
    is_stale_removed: bool
    is_webhook_quarantined: bool
    is_rehearsed: bool
    is_backed_up: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made of. ``surveys`` are of the machines that could be reached, ``unreachable`` says why not.

    ``lives`` is what answers on each machine, ``live`` all of it together.
    ``highest_revision`` is the highest that any backup of this cluster, or its living etcd, has shown. With ``safety``
    etcd comes from what an earlier restore saved.
    """

    repository: str
    inventory: str
    inventory_sha256: str
    backup: Backup
    etcd: str
    old: OldCluster | None
    known: Mapping[str, Known]
    surveys: Mapping[str, Survey]
    unreachable: Mapping[str, BbrError]
    can_fence: bool
    highest_revision: int
    live: Live
    lives: Mapping[str, Live]
    inventory_counts: Mapping[str, int]
    now: datetime
    safety: Safety | None = None
