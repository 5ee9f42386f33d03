"""etcd's data: what is there saved and moved aside, new members made of the snapshot, started, and proven equal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import ClassVar

from bbr.durable import sync_folder
from bbr.errors import BbrError, EtcdCompacted, EtcdError, EtcdUnavailable, HashMismatch, NoSpace, PreconditionFailed
from bbr.etcd.membership import leases
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.write import delete, disarm, put
from bbr.layouts.processes import find_processes, wait_ended
from bbr.progress import Progress, Silent
from restore import member
from restore.member import MemberSpec
from restore.plan import PlannedHost
from restore.site import LASTING_S, Site, on_each
from restore.step import Observation, done, todo
from restore.steps.files import staged_manifests
from restore.steps.ground import SNAPSHOT
from restore.steps.programs import API_SERVER, CONTROLLERS, ETCD, STOP_TIME, from_manifest_of, parked
from restore.steps.tools import find_tool

SERVE_TIME = timedelta(minutes=3)
"""How long etcd may take to serve what was restored."""

SAFETY = "safety.db"
PROBE_KEY = b"/bbr/restore-probe"
_UP = 'read -r up rest < /proc/uptime; echo "${up%.*} $(getconf CLK_TCK 2>/dev/null || echo 100)"'
"""For how many seconds the machine is up, and how many clock ticks make one: see proc(5)."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class SaveWhatIsThere:
    """A snapshot of the etcd that is about to be replaced, kept on the operator's host."""

    site: Site
    name: ClassVar[str] = "save"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = "stop-etcd"

    @property
    def title(self) -> str:
        """Where it goes."""
        return f"save what is there: a snapshot of the running etcd as {SAFETY} in the run's folder"

    def observe(self) -> Observation:
        """The file is there, whole."""
        path = self.site.folder.path / SAFETY
        return done(f"{path} is there") if path.exists() else todo("not saved yet")

    def act(self, progress: Progress) -> None:
        """From the first member that serves; where none does, the data directories that are moved aside must do."""
        for host in self.site.plan.members:
            try:
                with self.site.etcd(host) as client:
                    client.status()
                    _save(client.snapshot(), self.site.folder.path, progress)
                    return
            except (EtcdError, PreconditionFailed) as err:
                progress.warn(f"{host.name}: no snapshot of the running etcd: {err}")
        progress.warn("no member serves; what is moved aside next is the only copy of what was there")

    def verify(self) -> None:
        """Raises `SnapshotDamaged` when what was saved is not whole."""
        path = self.site.folder.path / SAFETY
        if path.exists():
            with Snapshot.open(path) as snapshot:
                snapshot.check_trailer()

    def undo(self) -> None:
        """Nothing: the copy is kept."""


