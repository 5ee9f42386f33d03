"""Making a plan: out of a backup, what was seen on the machines, and what the person decided. Pure.

Nothing here is done to any machine. What `restore.obstacles` passes, `draft` decides.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlsplit

from bbr.errors import UsageError
from restore.etcd import DEFAULT_BUMP
from restore.facts import Facts, Request
from restore.losses import losses
from restore.oldcluster import KUBEADM, OldHost
from restore.plan import SCHEMA, Choices, EtcdSource, OldMaster, Plan, PlannedHost, Source, Target

PEER_PORT, CLIENT_PORT = 2380, 2379
MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class _Gone:
    """A master of the old cluster whose machine is not in the plan."""

    name: str
    node_name: str
    address: str
    peer_url: str


def new_run_name(target: str, now: datetime) -> str:
    """A name for a run that no other has: it becomes part of folders, marks and container names."""
    plain = re.sub(r"[^a-z0-9]+", "-", target.lower()).strip("-")[:30] or "cluster"
    return f"{plain}-{now:%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"


def choose_hosts(request: Request, facts: Facts) -> tuple[str, ...]:
    """The machines that get a member, in the inventory's order. Raises `UsageError`."""
    # A lost one may be in no inventory any more: that the backup or the living etcd knows it is enough.
    heard_of = {one.name for one in facts.live.members}
    for old in facts.old.hosts.values() if facts.old is not None else ():
        heard_of |= {old.name, old.node_name}
    strangers = [name for name in request.to if name not in facts.known]
    strangers += [name for name in request.lost if name not in facts.known and name not in heard_of]
    if strangers:
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
    was_there = facts.old is not None and one.node_name in {host.node_name for host in facts.old.hosts.values()}
    if request.kind in ("in-place", "etcd-only"):
        return has_etcd or ((was_there or one.role in ("master", "etcd")) and name in facts.unreachable)
    # A kubelet that runs where nobody said "master" may be a worker's, with pods on it: only by name (--to).
    is_taken = one.role != "master" and name in facts.surveys and "kubelet" in facts.surveys[name].running
    return not has_etcd and not was_there and not is_taken


def draft(request: Request, facts: Facts) -> Plan:
    """A plan without its steps; `obstacles` and `out_of_reach` have found nothing."""
    targets = choose_hosts(request, facts)
    hosts = planned_hosts(request, facts, targets)
    old_masters, _ = old_masters_of(request, facts, hosts)
    layouts = sorted({host.layout for host in hosts})
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
            layout=layouts[0] if len(layouts) == 1 else MIXED,
            is_stale_removed=request.is_stale_removed,
            is_webhook_quarantined=request.is_webhook_quarantined,
            is_safety_wanted=request.kind in ("in-place", "etcd-only"),
            is_rehearsed=request.is_rehearsed,
            is_backed_up=request.is_backed_up,
        ),
        loses=tuple(losses(request, facts, source)),
        warnings=(),
        diffs=(),
        steps=(),
        expect=tuple(_expect(request, source, bump, hosts)),
    )


def planned_hosts(request: Request, facts: Facts, targets: Sequence[str]) -> tuple[PlannedHost, ...]:
    """Every machine of a plan, and what it is there."""
    if request.kind in ("in-place", "etcd-only"):
        standing = tuple(_standing_host(name, facts) for name in targets)
        return (*standing, *_clients(standing, facts)) if request.kind == "etcd-only" else standing
    donors = _donors(facts, request)
    members = tuple(_new_host(name, donors[number % len(donors)], facts) for number, name in enumerate(targets))
    if request.kind == "fresh":
        return members
    witnesses = tuple(
        _standing_host(name, facts, role="witness")
        for name, one in facts.known.items()
        if name in facts.surveys and facts.surveys[name].etcd and name not in targets and name not in request.lost
    )
    return (*members, *witnesses)


def _clients(members: Sequence[PlannedHost], facts: Facts) -> Iterator[PlannedHost]:
    """The masters whose API servers keep their objects in these members, which run elsewhere."""
    ours = {urlsplit(url).netloc for host in members for url in host.client_url.split(",") if url}
    taken = {host.name for host in members}
    for name, seen in facts.surveys.items():
        api_server = seen.programs.get("kube-apiserver")
        servers = api_server.flags.get("etcd-servers", "").split(",") if api_server else []
        if name not in taken and ours & {urlsplit(url).netloc for url in servers if url}:
            yield _standing_host(name, facts, role="client")


def _donors(facts: Facts, request: Request) -> list[OldHost]:
    """The masters of the backup whose files are taken, the lost ones first in a repair."""
    if facts.old is None:
        raise RuntimeError("`obstacles` refuses new machines without a backup of files")
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
        etcd_image=etcd.image if etcd and seen.layout == KUBEADM else "",
        takes_after="",
        facts_sha256=seen.fingerprint,
        cert_file=str((etcd.file("cert-file") if etcd else None) or ""),
        key_file=str((etcd.file("key-file") if etcd else None) or ""),
        layout=seen.layout or KUBEADM,
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


