"""Back into service: API servers, endpoint, nodes, controllers. From the first API server on there is no way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from bbr.apiserver.client import ApiServer, path_of
from bbr.apiserver.nodes import NODE_LEASES, ensure_master, nodes
from bbr.errors import BbrError, NotFoundObject, NotReady, PreconditionFailed
from bbr.layouts.processes import find_processes
from bbr.progress import Progress
from restore.plan import PlannedHost
from restore.site import Site, on_each
from restore.step import Observation, done, todo
from restore.steps.files import PARKED, manifests_in, staged_manifests
from restore.steps.ground import remove_snapshot
from restore.steps.programs import API_SERVER, CONTROLLERS, parked
from restore.wait import wait_for

READY_TIME = timedelta(minutes=5)
NODE_TIME = timedelta(minutes=5)
WORKER_TIME = timedelta(minutes=4)
ENDPOINT_TIME = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class StartApiServers:
    """The normal API servers, on every master: from now on clients see the restored data."""

    site: Site
    name: ClassVar[str] = "start-api-servers"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Where."""
        return f"start the API servers on {', '.join(host.name for host in self.site.plan.worked_on)}"

    def observe(self) -> Observation:
        """In service and ready everywhere."""
        return _problems_of(self.site, self._problem, "every API server is ready")

    def act(self, progress: Progress) -> None:
        """All at once, then wait for each."""
        put_into_service(self.site, (API_SERVER,))
        wait_for(
            lambda: _first_problem(self.site, self._problem),
            what="the API servers",
            limit=READY_TIME,
            hint="look at the API server's log there (/var/log/pods/*kube-apiserver*), then run the same command again",
            progress=progress,
        )

    def verify(self) -> None:
        """`act` waits until they are ready."""

    def undo(self) -> None:
        """There is none."""

    def _problem(self, host: PlannedHost) -> str:
        machine = self.site.machine(host)
        if not self.site.layout.is_in_service(machine, API_SERVER):
            # A host of etcd alone has none.
            return "its API server is not in service" if API_SERVER in _wanted(self.site, host) else ""
        with self.site.api(host) as api:
            return api.ready().reason


@dataclass(frozen=True, slots=True)
class PointEndpoint:
    """Where clients find the API servers must lead to the new masters."""

    site: Site
    name: ClassVar[str] = "endpoint"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Who does it."""
        addresses = ", ".join(self._addresses)
        how = "point" if self.site.place.endpoint is not None else "wait until somebody points"
        return f"{how} {self._endpoint} to {addresses}"

    def observe(self) -> Observation:
        """The endpoint answers with this cluster's authority. In a repair it did before, so that tells nothing."""
        if not self._endpoint:
            return done("neither backup nor plan tells of an endpoint")
        if self.site.plan.kind == "repair" and self.site.place.endpoint is not None:
            return todo("the new master may not be among those that it leads to")
        problem = self._problem()
        return todo(problem) if problem else done(f"{self._endpoint} leads to an API server of this cluster")

    def act(self, progress: Progress) -> None:
        """By the adapter, or the operator's hook; where there is neither, by a person."""
        if self.site.place.endpoint is not None:
            self.site.place.endpoint.point(self._endpoint, self._addresses)
        wait_for(
            self._problem,
            what=f"{self._endpoint} to lead to the new masters",
            limit=ENDPOINT_TIME,
            hint="change the VIP, load balancer or DNS entry, then run the same command again",
            progress=progress,
        )

    def verify(self) -> None:
        """`act` waits for it."""

    def undo(self) -> None:
        """There is none."""

    @property
    def _addresses(self) -> list[str]:
        """The living masters of a repair serve all the while, so they come first."""
        return [host.node_address for host in (*self.site.plan.witnesses, *self.site.plan.members)]

    @property
    def _endpoint(self) -> str:
        return self.site.plan.target.new_endpoint or self.site.plan.target.endpoint

    def _problem(self) -> str:
        """Why the endpoint does not lead to us, as seen from every new master."""
        name, _, port = self._endpoint.rpartition(":")

        def one(host: PlannedHost) -> str:
            with self.site.reach.api_at(self.site.machine(host), name.strip("[]"), int(port)) as api:
                return api.ready().reason

        return _first_problem(self.site, one)


