"""Taking a master's programs out of service, component by component, and waiting until they have really ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import ClassVar

from bbr.errors import BbrError, PreconditionFailed, StepTimedOut, UsageError
from bbr.layouts.processes import Process, find_processes, wait_ended
from bbr.layouts.recovery import RECOVERY_PORT
from bbr.layouts.staticpod import parse_pod
from bbr.progress import Progress, Silent
from restore.plan import PlannedHost
from restore.site import Site, on_each
from restore.step import Observation, done, todo
from restore.steps.files import PARKED, STAGED, manifests_in
from restore.wait import wait_for

_log = logging.getLogger(__name__)

CONTROLLERS = ("cloud-controller-manager", "kube-controller-manager", "kube-scheduler")
API_SERVER = "kube-apiserver"
ETCD = "etcd"

STOP_TIME = timedelta(seconds=90)
"""An API server with open watches takes 35 s; a busy machine longer."""

READY_TIME = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class StopControlPlane:
    """Stop what changes things by itself, then every API server, on all masters."""

    site: Site
    name: ClassVar[str] = "stop-control-plane"
    undo_text: ClassVar[str] = "put the manifests back"
    superseded_by: ClassVar[str] = "start-api-servers"

    @property
    def title(self) -> str:
        """Where."""
        names = ", ".join(host.name for host in self.site.plan.worked_on)
        return f"stop controllers, schedulers and all API servers on {names}"

    def observe(self) -> Observation:
        """Nothing of it in service, nothing running."""
        return _observe(self.site, (*CONTROLLERS, API_SERVER))

    def act(self, progress: Progress) -> None:
        """Controllers first: none shall see half a control plane."""
        stop(self.site, CONTROLLERS, progress)
        stop(self.site, (API_SERVER,), progress)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when something still runs."""
        _check_stopped(self)

    def undo(self) -> None:
        """Back into service, the API servers first; then wait until they serve as they did, if they ever did."""
        put_back(self.site, (API_SERVER,))
        put_back(self.site, CONTROLLERS)
        try:
            wait_for(
                lambda: why_not_ready(self.site),
                what="the API servers that were there before",
                limit=READY_TIME,
                hint="everything was put back; look at the API server's log there (/var/log/pods/*kube-apiserver*)",
                progress=Silent(),
            )
        except StepTimedOut as err:
            # What was broken before the restore is broken after its undo; the rest must be taken back all the same.
            _log.warning("%s; everything was put back as it was", err)


@dataclass(frozen=True, slots=True)
class StopEtcd:
    """Stop every member."""

    site: Site
    name: ClassVar[str] = "stop-etcd"
    undo_text: ClassVar[str] = "put etcd's manifest back"
    superseded_by: ClassVar[str] = "start-etcd"

    @property
    def title(self) -> str:
        """Where."""
        return f"stop etcd on {', '.join(host.name for host in self.site.plan.members)}"

    def observe(self) -> Observation:
        """Not in service, not running."""
        return _observe(self.site, (ETCD,))

    def act(self, progress: Progress) -> None:
        """All members at once."""
        stop(self.site, (ETCD,), progress)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when one still runs."""
        _check_stopped(self)

    def undo(self) -> None:
        """Back into service."""
        put_back(self.site, (ETCD,))


def why_not_ready(site: Site) -> str:
    """Why an API server of the plan's does not serve; "" when all that are in service do."""

    def one(host: PlannedHost) -> str:
        machine = site.machine(host)
        if not site.layout.is_in_service(machine, API_SERVER):
            return ""
        try:
            with site.api(host) as api:
                return api.ready().reason
        except BbrError as err:
            return str(err)

    found = on_each(site.plan.worked_on, one)
    return next((f"{name}: {reason}" for name, reason in found.items() if reason), "")


def stop(site: Site, programs: Sequence[str], progress: Progress) -> None:
    """Take programs out of service wherever the plan has them, and wait until their processes have ended."""

    def one(host: PlannedHost) -> None:
        machine = site.machine(host)
        for program in programs:
            if site.layout.is_in_service(machine, program):
                site.layout.take_out(machine, program, parked(site))
        for program in programs:
            mine = from_manifest_of(site, host, program)
            wait_ended(machine, program, limit=STOP_TIME, progress=progress, which=is_the_masters, ours=mine)

    on_each(_where(site, programs), one)


def from_manifest_of(site: Site, host: PlannedHost, program: str) -> Callable[[Process], bool]:
    """Tells, by its flags, the process that was started from the manifest that is out of service by now.

    Another of the same name may run there in a pod of somebody's. Where the layout has no manifests, none is told.
    """
    try:
        text = manifests_in(site, host, STAGED if host.takes_after else PARKED).get(program)
        flags = parse_pod(text, program, what=program).flags if text is not None else None
    except UsageError:
        flags = None
    return lambda process: flags is not None and process.flags == flags


def put_back(site: Site, programs: Sequence[str]) -> None:
    """Put into service what was parked, wherever the plan has it. What was not parked is left alone."""

    def one(host: PlannedHost) -> None:
        for program in programs:
            site.layout.put_back(site.machine(host), program, parked(site))

    on_each(_where(site, programs), one)


def parked(site: Site) -> PurePosixPath:
    """The folder on each machine where manifests wait that are out of service."""
    return site.remote / PARKED


def is_recovery(process: Process) -> bool:
    """Whether a process is the recovery API server."""
    return process.flags.get("secure-port") == str(RECOVERY_PORT)


def is_the_masters(process: Process) -> bool:
    """Whether a process is the master's own."""
    return not is_recovery(process)


def _where(site: Site, programs: Sequence[str]) -> tuple[PlannedHost, ...]:
    """etcd is the members' affair: one on a host that is only its client is another one. The rest is everybody's."""
    return site.plan.members if ETCD in programs else site.plan.worked_on


def _observe(site: Site, programs: Sequence[str]) -> Observation:
    def one(host: PlannedHost) -> list[str]:
        machine = site.machine(host)
        return [
            program
            for program in programs
            if site.layout.is_in_service(machine, program) or any(map(is_the_masters, find_processes(machine, program)))
        ]

    found = on_each(_where(site, programs), one)
    there = [f"{host}: {', '.join(names)}" for host, names in found.items() if names]
    return todo(f"in service or running: {'; '.join(there)}") if there else done("all of it is stopped")


def _check_stopped(step: StopControlPlane | StopEtcd) -> None:
    seen = step.observe()
    if seen.state != "done":
        raise PreconditionFailed(seen.seen, hint="see why it did not stop, then run the same command again")
