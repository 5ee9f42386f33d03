"""Making a plan: out of a backup, what was seen on the machines, and what the person decided. Pure.

Nothing here is done to any machine. What cannot be decided is refused, with everything that stands in the way at once.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bbr.errors import PreconditionFailed, UsageError
from bbr.repository.catalog import Backup
from restore.etcd import DEFAULT_BUMP
from restore.iaas.iaas import Known
from restore.oldcluster import OldCluster, OldHost
from restore.plan import SCHEMA, Choices, EtcdSource, Kind, OldMaster, Plan, PlannedHost, Source, Target
from restore.survey import Survey

PEER_PORT, CLIENT_PORT = 2380, 2379
ETCD_CA_FILE = "/etc/kubernetes/pki/etcd/ca.crt"


@dataclass(frozen=True, slots=True)
class Live:
    """What still answers of the cluster that is to be replaced. ``revision`` is 0 where no etcd does."""

    revision: int = 0
    members: tuple[str, ...] = ()
    is_api_answering: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


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
    layout: str = "kubeadm"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made of. ``surveys`` are of the machines that could be reached, ``unreachable`` says why not.

    ``highest_revision`` is the highest that any backup of this cluster, or its living etcd, has shown.
    """

    repository: str
    inventory: str
    inventory_sha256: str
    backup: Backup
    etcd: str
    old: OldCluster | None
    known: Mapping[str, Known]
    surveys: Mapping[str, Survey]
    unreachable: Mapping[str, str]
    can_fence: bool
    highest_revision: int
    live: Live
    inventory_counts: Mapping[str, int]
    now: datetime


def new_run_name(target: str, now: datetime) -> str:
    """A name for a run that no other has: it becomes part of folders, marks and container names."""
    plain = re.sub(r"[^a-z0-9]+", "-", target.lower()).strip("-")[:30] or "cluster"
    return f"{plain}-{now:%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"


def choose_hosts(request: Request, facts: Facts) -> tuple[str, ...]:
    """The machines that get a member, in the inventory's order. Raises `UsageError`."""
    strangers = [name for name in (*request.to, *request.lost) if name not in facts.known]
    if strangers and (request.to or request.kind != "repair"):
        raise UsageError(
            f"the inventory has no machine {', '.join(strangers)}", hint=f"it has: {', '.join(facts.known) or 'none'}"
        )
    chosen = request.to or tuple(name for name in facts.known if _is_meant(name, request, facts))
    if not chosen:
        raise UsageError(
            f"the inventory has no machine for this {request.kind} restore",
            hint="name the machines: --to NAME, for each",
        )
    return chosen


def _is_meant(name: str, request: Request, facts: Facts) -> bool:
    """Whether a machine is meant where none is named. An inventory may not know roles; then what runs there tells."""
    one = facts.known[name]
    if name in request.lost or one.role == "worker":
        return False
    has_etcd = name in facts.surveys and facts.surveys[name].etcd is not None
    if request.kind in ("in-place", "etcd-only"):
        return has_etcd or (one.role == "master" and name in facts.unreachable)
    was_there = facts.old is not None and one.node_name in {host.node_name for host in facts.old.hosts.values()}
    return not has_etcd and not was_there