@dataclass(frozen=True, slots=True)
class NodesReport:
    """The masters' own kubelets report to the restored API server."""

    site: Site
    name: ClassVar[str] = "nodes"
    title: ClassVar[str] = "wait until the masters' kubelets report, and mark their Nodes as control plane"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """Ready since the restore, with label and taint."""
        with self.site.api(self.site.plan.members[0]) as api:
            problem = _heard(lambda: self._problem(api))
        return todo(problem) if problem else done("all masters are Ready")

    def act(self, progress: Progress) -> None:
        """Label and taint: no pod shall land on a master. Then wait.

        The kubelets run since etcd does, and are not started anew: one that was admits its static pods again, by what
        the API server knows of its Node, and ends those that it does not admit, etcd among them.
        """
        with self.site.api(self.site.plan.members[0]) as api:
            for host in self.site.plan.members:
                ensure_master(api, host.node_name)
            wait_for(
                lambda: _heard(lambda: self._problem(api)),
                what="the masters' kubelets",
                limit=NODE_TIME,
                hint="look at the kubelet there (journalctl -u kubelet), then run the same command again",
                progress=progress,
            )

    def verify(self) -> None:
        """`act` waits for it."""

    def undo(self) -> None:
        """There is none."""

    def _problem(self, api: ApiServer) -> str:
        found = {node.name: node for node in nodes(api)}
        for host in self.site.plan.members:
            node = found.get(host.node_name)
            if node is None or not node.is_ready:
                return f"{host.node_name} is not Ready"
            if not node.is_master:
                return f"{host.node_name} is not marked as control plane"
            if not _is_renewed(self.site, api, host.node_name):
                return f"{host.node_name} has not renewed its lease since the restore"
        return ""


@dataclass(frozen=True, slots=True)
class StartControllers:
    """What changes things by itself comes last, when the nodes that live have said so."""

    site: Site
    name: ClassVar[str] = "start-controllers"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Where."""
        return f"start schedulers and controllers on {', '.join(host.name for host in self.site.plan.worked_on)}"

    def observe(self) -> Observation:
        """In service everywhere, and running."""
        return _problems_of(self.site, self._problem, "all of them run")

    def act(self, progress: Progress) -> None:
        """The cloud's controller last: it deletes Nodes whose machines it does not find."""
        for program in reversed(CONTROLLERS):
            put_into_service(self.site, (program,))
        wait_for(
            lambda: _first_problem(self.site, self._problem),
            what="schedulers and controllers",
            limit=READY_TIME,
            hint="look at their logs there (/var/log/pods), then run the same command again",
            progress=progress,
        )

    def verify(self) -> None:
        """`act` waits for them."""

    def undo(self) -> None:
        """There is none."""

    def _problem(self, host: PlannedHost) -> str:
        machine = self.site.machine(host)
        wanted = _wanted(self.site, host)
        for program in CONTROLLERS:
            if program in wanted and not self.site.layout.is_in_service(machine, program):
                return f"{program} is not in service"
            if program in wanted and not find_processes(machine, program):
                return f"{program} does not run"
        return ""


@dataclass(frozen=True, slots=True)
class WaitForWorkers:
    """Every other Node that lived should renew its lease; one that does not is told, and stops nothing."""

    site: Site
    name: ClassVar[str] = "workers"
    title: ClassVar[str] = "wait until the workers' kubelets report"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """All have renewed."""
        with self.site.api(self.site.plan.members[0]) as api:
            silent = self._silent(api)
        return todo(f"not heard of: {', '.join(silent)}") if silent else done("every Node has reported")

    def act(self, progress: Progress) -> None:
        """Wait, up to a limit."""
        with self.site.api(self.site.plan.members[0]) as api:
            try:
                wait_for(
                    lambda: _heard(lambda: ", ".join(self._silent(api))),
                    what="the workers' kubelets",
                    limit=WORKER_TIME,
                    hint="",
                    progress=progress,
                )
            except BbrError as err:
                progress.warn(f"{err}; see whether these machines live and reach {self.site.plan.target.endpoint}")

    def verify(self) -> None:
        """Nothing: a worker that is gone must not hold up a control plane."""

    def undo(self) -> None:
        """There is none."""

    def _silent(self, api: ApiServer) -> list[str]:
        masters = {host.node_name for host in self.site.plan.members}
        names = [node.name for node in nodes(api) if node.name not in masters]
        return [name for name in names if not _is_renewed(self.site, api, name)]


