"""Where a restore works: its plan, the machines it holds, and what was fetched before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from bbr.apiserver.client import ApiServer
from bbr.apiserver.objects import Saved, saved_from_text
from bbr.errors import PreconditionFailed
from bbr.etcd.client import EtcdClient
from bbr.layouts.detect import named
from bbr.layouts.layout import Layout
from bbr.layouts.mixed import Mixed
from bbr.machines.machine import Machine
from bbr.rebuild import Rebuilt
from bbr.repository.hostfiles import HostFile, HostFiles
from bbr.threads import pool
from restore.guard import RUNS, GuardedMachine
from restore.iaas.site import Site as Place
from restore.newfiles import Given, new_files
from restore.oldcluster import read_old_cluster
from restore.plan import Plan, PlannedHost
from restore.reach import API_PORT, Reach
from restore.readkeys import Keys
from restore.runfolder import RunFolder

T = TypeVar("T")

SLASH = "+"
"""For the slashes of an object's path in the name of a file: no name of an object has it."""

LASTING_S = 600
"""Shorter leases run out while a member starts, or before a killed run is resumed: an API server's own has 15 s."""

BOUND_HOSTS = 8
"""Machines that are worked on at once."""


@dataclass(frozen=True, slots=True)
class Material:
    """What came from the archive, checked: nothing is fetched after the first step.

    ``bumped_revision`` and ``bumped_hash_kv`` are what every member must answer once it runs. ``leases`` are
    the lasting ones, which must come back beside the keys. ``files`` are those of each host of the backup, secrets
    among them.
    """

    snapshot: Path
    snapshot_sha256: str
    rebuilt: Rebuilt
    bumped_revision: int
    bumped_hash_kv: int
    leases: frozenset[int]
    files: Mapping[str, tuple[HostFile, ...]] = field(repr=False)
    given: Given = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Site:
    """All that steps share. ``machines`` are by host name; ``place`` is where they come from.

    ``folder`` is the run's, on the operator's host; ``programs`` the folder with etcdutl to upload, or None.
    ``back_up`` takes the fresh backup that ends a restore, and returns its id; None where nobody can.
    """

    plan: Plan
    machines: Mapping[str, GuardedMachine]
    layout: Layout
    place: Place
    folder: RunFolder
    programs: tuple[Path, ...] = ()
    material: Material | None = None
    back_up: Callable[[Site], str] | None = None
    reach: Reach = field(default_factory=Reach)

    @property
    def remote(self) -> PurePosixPath:
        """The run's folder on every machine."""
        return RUNS / self.plan.run

    def machine(self, host: PlannedHost) -> GuardedMachine:
        """The machine of a host."""
        return self.machines[host.name]

    @property
    def first(self) -> GuardedMachine:
        """The machine on which what is done once is done."""
        return self.machines[self.plan.first.name]

    def new_files(self, host: PlannedHost) -> tuple[HostFile, ...]:
        """The files of a new master; keys are new at each call."""
        archive = HostFiles({}, self.source.files)
        return new_files(self.plan, read_old_cluster(archive), host, self.source.given)

    @property
    def old_keys(self) -> Keys | None:
        """What the backup's API servers read with; None where it says nothing of them."""
        try:
            return read_old_cluster(HostFiles({}, self.source.files)).keys
        except PreconditionFailed:
            return None

    def keep(self, saved: Saved, *, mark: str = "") -> None:
        """Write down what is about to be removed, before it is. ``mark`` begins its name, to be found by."""
        name = f"{mark}{saved.path.strip('/').replace('/', SLASH)}.json"
        self.folder.save(name, saved.text().encode())

    def kept(self, mark: str) -> tuple[Path, ...]:
        """What was written down with a mark."""
        return tuple(path for path in self.folder.saved() if path.name.startswith(mark))

    def read_kept(self, path: Path, mark: str) -> Saved:
        """What `keep` wrote."""
        name = path.name.removeprefix(mark).removesuffix(".json")
        return saved_from_text(f"/{name.replace(SLASH, '/')}", path.read_text(encoding="utf-8"))

    def etcd(self, host: PlannedHost) -> AbstractContextManager[EtcdClient]:
        """A client of the etcd on a host."""
        return self.reach.etcd(self.machine(host), host.ca_file, pair=(host.cert_file, host.key_file))

    def api(self, host: PlannedHost, *, port: int = API_PORT) -> AbstractContextManager[ApiServer]:
        """A client of the API server on a host."""
        return self.reach.api(self.machine(host), port)

    @property
    def source(self) -> Material:
        """What was fetched; every step that asks for it comes after the fetch."""
        if self.material is None:
            raise RuntimeError("nothing was fetched for this run")
        return self.material


def layout_of(plan: Plan) -> Layout:
    """How the machines of a plan run their programs: the one way that all have, or each its own."""
    layouts = {host.name: named(host.layout) for host in plan.hosts}
    if len({layout.name for layout in layouts.values()}) == 1:
        return next(iter(layouts.values()))

    def of(machine: Machine) -> Layout:
        return layouts[machine.name.partition(" ")[0]]  # "m1 (10.0.0.11)"; no host's name has a blank

    return Mixed(of)


def on_each(hosts: Iterable[PlannedHost], work: Callable[[PlannedHost], T]) -> dict[str, T]:
    """Do it on all hosts side by side. Waits for all, then raises the first error there was, by the hosts' order."""
    planned = list(hosts)
    with pool(BOUND_HOSTS, "restore") as threads:
        running = {host.name: threads.submit(work, host) for host in planned}
        failures = [error for future in running.values() if (error := future.exception()) is not None]
        if failures:
            raise failures[0]
        return {name: future.result() for name, future in running.items()}