def draft(request: Request, facts: Facts) -> Plan:
    """A plan without its steps. Raises `PreconditionFailed` for what is open: machines that answer nothing, say."""
    targets = choose_hosts(request, facts)
    missing = [f"{name}: {facts.unreachable[name]}" for name in targets if name in facts.unreachable]
    if missing:
        raise PreconditionFailed("; ".join(missing), hint="repair the way to it, or leave it out: --to, --lost")
    hosts = _hosts(request, facts, targets)
    old_masters = _old_masters(request, facts, hosts)
    source = _source(facts)
    run = request.run
    bump = max(facts.highest_revision - source.etcd.revision, 0) + DEFAULT_BUMP
    return Plan(
        schema=SCHEMA,
        run=run,
        kind=request.kind,
        made_at=facts.now,
        inventory=facts.inventory,
        inventory_sha256=facts.inventory_sha256,
        source=source,
        target=Target(
            name=request.target,
            ca_sha256=facts.old.ca_sha256 if facts.old else "",
            endpoint=facts.old.endpoint if facts.old else "",
            new_endpoint=request.new_endpoint,
        ),
        hosts=hosts,
        old_masters=old_masters,
        choices=Choices(
            bump=bump,
            token=f"bbr-{run}",
            layout=request.layout,
            is_stale_removed=request.is_stale_removed,
            is_webhook_quarantined=request.is_webhook_quarantined,
            is_safety_wanted=request.kind in ("in-place", "etcd-only"),
            is_rehearsed=request.is_rehearsed,
            is_backed_up=request.is_backed_up,
        ),
        loses=tuple(_loses(request, facts, source)),
        warnings=(),
        diffs=(),
        steps=(),
        expect=tuple(_expect(request, source, bump, hosts)),
    )


def _hosts(request: Request, facts: Facts, targets: Sequence[str]) -> tuple[PlannedHost, ...]:
    if request.kind in ("in-place", "etcd-only"):
        return tuple(_standing_host(name, facts) for name in targets)
    donors = _donors(facts, request)
    members = tuple(_new_host(name, donors[number % len(donors)], facts) for number, name in enumerate(targets))
    if request.kind == "fresh":
        return members
    witnesses = tuple(
        _standing_host(name, facts, role="witness")
        for name, one in facts.known.items()
        if name in facts.surveys and facts.surveys[name].etcd and name not in targets and name not in request.lost
    )
    if not witnesses:
        raise PreconditionFailed(
            "no living master can be reached, and a repair works through one", hint="for a lost cluster: --kind fresh"
        )
    return (*members, *witnesses)


def _donors(facts: Facts, request: Request) -> list[OldHost]:
    """The masters of the backup whose files are taken, the lost ones first in a repair."""
    if facts.old is None:
        raise PreconditionFailed(
            "the backup holds no control-plane files, which new machines need",
            hint="choose one that does (`bbr show`), or restore etcd only",
        )
    hosts = list(facts.old.hosts.values())
    lost = [host for host in hosts if host.name in request.lost or host.node_name in request.lost]
    return lost if request.kind == "repair" and lost else hosts


def _standing_host(name: str, facts: Facts, *, role: str = "member") -> PlannedHost:
    seen, known = facts.surveys[name], facts.known[name]
    etcd = seen.etcd
    flags = etcd.flags if etcd else {}
    ca_file = etcd.file("trusted-ca-file") if etcd and flags.get("cert-file") else None
    return PlannedHost(
        name=name,
        address=known.address,
        role=role,
        node_name=known.node_name,
        node_address=known.node_address,
        member_name=flags.get("name", known.node_name),
        peer_url=flags.get("initial-advertise-peer-urls", ""),
        client_url=flags.get("advertise-client-urls", ""),
        data_dir=str(seen.data_dir),
        wal_dir=str(seen.wal_dir or ""),
        ca_file=str(ca_file or ""),
        etcd_image=etcd.image if etcd else "",
        takes_after="",
        facts_sha256=seen.fingerprint,
    )


def _new_host(name: str, donor: OldHost, facts: Facts) -> PlannedHost:
    known = facts.known[name]
    address = f"[{known.node_address}]" if ":" in known.node_address else known.node_address
    scheme = donor.peer_url.partition("://")[0] or "https"
    return PlannedHost(
        name=name,
        address=known.address,
        role="member",
        node_name=known.node_name,
        node_address=known.node_address,
        member_name=known.node_name,
        peer_url=f"{scheme}://{address}:{PEER_PORT}",
        client_url=f"{scheme}://{address}:{CLIENT_PORT}",
        data_dir=donor.data_dir,
        wal_dir=donor.wal_dir,
        ca_file=donor.etcd_ca_file,
        etcd_image=donor.programs["etcd"].image if "etcd" in donor.programs else "",
        takes_after=donor.name,
        facts_sha256=facts.surveys[name].fingerprint,
    )


