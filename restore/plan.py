"""A plan: everything that a restore will do, decided before anything is done. Pure.

A file of JSON with a hash: what was shown to a person is what `apply` does. It holds no secrets. A plan that was
edited is refused; so is one of another version of bbr whose steps differ.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bbr.errors import PlanInvalid
from bbr.repository import document
from bbr.repository.document import Record, boolean, integer, many, text, time

SCHEMA = "bbr.plan/1"
FILE_LIMIT_BYTES = 4 * 1024 * 1024

Kind = Literal["in-place", "fresh", "repair", "etcd-only"]
KINDS: tuple[Kind, ...] = ("in-place", "fresh", "repair", "etcd-only")


@dataclass(frozen=True, slots=True)
class EtcdSource:
    """One etcd of the backup: what its members will be restored to, and what they must then answer."""

    name: str
    revision: int
    compact_revision: int
    hash_kv: int
    server_version: str
    snapshot_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """The backup. ``manifest_sha256`` pins it: what is applied is what was planned.

    ``safety_run``: etcd comes not from it, but from what this earlier restore saved; "" otherwise.
    """

    repository: str
    repository_id: str
    cluster: str
    backup_id: str
    manifest_sha256: str
    taken_at: datetime
    etcd: EtcdSource
    safety_run: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster that comes back. ``endpoint`` is where its clients find it; ``new_endpoint`` "" leaves it."""

    name: str
    ca_sha256: str
    endpoint: str
    new_endpoint: str


@dataclass(frozen=True, slots=True)
class PlannedHost:
    """A machine that gets, keeps or gives a member.

    ``role``: "member" is restored (or joins, in a repair), "witness" is a living master that a repair works through,
    "client" has an API server of an etcd that lies elsewhere: stopped while that is restored, started afterwards.
    ``takes_after``: the host in the backup whose files it gets; "" where the files on its disk stay.
    ``etcd_image``: the image that its manifest names, in which etcd's own programs lie.
    ``ca_file``: what etcd's certificates are checked with, on the host; "" where it is reached without TLS.
    ``cert_file`` and ``key_file``: etcd's own pair there, for where there is none that was made for clients.
    ``layout``: how the host's programs are run.
    ``facts_sha256``: of what was seen there when the plan was made; another one at `apply` is drift.
    """

    name: str
    address: str
    role: str
    node_name: str
    node_address: str
    member_name: str
    peer_url: str
    client_url: str
    data_dir: str
    wal_dir: str
    ca_file: str
    etcd_image: str
    takes_after: str
    facts_sha256: str
    cert_file: str = ""
    key_file: str = ""
    layout: str = "kubeadm"


@dataclass(frozen=True, slots=True)
class OldMaster:
    """A master of the old cluster that is not in the new one.

    ``fate``: "fence" by the adapter, "attested" off, or "replaced": its machine was looked at and is used anew.
    """

    name: str
    node_name: str
    address: str
    peer_url: str
    fate: str


@dataclass(frozen=True, slots=True)
class Choices:
    """What the person decided, beside the target."""

    bump: int
    token: str
    layout: str
    is_stale_removed: bool
    is_webhook_quarantined: bool
    is_safety_wanted: bool
    is_rehearsed: bool
    is_backed_up: bool


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as the plan shows it. ``is_point_of_no_return``: from its beginning on, `undo` is refused."""

    name: str
    title: str
    undo: str
    is_point_of_no_return: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it."""

    schema: str
    run: str
    kind: str
    made_at: datetime
    inventory: str
    inventory_sha256: str
    source: Source
    target: Target
    hosts: tuple[PlannedHost, ...]
    old_masters: tuple[OldMaster, ...]
    choices: Choices
    loses: tuple[str, ...]
    warnings: tuple[str, ...]
    diffs: tuple[str, ...]
    steps: tuple[PlannedStep, ...]
    expect: tuple[str, ...]

    @property
    def members(self) -> tuple[PlannedHost, ...]:
        """The hosts that hold a member in the end, because of this plan."""
        return tuple(host for host in self.hosts if host.role == "member")

    @property
    def witnesses(self) -> tuple[PlannedHost, ...]:
        """The living masters that a repair works through."""
        return tuple(host for host in self.hosts if host.role == "witness")

    @property
    def worked_on(self) -> tuple[PlannedHost, ...]:
        """The hosts that the plan changes: members, and the clients of an etcd that lies elsewhere."""
        return tuple(host for host in self.hosts if host.role != "witness")

    @property
    def first(self) -> PlannedHost:
        """The host on which what is done once is done."""
        return self.hosts[0]

    @property
    def initial_cluster(self) -> str:
        """etcd's flag: every member with its peer URL."""
        return ",".join(f"{host.member_name}={host.peer_url}" for host in self.members)

    @property
    def sha256(self) -> str:
        """Of its canonical form."""
        return hashlib.sha256(document.encode(self)).hexdigest()


