"""A look into the restored cluster before anybody else gets one: an API server that only this restore can reach.

It runs on the first master, on the loopback, with webhooks off. Nothing else can reach it: controllers, operators and
kubelets act on what they find as soon as an API server answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from bbr.errors import BbrError, PreconditionFailed
from bbr.layouts.processes import find_processes, wait_ended
from bbr.layouts.recovery import RECOVERY_POD, RECOVERY_PORT, recovery_manifest
from bbr.progress import Progress, Silent
from restore.plan import PlannedHost
from restore.site import Site
from restore.step import Observation, done, todo
from restore.steps.files import PARKED, STAGED, manifests_in
from restore.steps.programs import API_SERVER, STOP_TIME, is_recovery, parked
from restore.wait import wait_for

READY_TIME = timedelta(minutes=3)

PATIENCE = timedelta(seconds=1)
"""It serves nobody but this restore."""


@dataclass(frozen=True, slots=True)
class StartRecovery:
    """Start it, with everything as the master's own has it but for who can reach it."""

    site: Site
    name: ClassVar[str] = "start-recovery"
    undo_text: ClassVar[str] = "stop the recovery API server"
    superseded_by: ClassVar[str] = "stop-recovery"

    @property
    def title(self) -> str:
        """Where."""
        return f"start a recovery API server on {self._host.name}, on its loopback only"

    def observe(self) -> Observation:
        """It is ready."""
        problem = self._problem()
        return todo(problem) if problem else done("it is ready")

    def act(self, progress: Progress) -> None:
        """As one more program of the master, so whatever runs its programs runs this one."""
        machine = self.site.machine(self._host)
        if not self.site.layout.is_in_service(machine, RECOVERY_POD):
            folder = STAGED if self._host.takes_after else PARKED
            manifests = manifests_in(self.site, self._host, folder)
            if API_SERVER not in manifests:
                raise PreconditionFailed(f"{machine.name}: there is no manifest of its API server in {folder}/")
            recovery = recovery_manifest(manifests[API_SERVER], what=f"{machine.name}: {folder}/{API_SERVER}")
            for note in recovery.notes:
                progress.warn(f"the recovery API server runs {note}")
            self.site.layout.install(machine, RECOVERY_POD, recovery.manifest)
        wait_for(
            self._problem,
            what="the recovery API server",
            limit=READY_TIME,
            hint="look at its log there (/var/log/pods/*bbr-recovery*): a wrong encryption configuration, or another "
            "version of Kubernetes? then run the same command again, or `bbr restore undo`",
            progress=progress,
        )

    def verify(self) -> None:
        """`act` waits until it is ready."""

    def undo(self) -> None:
        """Stop it."""
        stop_recovery(self.site, self._host, None)

    @property
    def _host(self) -> PlannedHost:
        return self.site.plan.members[0]

    def _problem(self) -> str:
        try:
            with self.site.api(self._host, port=RECOVERY_PORT) as api:
                return api.ready().reason
        except BbrError as err:
            return str(err)


@dataclass(frozen=True, slots=True)
class StopRecovery:
    """Its work is done; the normal ones come next."""

    site: Site
    name: ClassVar[str] = "stop-recovery"
    title: ClassVar[str] = "stop the recovery API server"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """Neither in service nor running."""
        host = self.site.plan.members[0]
        machine = self.site.machine(host)
        if self.site.layout.is_in_service(machine, RECOVERY_POD):
            return todo("it is in service")
        running = any(is_recovery(one) for one in find_processes(machine, API_SERVER))
        return todo("it still runs") if running else done("it is gone")

    def act(self, progress: Progress) -> None:
        """Take it out, and wait for its end."""
        stop_recovery(self.site, self.site.plan.members[0], progress)

    def verify(self) -> None:
        """`act` waits for it."""

    def undo(self) -> None:
        """Nothing."""


def stop_recovery(site: Site, host: PlannedHost, progress: Progress | None) -> None:
    """Stop the recovery API server, and wait until it has ended."""
    machine = site.machine(host)
    site.layout.remove(machine, RECOVERY_POD, parked(site))
    wait_ended(
        machine,
        API_SERVER,
        limit=STOP_TIME,
        progress=progress or Silent(),
        which=is_recovery,
        ours=is_recovery,
        patience=PATIENCE,
    )