def _old_masters(request: Request, facts: Facts, hosts: Sequence[PlannedHost]) -> tuple[OldMaster, ...]:
    """Every master of the backup that has no place in the plan: fenced, attested, or the plan is not made."""
    if facts.old is None:
        return ()
    staying = {host.node_name for host in hosts} | {host.name for host in hosts}
    by_node = {one.node_name: name for name, one in facts.known.items()}
    found, open_ones = [], []
    for old in facts.old.hosts.values():
        if old.node_name in staying or old.name in staying:
            continue
        name = by_node.get(old.node_name, old.name)
        called = {name, old.name, old.node_name}
        if request.kind == "repair" and not called & set(request.lost):
            continue
        if called & request.attested:
            fate = "attested"
        elif facts.can_fence and name in facts.known:
            fate = "fence"
        else:
            open_ones.append(name)
            continue
        found.append(OldMaster(name, old.node_name, old.address, old.peer_url, fate))
    if open_ones:
        raise PreconditionFailed(
            f"old masters that may come back with old data: {', '.join(open_ones)}",
            hint="switch each of them off and say so: "
            + " ".join(f"--attest {name}" for name in open_ones)
            + "; or use an inventory whose adapter can fence",
        )
    return tuple(found)


def _source(facts: Facts) -> Source:
    manifest = facts.backup.manifest
    entry = manifest.etcd(facts.etcd)
    return Source(
        repository=facts.repository,
        repository_id=manifest.repository_id,
        cluster=manifest.cluster,
        backup_id=manifest.backup_id,
        manifest_sha256=facts.backup.sha256,
        taken_at=manifest.time,
        etcd=EtcdSource(
            entry.name,
            entry.revision,
            entry.compact_revision,
            entry.hash_kv,
            entry.server_version,
            entry.snapshot_bytes,
        ),
    )


def _loses(request: Request, facts: Facts, source: Source) -> list[str]:
    if request.kind == "repair":
        return ["nothing: the living members have all data; the lost one gets a copy of theirs"]
    age_s = max((facts.now - source.taken_at).total_seconds(), 0)
    hours, minutes = int(age_s // 3600), int(age_s % 3600 // 60)
    since = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    losses = [f"everything written since {source.taken_at:%Y-%m-%d %H:%M:%SZ}, {since} ago"]
    if facts.live.revision > source.etcd.revision:
        losses.append(
            f"that is {facts.live.revision - source.etcd.revision:,} revisions of the etcd that still answers"
        )
    for prefix in sorted({*facts.live.counts, *facts.inventory_counts}):
        before, now = facts.inventory_counts.get(prefix, 0), facts.live.counts.get(prefix, 0)
        if facts.live.counts and before != now:
            losses.append(f"{prefix}: {now:,} now, {before:,} in the backup")
    losses.append(
        "Nodes, pod networks, service addresses and volumes handed out since are unknown afterwards: what exists "
        "outside (disks, load balancers) stays, and nobody in the cluster knows of it"
    )
    return losses


def _expect(request: Request, source: Source, bump: int, hosts: Sequence[PlannedHost]) -> list[str]:
    members = sum(host.role == "member" for host in hosts)
    if request.kind == "repair":
        return [f"{members} new member holding what the others hold, and voting"]
    seconds = 30 + 10 * members + source.etcd.snapshot_bytes * members / 50e6
    return [
        f"every member at revision {source.etcd.revision + bump:,} with the HashKV that was computed from the archive",
        "clients that watched are told to list anew (410), once",
        f"about {seconds:,.0f} s until the API server is ready",
    ]