_NAME = text(200)
_LINE = text(2000)
_FREE = text(2000, empty=True)
_SHA256 = document.matching("[0-9a-f]{64}")
_HUGE = integer(0, 2**63 - 1)


def _block(value: object) -> str:
    """Several lines: a diff."""
    if not isinstance(value, str) or len(value) > 100_000 or any(ord(c) < 32 and c not in "\n\t" for c in value):
        raise PlanInvalid("a diff holds what no text has")
    return value


_ETCD = Record(
    EtcdSource,
    {
        "name": _NAME,
        "revision": _HUGE,
        "compact_revision": _HUGE,
        "hash_kv": integer(0, 2**32 - 1),
        "server_version": _NAME,
        "snapshot_bytes": _HUGE,
    },
)
_SOURCE = Record(
    Source,
    {
        "repository": _LINE,
        "repository_id": _SHA256,
        "cluster": _NAME,
        "backup_id": _NAME,
        "manifest_sha256": _SHA256,
        "taken_at": time,
        "etcd": _ETCD,
        "safety_run": text(200, empty=True),
    },
)
_TARGET = Record(
    Target,
    {"name": _NAME, "ca_sha256": document.matching("[0-9a-f]{64}|"), "endpoint": _FREE, "new_endpoint": _FREE},
)
_HOST = Record(
    PlannedHost,
    {
        "name": _NAME,
        "address": _LINE,
        "role": document.matching("member|witness|client"),
        "node_name": _NAME,
        "node_address": _NAME,
        "member_name": _FREE,
        "peer_url": _FREE,
        "client_url": _FREE,
        "data_dir": document.matching("/.*|"),
        "wal_dir": document.matching("/.*|"),
        "ca_file": document.matching("/.*|"),
        "etcd_image": _FREE,
        "takes_after": _FREE,
        "facts_sha256": _SHA256,
        "cert_file": document.matching("/.*|"),
        "key_file": document.matching("/.*|"),
        "layout": document.matching("kubeadm|systemd"),
    },
)
_OLD = Record(
    OldMaster,
    {
        "name": _NAME,
        "node_name": _NAME,
        "address": _FREE,
        "peer_url": _FREE,
        "fate": document.matching("fence|attested|replaced"),
    },
)
_CHOICES = Record(
    Choices,
    {
        "bump": _HUGE,
        "token": _NAME,
        "layout": document.matching("kubeadm|systemd|mixed"),
        "is_stale_removed": boolean,
        "is_webhook_quarantined": boolean,
        "is_safety_wanted": boolean,
        "is_rehearsed": boolean,
        "is_backed_up": boolean,
    },
)
_STEP = Record(PlannedStep, {"name": _NAME, "title": _LINE, "undo": _FREE, "is_point_of_no_return": boolean})
_PLAN = Record(
    Plan,
    {
        "schema": document.matching(SCHEMA),
        "run": document.matching("[a-z0-9][a-z0-9-]{4,80}"),
        "kind": document.matching("|".join(KINDS)),
        "made_at": time,
        "inventory": _FREE,
        "inventory_sha256": document.matching("[0-9a-f]{64}|"),
        "source": _SOURCE,
        "target": _TARGET,
        "hosts": many(_HOST, 50),
        "old_masters": many(_OLD, 50),
        "choices": _CHOICES,
        "loses": many(_LINE, 200),
        "warnings": many(_LINE, 200),
        "diffs": many(_block, 500),
        "steps": many(_STEP, 100),
        "expect": many(_LINE, 100),
    },
)


def to_file(plan: Plan) -> bytes:
    """The file's bytes: readable JSON with the hash of its canonical form."""
    body = {"sha256": plan.sha256, "plan": json.loads(document.encode(plan))}
    return f"{json.dumps(body, indent=2, ensure_ascii=False)}\n".encode()


def from_file(data: bytes, *, what: str) -> Plan:
    """Read a plan. Raises `PlanInvalid` for one that is none, or was changed since it was written."""
    try:
        body = json.loads(data)
        canonical = document.canonical(body["plan"])
        plan = document.decode(canonical, _PLAN, error=PlanInvalid, what=what)
        promised = body["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        why = f"it has no {err}" if isinstance(err, KeyError) else str(err)
        raise PlanInvalid(f"{what} is not a plan: {why}", hint="`bbr restore plan` writes one") from err
    if plan.sha256 != promised:
        raise PlanInvalid(
            f"{what} was changed after it was written: its content has another hash",
            hint="a plan is what was checked, so it is not edited: make a new one with `bbr restore plan`",
        )
    return plan
