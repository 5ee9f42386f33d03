"""Before anything changes: old masters fenced, machines claimed, the snapshot brought to them and rehearsed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import ClassVar

from bbr.errors import BbrError, PreconditionFailed
from bbr.machines.machine import Digest
from bbr.progress import Progress
from restore.iaas.iaas import MachineWanted
from restore.iaas.mark import Mark
from restore.plan import OldMaster, PlannedHost
from restore.rehearsal import rehearse
from restore.site import Site, on_each
from restore.step import Observation, blocked, done, todo
from restore.steps.tools import find_tool

MARK_TIME = timedelta(days=7)
"""How long a machine stays a run's: a restore that was given up is swept after it."""

SNAPSHOT = "snapshot.db"
ON, OFF = "on", "off"
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FenceOldMasters:
    """Make sure that no old master comes back with old data, by the adapter or by the operator's word."""

    site: Site
    name: ClassVar[str] = "fence"
    superseded_by: ClassVar[str] = ""

    @property
    def undo_text(self) -> str:
        """Who comes back, and by whose hand."""
        fenced = ", ".join(one.name for one in self._to_fence)
        by_hand = "" if self.site.place.release is not None else " by hand"
        return f"switch on again{by_hand} what this run switched off of {fenced}" if fenced else ""

    @property
    def title(self) -> str:
        """What is done, to whom."""
        old = self.site.plan.old_masters
        fenced = ", ".join(one.name for one in old if one.fate == "fence")
        attested = ", ".join(one.name for one in old if one.fate == "attested")
        parts = [
            f"switch off {fenced}" if fenced else "",
            f"rely on the word that {attested} is off" if attested else "",
        ]
        return "; ".join(part for part in parts if part) or "no old master is left to fence"

    def observe(self) -> Observation:
        """Off, as far as the adapter can say. A machine that does not answer is not known to be off."""
        to_fence = self._to_fence
        if not to_fence:
            return done(self.title)
        if self.site.place.fence is None:
            return blocked(
                f"the adapter {self.site.place.iaas.info().adapter} cannot switch machines off: switch off "
                f"{', '.join(one.name for one in to_fence)} and make a plan with --attest"
            )
        on = [one.name for one in to_fence if self._power(one.name) != OFF]
        return todo(f"on, or not known to be off: {', '.join(on)}") if on else done("all of them are off")

    def act(self, progress: Progress) -> None:
        """Switch them off, one by one, each proven. Whether it was on is written down before."""
        fence = self.site.place.fence
        if fence is None:
            return
        for one in self._to_fence:
            self.site.folder.journal.write("noted", self.name, f"{one.name}: {self._power(one.name)}")
            progress.step(f"switching off {one.name}")
            fence.fence(one.name)

    def verify(self) -> None:
        """`Fence.fence` proves it."""

    def undo(self) -> None:
        """Those come back that this run found on; one that was off, or said nothing, stays off. By hand where it must.

        It is the last undo of a run: what was restored is out of service by then.
        """
        release = self.site.place.release
        if release is None:
            return
        noted = {one.detail for one in self.site.folder.journal.read() if (one.event, one.step) == ("noted", self.name)}
        for one in self._to_fence:
            if f"{one.name}: {ON}" in noted:
                release.release(one.name)

    @property
    def _to_fence(self) -> list[OldMaster]:
        return [one for one in self.site.plan.old_masters if one.fate == "fence"]

    def _power(self, name: str) -> str:
        """What the adapter says. Of a machine that does not answer nobody knows."""
        try:
            made = self.site.place.iaas.get(name)
        except BbrError:
            return "unknown"
        return OFF if made is None or made.state == "off" else ON