@dataclass(frozen=True, slots=True)
class MakeMembers:
    """Move data directories aside, and make each member's new one of the snapshot with the target's own etcdutl."""

    site: Site
    name: ClassVar[str] = "make-members"
    undo_text: ClassVar[str] = "put the old data directories back, keep the new ones aside"
    superseded_by: ClassVar[str] = "start-etcd"

    @property
    def title(self) -> str:
        """Where, and how far revisions are bumped."""
        plan = self.site.plan
        names = ", ".join(host.name for host in plan.members)
        return f"make new data directories on {names}, revisions bumped by {plan.choices.bump:,}; old ones go aside"

    def observe(self) -> Observation:
        """Each member's directory is the one that this run made."""
        states = on_each(
            self.site.plan.members,
            lambda host: member.look(self.site.machine(host), spec(self.site, host), self.site.plan.run),
        )
        lacking = [name for name, state in states.items() if not state.is_ours]
        return todo(f"to be made: {', '.join(lacking)}") if lacking else done("all members were made by this run")

    def act(self, progress: Progress) -> None:
        """All members at once, from one snapshot, with one cluster token."""
        plan = self.site.plan
        progress.step(self.title)

        def one(host: PlannedHost) -> None:
            machine, wanted = self.site.machine(host), spec(self.site, host)
            if member.look(machine, wanted, plan.run).is_ours:
                return
            etcdutl = find_tool(self.site, host, "etcdutl")
            member.move_aside(machine, wanted, plan.run)
            member.make(machine, wanted, plan.run, self.site.remote / SNAPSHOT, etcdutl, bump=plan.choices.bump)

        on_each(plan.members, one)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one is missing."""
        seen = self.observe()
        if seen.state != "done":
            raise PreconditionFailed(seen.seen)

    def undo(self) -> None:
        """The old directories get their place back."""

        def one(host: PlannedHost) -> None:
            machine, wanted = self.site.machine(host), spec(self.site, host)
            member.undo_make(machine, wanted, self.site.plan.run)
            member.undo_move_aside(machine, wanted, self.site.plan.run)

        on_each(self.site.plan.members, one)


@dataclass(frozen=True, slots=True)
class StartEtcd:
    """Start the members, and hold what they serve against what was computed offline."""

    site: Site
    name: ClassVar[str] = "start-etcd"
    undo_text: ClassVar[str] = "stop etcd"
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Where."""
        return f"start etcd on {', '.join(host.name for host in self.site.plan.members)} and compare HashKV"

    def observe(self) -> Observation:
        """Serving, with everything that was restored."""
        found = on_each(self.site.plan.members, self._problem)
        problems = [f"{name}: {problem}" for name, problem in found.items() if problem]
        return todo("; ".join(problems)) if problems else done("every member serves what was restored")

    def act(self, progress: Progress) -> None:
        """All at once: a member waits for the majority of its peers."""

        def one(host: PlannedHost) -> None:
            machine = self.site.machine(host)
            if host.takes_after:
                # A KMS plugin, a proxy: what is none of Kubernetes' own is there before an API server needs it.
                for program, text in staged_manifests(self.site, host).items():
                    if program == ETCD or program not in (*CONTROLLERS, API_SERVER):
                        self.site.layout.install(machine, program, text)
                self.site.layout.start_agent(machine)
            else:
                self.site.layout.put_back(machine, ETCD, parked(self.site))

        on_each(self.site.plan.members, one)
        self._wait_served(progress)

    def verify(self) -> None:
        """Raises `HashMismatch` unless all members hold the data that the archive promised, bumped, and all leases."""
        on_each(self.site.plan.members, self._check)
        with self.site.etcd(self.site.plan.members[0]) as client:
            # etcd on a directory that a failed etcdutl left says that it is well, and never takes a write.
            put(client, PROBE_KEY, self.site.plan.run.encode())
            delete(client, PROBE_KEY)

    def undo(self) -> None:
        """Out of service again."""

        def one(host: PlannedHost) -> None:
            machine = self.site.machine(host)
            if host.takes_after:
                for program in staged_manifests(self.site, host):
                    self.site.layout.remove(machine, program, parked(self.site))
            elif self.site.layout.is_in_service(machine, ETCD):
                self.site.layout.take_out(machine, ETCD, parked(self.site))
            mine = from_manifest_of(self.site, host, ETCD)
            wait_ended(machine, ETCD, limit=STOP_TIME, progress=Silent(), ours=mine)
            if host.takes_after:
                # It would go on as a node of the cluster: its certificate is in its memory.
                self.site.layout.stop_agent(machine)

        on_each(self.site.plan.members, one)

    def _wait_served(self, progress: Progress) -> None:
        deadline = time.monotonic() + SERVE_TIME.total_seconds()
        while True:
            problems = {name: one for name, one in on_each(self.site.plan.members, self._problem).items() if one}
            if not problems:
                return
            if time.monotonic() > deadline:
                name, problem = next(iter(problems.items()))
                raise EtcdUnavailable(
                    f"{name}: etcd did not serve within {SERVE_TIME}: {problem}",
                    hint="look at its log there (/var/log/pods/*etcd*); then run the same command again, or undo",
                )
            progress.step(f"waiting for etcd on {', '.join(problems)}")
            time.sleep(_POLL_S)

    def _problem(self, host: PlannedHost) -> str:
        """Why this member does not serve the restored data; "" when it does."""
        machine = self.site.machine(host)
        if not find_processes(machine, ETCD):
            return "etcd does not run"
        try:
            with self.site.etcd(host) as client:
                status = client.status()
        except BbrError as err:
            return str(err)
        if status.revision < self.site.source.bumped_revision:
            return f"etcd is at revision {status.revision}, below the restored {self.site.source.bumped_revision}"
        return "" if status.leader_id else "etcd has no leader yet"

    def _check(self, host: PlannedHost) -> None:
        source = self.site.source
        with self.site.etcd(host) as client:
            try:
                answer = client.hash_kv(source.bumped_revision)
            except EtcdCompacted:
                # API servers compact: this member was proven, and has been in use since.
                return
            if answer.hash != source.bumped_hash_kv:
                raise HashMismatch(
                    f"{host.name}: HashKV {answer.hash} at revision {source.bumped_revision}; "
                    f"{source.bumped_hash_kv} was computed from the archive",
                    hint="do not go on: `bbr restore undo` brings back what was there",
                )
            missing = source.leases - leases(client)
        # A run that is resumed hours after a crash finds that leases have run out since.
        if missing and self._age_s(host) < LASTING_S:
            raise HashMismatch(f"{host.name}: {len(missing)} of {len(source.leases)} leases did not come back")

    def _age_s(self, host: PlannedHost) -> int:
        """For how long the member runs."""
        machine = self.site.machine(host)
        up_s, ticks = map(int, machine.run(["sh", "-c", _UP]).stdout.split())
        return max((up_s - process.started // ticks for process in find_processes(machine, ETCD)), default=0)


@dataclass(frozen=True, slots=True)
class DisarmAlarms:
    """A NOSPACE alarm that came along with the snapshot would refuse every write."""

    site: Site
    name: ClassVar[str] = "disarm-alarms"
    title: ClassVar[str] = "disarm alarms that came along with the snapshot"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """No alarm is raised."""
        with self.site.etcd(self.site.plan.members[0]) as client:
            alarms = client.alarms()
        corrupt = [alarm for alarm in alarms if alarm.kind == "CORRUPT"]
        if corrupt:
            raise PreconditionFailed(
                "etcd raises CORRUPT on restored data", hint="`bbr restore undo`, then choose another backup"
            )
        return todo(f"{len(alarms)} raised") if alarms else done("none is raised")

    def act(self, progress: Progress) -> None:
        """Disarm; what the database takes on disk is only its live data after a restore."""
        with self.site.etcd(self.site.plan.members[0]) as client:
            for alarm in client.alarms():
                progress.step(f"disarming {alarm.kind}")
                disarm(client, alarm.member_id, alarm.kind)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one was raised again at once: the quota is too small for the data."""
        if self.observe().state != "done":
            raise PreconditionFailed(
                "etcd raised NOSPACE again: its data is larger than its quota",
                hint="raise --quota-backend-bytes in etcd's manifest, then run the same command again",
            )

    def undo(self) -> None:
        """Nothing: the old data has its own alarms."""


def spec(site: Site, host: PlannedHost) -> MemberSpec:
    """What etcdutl is told about a member."""
    return MemberSpec(
        name=host.member_name,
        peer_urls=host.peer_url,
        initial_cluster=site.plan.initial_cluster,
        token=site.plan.choices.token,
        data_dir=PurePosixPath(host.data_dir),
        wal_dir=PurePosixPath(host.wal_dir) if host.wal_dir else None,
    )


def _save(blobs: Iterable[memoryview], folder: Path, progress: Progress) -> None:
    """A snapshot stream as a file that appears whole, and durable, or not at all."""
    partial = folder / f".{SAFETY}"
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            written = 0
            for blob in blobs:
                file.write(blob)
                written += len(blob)
                progress.advance(written, 0)
            file.flush()
            os.fsync(file.fileno())
        with Snapshot.open(partial) as snapshot:
            snapshot.check_trailer()
        partial.replace(folder / SAFETY)
        sync_folder(folder)
    except OSError as err:
        raise NoSpace(
            f"{folder}: the safety snapshot was not written: {err.strerror}", hint="free space there"
        ) from err
    finally:
        partial.unlink(missing_ok=True)