@dataclass(frozen=True, slots=True)
class FreshBackup:
    """A restored cluster is a new history: its first backup opens a new generation."""

    site: Site
    name: ClassVar[str] = "backup"
    title: ClassVar[str] = "take a fresh backup, in a new generation"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = "clear"

    def observe(self) -> Observation:
        """Only the journal knows."""
        return todo("not taken by this run")

    def act(self, progress: Progress) -> None:
        """By the command line's own way of backing up."""
        if self.site.back_up is None:
            progress.warn("no fresh backup was taken: no writer key was given (--writer-key); take one now: bbr backup")
            return
        progress.step("taking a fresh backup")
        self.site.back_up(self.site)

    def verify(self) -> None:
        """A backup verifies itself."""

    def undo(self) -> None:
        """There is none."""


@dataclass(frozen=True, slots=True)
class ClearUpload:
    """The uploaded snapshot holds Secrets, and has done its work."""

    site: Site
    name: ClassVar[str] = "clear"
    title: ClassVar[str] = "remove the uploaded snapshot from the machines"
    undo_text: ClassVar[str] = ""
    superseded_by: ClassVar[str] = ""

    def observe(self) -> Observation:
        """Gone everywhere."""
        path = self.site.remote / "snapshot.db"
        found = on_each(self.site.plan.members, lambda host: self.site.machine(host).stat(path) is not None)
        left = [name for name, there in found.items() if there]
        return todo(f"still on {', '.join(left)}") if left else done("it is on none of them")

    def act(self, progress: Progress) -> None:
        """Remove it."""
        progress.step(self.title)
        remove_snapshot(self.site)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when it is still there."""
        if self.observe().state != "done":
            raise PreconditionFailed("the uploaded snapshot could not be removed")

    def undo(self) -> None:
        """There is none."""


def put_into_service(site: Site, programs: tuple[str, ...]) -> None:
    """Start programs on all members, from their own manifests: the new ones, or those that were parked."""

    def one(host: PlannedHost) -> None:
        machine = site.machine(host)
        staged = staged_manifests(site, host) if host.takes_after else {}
        for program in programs:
            if program in staged and not site.layout.is_in_service(machine, program):
                site.layout.install(machine, program, staged[program])
            elif not host.takes_after:
                site.layout.put_back(machine, program, parked(site))

    on_each(site.plan.worked_on, one)


def _wanted(site: Site, host: PlannedHost) -> frozenset[str]:
    """The programs that this master had, or is to get."""
    if host.takes_after:
        return frozenset(staged_manifests(site, host))
    return frozenset((*site.layout.programs(site.machine(host)), *manifests_in(site, host, PARKED)))


def _is_renewed(site: Site, api: ApiServer, node: str) -> bool:
    """Whether a node's lease was written after the restore: what came back with the snapshot says nothing.

    A restored lease has a revision below the bumped one; no clock is asked.
    """
    try:
        version = int(api.get(path_of(NODE_LEASES, node))["metadata"]["resourceVersion"])
    except NotFoundObject:
        return False
    return site.plan.kind == "repair" or version > site.plan.source.etcd.revision + site.plan.choices.bump


def _heard(problem: Callable[[], str]) -> str:
    """The problem; an API server that does not answer just now is one, and a wait goes on."""
    try:
        return problem()
    except NotReady as err:
        return str(err)


def _problems_of(site: Site, problem: Callable[[PlannedHost], str], well: str) -> Observation:
    found = _first_problem(site, problem)
    return todo(found) if found else done(well)


def _first_problem(site: Site, problem: Callable[[PlannedHost], str]) -> str:
    def one(host: PlannedHost) -> str:
        try:
            return problem(host)
        except BbrError as err:
            return str(err)

    found = on_each(site.plan.worked_on, one)
    return next((f"{name}: {text}" for name, text in found.items() if text), "")