def old_masters_of(
    request: Request, facts: Facts, hosts: Sequence[PlannedHost]
) -> tuple[tuple[OldMaster, ...], tuple[str, ...]]:
    """Every old master that has no place in the plan, and what is open: those that are neither fenced nor attested."""
    found, unproven, renewed = [], [], []
    by_node = {one.node_name: name for name, one in facts.known.items()}
    for old in _gone(request, facts, hosts):
        name = by_node.get(old.node_name, old.name)
        called = {name, old.name, old.node_name}
        same = next((host for host in hosts if {host.name, host.node_name} & called), None)
        if same is not None and same.node_address == old.address:
            fate = "replaced"
        elif called & request.attested:
            fate = "attested"
        elif same is not None:
            renewed.append(name)
            continue
        elif facts.can_fence and name in facts.known:
            fate = "fence"
        else:
            unproven.append(name)
            continue
        found.append(OldMaster(name, old.node_name, old.address, old.peer_url, fate))
    return tuple(found), tuple(_unfenced(unproven, renewed))


def _unfenced(unproven: Sequence[str], renewed: Sequence[str]) -> Iterator[str]:
    if unproven:
        yield (
            f"old masters that may come back with old data: {', '.join(unproven)}; switch each of them off and say so: "
            + " ".join(f"--attest {name}" for name in unproven)
            + "; or use an inventory whose adapter can fence"
        )
    if renewed:
        yield (
            f"{', '.join(renewed)} comes back under its own name at another address, so the old machine cannot be "
            "fenced by that name; switch it off and say so: " + " ".join(f"--attest {name}" for name in renewed)
        )


def _gone(request: Request, facts: Facts, hosts: Sequence[PlannedHost]) -> Iterator[_Gone]:
    """The masters that had a place in the old cluster, and whose old machine has none in the plan."""
    standing = {name for host in hosts if not host.takes_after for name in (host.name, host.node_name)}
    new = {host.node_name: host.node_address for host in hosts if host.takes_after}
    by_node = {one.node_name: name for name, one in facts.known.items()}
    seen: set[str] = set()
    for old in facts.old.hosts.values() if facts.old is not None else ():
        called = {old.name, old.node_name, by_node.get(old.node_name, old.name)}
        seen |= called
        is_lost = bool(called & set(request.lost))
        if called & standing or (request.kind == "repair" and not is_lost):
            continue
        if request.kind != "repair" and new.get(old.node_name) == old.address:
            continue  # its machine is one of the new ones, and was looked at: it serves nothing
        yield _Gone(old.name, old.node_name, old.address, _living_url(old, facts))
    for member in facts.live.members:
        # One that joined since the backup: only the living etcd knows of it.
        if member.name in request.lost and member.name not in seen:
            address = urlsplit(member.peer_urls[0]).hostname if member.peer_urls else ""
            yield _Gone(member.name, member.name, address or "", ",".join(member.peer_urls))
    for name, one in facts.surveys.items():
        is_of_it = facts.old is not None and one.ca_sha256 == facts.old.ca_sha256 and "etcd" in one.running
        if request.kind == "fresh" and is_of_it and not {name, facts.known[name].node_name} & (seen | set(new)):
            url = one.etcd.flags.get("initial-advertise-peer-urls", "") if one.etcd else ""
            yield _Gone(name, facts.known[name].node_name, facts.known[name].node_address, url)


def _living_url(old: OldHost, facts: Facts) -> str:
    """Where its member is by now, as the living etcd has it; else as the backup has it."""
    member = next((one for one in facts.live.members if one.name == old.member_name), None)
    return ",".join(member.peer_urls) if member is not None else old.peer_url


def _source(facts: Facts) -> Source:
    manifest = facts.backup.manifest
    entry = manifest.etcd(facts.etcd)
    source = Source(
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
    safety = facts.safety
    if safety is None:
        return source
    return replace(source, taken_at=safety.taken_at, etcd=safety.etcd, safety_run=safety.plan.run)


def _expect(request: Request, source: Source, bump: int, hosts: Sequence[PlannedHost]) -> list[str]:
    members = sum(host.role == "member" for host in hosts)
    if request.kind == "repair":
        return [f"{members} new member holding what the others hold, and voting"]
    seconds = 30 + 10 * members + source.etcd.snapshot_bytes * members / 50e6
    return [
        f"every member at revision {source.etcd.revision + bump:,} with the HashKV that was computed from the archive",
        "clients that watched are told to list anew (410), once",
        f"about {seconds:,.0f} s until the API server is ready",
        (
            "bootstrap tokens and uploaded certificates of the backup's time have expired: before more nodes join, "
            "`kubeadm token create --print-join-command`, for masters `kubeadm init phase upload-certs --upload-certs`"
        ),
    ]
