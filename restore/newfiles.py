"""The files of a new master, out of the backup's files of an old one. What they are is decided in bbr/layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from bbr.errors import ExternalAuthority
from bbr.layouts.authority import KeyMaker, key_like, throwaway_key
from bbr.layouts.newmaster import NewMaster, make_master
from bbr.layouts.reissue import Csr
from bbr.layouts.renaming import MasterName
from bbr.layouts.signed import Signed
from bbr.repository.hostfiles import HostFile
from restore.oldcluster import OldCluster, OldHost
from restore.plan import Plan, PlannedHost

Given = Mapping[str, Signed]
"""What authorities outside have signed, by machine."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan shows of new masters' files. ``requests``: what an authority outside must sign first, by the machine
    that it is for. ``diffs``: unified diffs, certificates in a line each, and notes."""

    requests: tuple[tuple[str, Csr], ...]
    diffs: tuple[str, ...]


def new_files(plan: Plan, old: OldCluster, host: PlannedHost, given: Given) -> tuple[HostFile, ...]:
    """All files of one new master, secrets among them. Raises `ExternalAuthority` when certificates must be asked for.

    Keys and serial numbers are new at each call; a resume therefore keeps what was put.
    """
    made = _made(plan, old, host, given)
    if made.requests:
        names = ", ".join(str(request.path) for request in made.requests)
        raise ExternalAuthority(f"{host.name}: your own authority must sign {names} first")
    return made.files


def requests_of(plan: Plan, old: OldCluster | None, given: Given) -> tuple[tuple[str, Csr], ...]:
    """What an authority outside must sign before the plan can be applied, by the machine that it is for."""
    return outlook(plan, old, given).requests


def outlook(plan: Plan, old: OldCluster | None, given: Given) -> Outlook:
    """What will be made for every new master, without making its keys: they take a second each, and are not shown."""
    made = [
        (host.name, _made(plan, old, host, given, new_key=throwaway_key))
        for host in _new_hosts(plan, old)
        if old is not None
    ]
    return Outlook(
        tuple((name, request) for name, one in made for request in one.requests),
        tuple(f"{name}: {text}" for name, one in made for text in (*one.diffs, *one.notes)),
    )


def _new_hosts(plan: Plan, old: OldCluster | None) -> list[PlannedHost]:
    return [host for host in plan.members if host.takes_after] if old is not None else []


def _made(plan: Plan, old: OldCluster, host: PlannedHost, given: Given, *, new_key: KeyMaker = key_like) -> NewMaster:
    donor = old.hosts[host.takes_after]
    return make_master(
        tuple(donor.files.values()),
        old=_name(donor),
        new=MasterName(host.node_name, host.node_address),
        others=_successors(plan, old),
        etcd_cluster=[(one.member_name, one.peer_url) for one in plan.hosts],
        endpoint=plan.target.new_endpoint or None,
        now=datetime.now(UTC),
        signed=given.get(host.name),
        new_key=new_key,
    )


def _successors(plan: Plan, old: OldCluster) -> dict[MasterName, MasterName]:
    """Each old master's first successor. One that has none is followed by the first new one: its name must not stay."""
    found: dict[MasterName, MasterName] = {}
    for host in plan.members:
        if host.takes_after:
            found.setdefault(_name(old.hosts[host.takes_after]), MasterName(host.node_name, host.node_address))
    if plan.kind == "fresh":
        first = MasterName(plan.members[0].node_name, plan.members[0].node_address)
        for donor in old.hosts.values():
            found.setdefault(_name(donor), first)
    return found


def _name(donor: OldHost) -> MasterName:
    return MasterName(donor.node_name, donor.address)
