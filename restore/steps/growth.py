"""One master lost and replaced while the others serve: the dead member out, the new one in, first without a vote.

The living members keep serving all the while. A learner counts for no majority, so one that fails hurts nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from bbr.apiserver.nodes import nodes, stale_nodes
from bbr.apiserver.objects import delete_all
from bbr.errors import BbrError, EtcdError, PreconditionFailed
from bbr.etcd.answers import Member
from bbr.etcd.client import EtcdClient
from bbr.etcd.membership import add_learner, promote, remove_member
from bbr.layouts.processes import find_processes
from bbr.layouts.staticpod import parse_pod
from bbr.progress import Progress, Silent
from restore import member
from restore.plan import PlannedHost
from restore.site import Site
from restore.step import Observation, blocked, done, todo
from restore.steps.files import staged_manifests
from restore.steps.members import spec
from restore.steps.programs import API_SERVER, CONTROLLERS, ETCD
from restore.wait import wait_for

JOIN_TIME = timedelta(minutes=3)
SYNC_TIME = timedelta(minutes=30)
"""A learner gets the whole database over the network first."""

HASH_TIME = timedelta(minutes=2)

_INITIAL = re.compile(r"--initial-cluster=[^\s\"']*")
_STATE = re.compile(r"--initial-cluster-state=\w+")
_LINE = re.compile(r"""^(\s*- )(["']?)--initial-cluster=.*$""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RemoveLostMembers:
    """The lost member's id goes for ever: it can never come back with its old data and be believed."""

    site: Site
    name: ClassVar[str] = "remove-members"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = "add-learners"  # from then on a member at the lost one's address is the new one

    @property
    def title(self) -> str:
        """Who."""
        return f"remove the lost etcd members of {', '.join(old.name for old in self.site.plan.old_masters)}"

    def observe(self) -> Observation:
        """Gone from the member list; blocked while the others have no majority."""
        with _witness(self.site) as client:
            lost = self._lost(client)
            if not lost:
                return done("they are no members any more")
            voters = [one for one in client.members() if not one.is_learner]
        alive = sum(_serves(self.site, host) for host in self.site.plan.witnesses)
        if alive <= len(voters) // 2:
            return blocked(
                f"{alive} of {len(voters)} members serve, which is no majority: plan a restore instead of a repair"
            )
        return todo(f"still members: {', '.join(one.name or hex(one.id) for one in lost)}")

    def act(self, progress: Progress) -> None:
        """One by one."""
        with _witness(self.site) as client:
            for one in self._lost(client):
                progress.step(f"removing member {one.name or hex(one.id)}")
                remove_member(client, one.id)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one is still there."""
        if self.observe().state != "done":
            raise PreconditionFailed("a lost member is still in etcd's member list")

    def undo(self) -> None:
        """There is none."""

    def _lost(self, client: EtcdClient) -> list[Member]:
        urls = {url for old in self.site.plan.old_masters for url in old.peer_url.split(",") if url}
        # A new machine may have the lost one's address: it is told by having been added by this run, as a learner.
        return [one for one in client.members() if urls & set(one.peer_urls) and not one.is_learner]


@dataclass(frozen=True, slots=True)
class AddLearners:
    """The new members are known, and have no vote yet."""

    site: Site
    name: ClassVar[str] = "add-learners"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Who."""
        return f"add {', '.join(host.member_name for host in self.site.plan.members)} to etcd, without a vote"

    def observe(self) -> Observation:
        """In the member list."""
        with _witness(self.site) as client:
            lacking = [host.name for host in self.site.plan.members if _member_of(client, host) is None]
        return todo(f"not members: {', '.join(lacking)}") if lacking else done("they are members")

    def act(self, progress: Progress) -> None:
        """etcd takes none while a member is young. A plan has one new machine: etcd holds one learner at a time."""
        with _witness(self.site) as client:
            for host in self.site.plan.members:
                if _member_of(client, host) is None:
                    wait_for(
                        lambda host=host: _added(client, host),  # type: ignore[misc]
                        what=f"etcd to take {host.member_name} as a learner",
                        limit=JOIN_TIME,
                        hint="look at the other members: `etcdctl endpoint health --cluster`",
                        progress=progress,
                    )

    def verify(self) -> None:
        """`act` waits for it."""

    def undo(self) -> None:
        """There is none."""


@dataclass(frozen=True, slots=True)
class JoinMembers:
    """The new members start, empty, and get their data from the others."""

    site: Site
    name: ClassVar[str] = "join"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Who."""
        return f"start etcd on {', '.join(host.name for host in self.site.plan.members)}, to learn from the others"

    def observe(self) -> Observation:
        """It answers as a member of this cluster."""
        problems = [problem for host in self.site.plan.members if (problem := self._problem(host))]
        return todo("; ".join(problems)) if problems else done("they answer")

    def act(self, progress: Progress) -> None:
        """An old data directory goes aside first: a member with another cluster's id is refused for ever."""
        for host in self.site.plan.members:
            if not self._problem(host):
                continue
            machine = self.site.machine(host)
            if not find_processes(machine, ETCD):
                member.move_aside(machine, spec(self.site, host), self.site.plan.run)
            for program, text in staged_manifests(self.site, host).items():
                if program == ETCD:
                    self.site.layout.install(machine, program, self._joining(text))
                elif program not in (*CONTROLLERS, API_SERVER):
                    self.site.layout.install(machine, program, text)
            self.site.layout.start_agent(machine)
            wait_for(
                lambda host=host: self._problem(host),  # type: ignore[misc]
                what=f"etcd on {host.name}",
                limit=JOIN_TIME,
                hint="look at its log there (/var/log/pods/*etcd*), then run the same command again",
                progress=progress,
            )

    def verify(self) -> None:
        """`act` waits for it."""

    def undo(self) -> None:
        """There is none."""

    def _joining(self, manifest: str) -> str:
        """The manifest as a member that joins has it: everybody who is there now, and itself."""
        with _witness(self.site) as client:
            named = {host.peer_url: host.member_name for host in self.site.plan.members}
            pairs = [
                f"{one.name or named.get(url, '')}={url}"
                for one in client.members()
                for url in one.peer_urls
                if one.name or url in named
            ]
        return joining(manifest, ",".join(pairs))

    def _problem(self, host: PlannedHost) -> str:
        try:
            with self.site.etcd(host) as client:
                return "" if client.status().leader_id else f"{host.name}: etcd has no leader yet"
        except (EtcdError, PreconditionFailed) as err:
            return f"{host.name}: {err}"


@dataclass(frozen=True, slots=True)
class PromoteLearners:
    """The new members get their vote, once they have everything."""

    site: Site
    name: ClassVar[str] = "promote"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Who."""
        return f"give {', '.join(host.member_name for host in self.site.plan.members)} their vote when they are in sync"

    def observe(self) -> Observation:
        """Voting."""
        with _witness(self.site) as client:
            found = {host.name: _member_of(client, host) for host in self.site.plan.members}
        learning = [name for name, one in found.items() if one is None or one.is_learner]
        return todo(f"no vote yet: {', '.join(learning)}") if learning else done("all of them vote")

    def act(self, progress: Progress) -> None:
        """Ask until etcd says yes."""
        with _witness(self.site) as client:
            for host in self.site.plan.members:
                wait_for(
                    lambda host=host: _promoted(client, host),  # type: ignore[misc]
                    what=f"{host.member_name} to be in sync",
                    limit=SYNC_TIME,
                    hint="the database is large or the network slow; run the same command again",
                    progress=progress,
                )

    def verify(self) -> None:
        """Raises `StepTimedOut` unless every member comes to hold what the others hold, by HashKV at one revision."""
        wait_for(
            self._difference,
            what="all members to answer with one HashKV",
            limit=HASH_TIME,
            hint="do not trust the new member: remove it from etcd, and see its log",
            progress=Silent(),
        )

    def _difference(self) -> str:
        """Asked at one revision. Members that compact at different moments are asked again, by `wait_for`."""
        with _witness(self.site) as client:
            revision = client.status().revision
        answers = {}
        for host in self.site.plan.hosts:
            with self.site.etcd(host) as client:
                answer = client.hash_kv(revision)
                answers[host.name] = answer.hash, answer.compact_revision
        if len(set(answers.values())) == 1:
            return ""
        told = ", ".join(f"{name} {hash_kv} (compacted at {at})" for name, (hash_kv, at) in answers.items())
        return f"HashKV at revision {revision}: {told}"

    def undo(self) -> None:
        """There is none."""


@dataclass(frozen=True, slots=True)
class RemoveLostNodes:
    """The Node of the lost master goes, saved first; a new master that has its name keeps it."""

    site: Site
    name: ClassVar[str] = "remove-nodes"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Which."""
        stale = self._stale()
        return f"remove the Node of {', '.join(stale)}" if stale else "no Node is to be removed"

    def observe(self) -> Observation:
        """No such Node."""
        with self.site.api(self.site.plan.members[0]) as api:
            there = sorted({node.name for node in nodes(api)} & set(self._stale()))
        return todo(f"still there: {', '.join(there)}") if there else done("no stale Node is left")

    def act(self, progress: Progress) -> None:
        """Saved, then deleted."""
        progress.step(self.title)
        with self.site.api(self.site.plan.members[0]) as api:
            stale = stale_nodes(api, self._stale())
            for saved in stale:
                self.site.keep(saved)
            delete_all(api, stale)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one is still there."""
        if self.observe().state != "done":
            raise PreconditionFailed("a stale Node could not be removed")

    def undo(self) -> None:
        """There is none."""

    def _stale(self) -> list[str]:
        staying = {host.node_name for host in self.site.plan.hosts}
        stale = [old.node_name for old in self.site.plan.old_masters if old.node_name not in staying]
        return stale if self.site.plan.choices.is_stale_removed else []


def joining(manifest: str, initial_cluster: str) -> str:
    """etcd's manifest as a member that joins must have it. Raises `PreconditionFailed` for one that cannot be changed.

    Without the state, which a first master's manifest does not have, etcd would found a cluster of its own.
    """
    text = _INITIAL.sub(f"--initial-cluster={initial_cluster}", manifest)
    if _STATE.search(text):
        text = _STATE.sub("--initial-cluster-state=existing", text)
    else:
        text = _LINE.sub(r"\g<0>\n\g<1>\g<2>--initial-cluster-state=existing\g<2>", text)
    flags = parse_pod(text, ETCD, what="the new etcd.yaml").flags
    if (flags.get("initial-cluster"), flags.get("initial-cluster-state")) != (initial_cluster, "existing"):
        raise PreconditionFailed(
            "etcd's manifest is written in a way that bbr cannot change",
            hint="write it in block style, as kubeadm does",
        )
    return text


@contextmanager
def _witness(site: Site) -> Iterator[EtcdClient]:
    """A living member: the first that serves. Where none does, the first, which then says why."""
    witnesses = site.plan.witnesses
    serving = next((host for host in witnesses if _serves(site, host)), witnesses[0])
    with site.etcd(serving) as client:
        yield client


def _serves(site: Site, host: PlannedHost) -> bool:
    """Whether a living member follows a leader."""
    try:
        with site.etcd(host) as client:
            return bool(client.status().leader_id)
    except BbrError:
        return False


def _member_of(client: EtcdClient, host: PlannedHost) -> Member | None:
    return next((one for one in client.members() if host.peer_url in one.peer_urls), None)


def _added(client: EtcdClient, host: PlannedHost) -> str:
    if _member_of(client, host) is None:
        add_learner(client, [host.peer_url])
    return ""


def _promoted(client: EtcdClient, host: PlannedHost) -> str:
    one = _member_of(client, host)
    if one is None:
        return f"{host.member_name} is no member"
    if not one.is_learner or promote(client, one.id):
        return ""
    return f"{host.member_name} is not in sync yet"