@dataclass(frozen=True, slots=True)
class ClaimMachines:
    """Have every machine of the plan, with the run's mark on it."""

    site: Site
    name: ClassVar[str] = "machines"
    undo_text: ClassVar[str] = "give the machines back"
    superseded_by: ClassVar[str] = "hand-over"

    @property
    def title(self) -> str:
        """Which machines."""
        return f"claim {', '.join(host.name for host in self.site.plan.worked_on)}"

    def observe(self) -> Observation:
        """Marked with this run."""
        lacking = []
        for host in self.site.plan.worked_on:
            made = self.site.place.iaas.get(host.name)
            if made is None or made.mark is None or made.mark.run != self.site.plan.run or made.state != "on":
                lacking.append(host.name)
        return todo(f"not claimed: {', '.join(lacking)}") if lacking else done("all carry this run's mark")

    def act(self, progress: Progress) -> None:
        """Take each of them, or make it."""
        plan = self.site.plan
        progress.step(self.title)
        mark = Mark(plan.run, plan.source.cluster, "restore", datetime.now(UTC) + MARK_TIME)
        roles = {one.name: one.role for one in self.site.place.iaas.info().known}

        def claim(host: PlannedHost) -> None:
            wanted = MachineWanted(host.name, roles.get(host.name) or "master", mark, take_living=plan.kind != "fresh")
            self.site.place.iaas.ensure_machine(wanted)

        on_each(plan.worked_on, claim)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one is not ours."""
        seen = self.observe()
        if seen.state != "done":
            raise PreconditionFailed(seen.seen)

    def undo(self) -> None:
        """Those that were there before this run are free again. What was made for it stays marked: `bbr iaas sweep`."""
        if self.site.plan.kind in ("in-place", "etcd-only") or not self.site.place.iaas.info().makes_machines:
            hand_over(self.site)


@dataclass(frozen=True, slots=True)
class Upload:
    """Bring the snapshot to every machine, side by side."""

    site: Site
    name: ClassVar[str] = "upload"
    undo_text: ClassVar[str] = "remove the uploaded snapshot"
    superseded_by: ClassVar[str] = "make-members"

    @property
    def title(self) -> str:
        """To which machines."""
        plan = self.site.plan
        size = plan.source.etcd.snapshot_bytes / 1e6
        return f"upload the snapshot ({size:,.1f} MB) to {', '.join(host.name for host in plan.members)}"

    def observe(self) -> Observation:
        """There, with the right hash."""
        lacking = [name for name, there in on_each(self.site.plan.members, self._is_there).items() if not there]
        return todo(f"not yet on {', '.join(lacking)}") if lacking else done("the snapshot is on all of them")

    def act(self, progress: Progress) -> None:
        """Send what is missing. A transfer that was cut goes on where it was.

        etcd's programs first: what has to be found, or copied out of a live etcd, is there before anything is stopped.
        """
        progress.step("looking for etcdutl on the machines")
        on_each(self.site.plan.members, lambda host: find_tool(self.site, host, "etcdutl"))
        progress.step(self.title)
        source = self.site.source
        meter = _Meter(progress, source.rebuilt.size_bytes * len(self.site.plan.members))

        def send(host: PlannedHost) -> None:
            body, digest = _chunks(source.snapshot, meter), Digest(source.snapshot_sha256)
            self.site.machine(host).put(self._path, body, mode=0o600, owner="root:root", sha256=digest)

        on_each(self.site.plan.members, send)

    def verify(self) -> None:
        """`Machine.put` reads back and compares."""

    def undo(self) -> None:
        """Remove it everywhere: it holds Secrets."""
        remove_snapshot(self.site)

    @property
    def _path(self) -> PurePosixPath:
        return self.site.remote / SNAPSHOT

    def _is_there(self, host: PlannedHost) -> bool:
        machine = self.site.machine(host)
        if machine.stat(self._path) is None:
            return False
        output = machine.run(["sha256sum", str(self._path)])
        return output.stdout.split()[0].decode() == self.site.source.snapshot_sha256


@dataclass(frozen=True, slots=True)
class Rehearse:
    """Start the snapshot in scratch, unbumped, with the target's own programs, and compare HashKV with the manifest."""

    site: Site
    name: ClassVar[str] = "rehearse"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = "make-members"

    @property
    def title(self) -> str:
        """Where, and against what."""
        etcd = self.site.plan.source.etcd
        return f"rehearse on {self.site.plan.first.name}: HashKV {etcd.hash_kv} at revision {etcd.revision:,}, unbumped"

    def observe(self) -> Observation:
        """It leaves nothing behind, so there is nothing to see."""
        return todo("not rehearsed by this run")

    def act(self, progress: Progress) -> None:
        """Raises `HashMismatch` when the scratch member answers anything else, and as `rehearse` does."""
        etcd, host = self.site.plan.source.etcd, self.site.plan.members[0]
        machine = self.site.machine(host)
        progress.step(self.title)
        rehearse(
            machine,
            self.site.remote / SNAPSHOT,
            find_tool(self.site, host, "etcdutl"),
            find_tool(self.site, host, "etcd"),
            find_tool(self.site, host, "etcdctl"),
            revision=etcd.revision,
            hash_kv=etcd.hash_kv,
            run=self.site.remote,
        )

    def verify(self) -> None:
        """`act` compares."""

    def undo(self) -> None:
        """Nothing was left."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The machines are the cluster's now: no sweep may take them."""

    site: Site
    name: ClassVar[str] = "hand-over"
    title: ClassVar[str] = "hand the machines over to the cluster"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """None carries the run's mark."""
        made = [self.site.place.iaas.get(host.name) for host in self.site.plan.worked_on]
        ours = [one.name for one in made if one is not None and one.mark is not None]
        return todo(f"still marked: {', '.join(ours)}") if ours else done("none is marked")

    def act(self, progress: Progress) -> None:
        """Remove the marks."""
        progress.step(self.title)
        hand_over(self.site)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one is still marked."""
        if self.observe().state != "done":
            raise PreconditionFailed(self.observe().seen)

    def undo(self) -> None:
        """There is none."""


def hand_over(site: Site) -> None:
    """Take the run's mark off all its machines."""
    on_each(site.plan.worked_on, lambda host: site.place.iaas.hand_over(host.name, run=site.plan.run))


def remove_snapshot(site: Site) -> None:
    """Remove the uploaded snapshot from every machine, whole or partial."""
    folder = str(site.remote)
    script = 'rm -f -- "$1"/snapshot.db "$1"/.bbr-*'
    on_each(site.plan.members, lambda host: site.machine(host).run(["sh", "-c", script, "bbr", folder]))


class _Meter:
    """Adds up what several uploads have sent."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self._progress, self._total_bytes, self._done_bytes = progress, total_bytes, 0
        self._lock = threading.Lock()

    def add(self, count_bytes: int) -> None:
        with self._lock:
            self._done_bytes += count_bytes
            self._progress.advance(self._done_bytes, self._total_bytes)


def _chunks(path: Path, meter: _Meter) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
            meter.add(len(chunk))
