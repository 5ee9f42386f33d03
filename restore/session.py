"""Opening a run: its folder and lock, the inventory, the machines, and all that it needs from the archive.

Everything is fetched and verified before the first step, so that a store that goes away in the middle stops nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bbr.errors import Drift, ExternalAuthority, PreconditionFailed
from bbr.etcd.granted import granted_leases
from bbr.etcd.snapshot import Snapshot
from bbr.layouts.pki import AUTHORITIES, PKI
from bbr.progress import Progress
from bbr.rebuild import rebuild
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.repository.hostfiles import HostFile, HostFiles
from bbr.scratch import scratch_folder
from restore.canary import canaries, check_canaries
from restore.etcd import bumped_hash_kv
from restore.fleet import Fleet
from restore.guard import check_free
from restore.iaas.site import Site as Place
from restore.newfiles import Given, requests_of
from restore.oldcluster import read_old_cluster
from restore.plan import Plan
from restore.runfolder import RunFolder, new_token
from restore.safety import planned_safety
from restore.site import LASTING_S, Material, Site, layout_of
from restore.steps.files import check_places
from restore.survey import survey


def find_planned(archive: Archive, plan: Plan) -> Backup:
    """The backup of a plan. Raises `Drift` when the archive does not hold just that one any more."""
    for backup in archive.catalog.backups:
        if backup.manifest.backup_id == plan.source.backup_id:
            if backup.sha256 != plan.source.manifest_sha256:
                raise Drift(f"{plan.source.backup_id} is not the backup that was planned with: its manifest differs")
            return backup
    raise Drift(
        f"the archive does not hold {plan.source.backup_id} any more",
        hint="make a new plan from one that `bbr list` shows",
    )


def check_inventory(plan: Plan, inventory: Path) -> None:
    """Raises `Drift` when the inventory was changed since the plan was made."""
    try:
        digest = hashlib.sha256(inventory.read_bytes()).hexdigest()
    except OSError as err:
        raise Drift(f"the plan's inventory {inventory} cannot be read: {err.strerror}") from err
    if digest != plan.inventory_sha256:
        raise Drift(f"{inventory} was changed since the plan was made", hint="make a new plan")


def check_drift(plan: Plan, fleet: Fleet) -> None:
    """Raises `Drift` when a machine is not as it was when the plan was made. Only before the first step.

    And `HeldByAnotherRun` when another run works there: what it changes would look like drift.
    """
    changed = []
    for host in plan.hosts:
        check_free(fleet.bare(host.name), plan.run)
        seen = survey(fleet.bare(host.name))
        if seen.fingerprint != host.facts_sha256:
            changed.append(host.name)
    if changed:
        raise Drift(
            f"somebody worked on {', '.join(changed)} since the plan was made: its files, programs or data differ",
            hint="look at what it was, and make a new plan",
        )


@contextmanager
def fetched(
    archive: Archive, backup: Backup, plan: Plan, folder: Path, progress: Progress, *, given: Given | None = None
) -> Iterator[Material]:
    """All that the steps need, in a scratch folder that does not outlive the run. Raises what fetching raises.

    ``given``: what authorities outside have signed. Raises `ExternalAuthority` when that is not all that it takes.
    """
    with scratch_folder(folder) as scratch:
        progress.step("fetching the control plane's files")
        files = _files(archive, backup)
        needed = {host.takes_after for host in plan.members if host.takes_after}
        missing = needed - files.keys()
        if missing:
            raise PreconditionFailed(f"the backup has no files of {', '.join(sorted(missing))}")
        for name in needed:
            check_places(files[name])
        _check_given(plan, files, given or {})
        if plan.source.safety_run:
            progress.step(f"checking the safety snapshot of {plan.source.safety_run}")
            rebuilt = planned_safety(folder, plan)
        else:
            rebuilt = rebuild(archive, backup, plan.source.etcd.name, scratch / "snapshot.db", progress=progress)
        target = rebuilt.path
        bumped = rebuilt.revision + plan.choices.bump
        with Snapshot.open(target) as snapshot:
            hash_kv = bumped_hash_kv(snapshot, bumped)
            granted = granted_leases(snapshot.reader)
        leases = frozenset(one for one, seconds in granted.items() if seconds >= LASTING_S)
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check_readable(plan, files, target)
        yield Material(target, digest, rebuilt, bumped, hash_kv, leases, files, given or {})


@contextmanager
def opened_site(
    plan: Plan,
    folder: RunFolder,
    place: Place,
    *,
    material: Material | None,
    programs: tuple[Path, ...] = (),
    back_up: Callable[[Site], str] | None = None,
) -> Iterator[tuple[Site, Fleet]]:
    """The site of a plan, its machines opened and taken as they are needed."""
    names = tuple(host.name for host in plan.hosts)
    with Fleet(place.iaas, names, run=plan.run, token=new_token()) as fleet:
        yield (
            Site(
                plan=plan,
                machines=fleet,
                layout=layout_of(plan),
                place=place,
                folder=folder,
                programs=programs,
                material=material,
                back_up=back_up,
            ),
            fleet,
        )


def _check_given(plan: Plan, files: Mapping[str, tuple[HostFile, ...]], given: Given) -> None:
    """Raises `ExternalAuthority` for certificates that are to be signed elsewhere and were not given."""
    donors = [file.path for host in plan.members if host.takes_after for file in files[host.takes_after]]
    if not donors or all(PKI / f"{name}.key" in donors for name in AUTHORITIES):
        return  # making requests takes seconds
    lacking = [f"{host}: {csr.path}" for host, csr in requests_of(plan, read_old_cluster(HostFiles({}, files)), given)]
    if lacking:
        raise ExternalAuthority(
            f"an authority whose key is not in the backup must have signed {', '.join(lacking)}",
            hint="name the folder that the plan was made with: --certificates DIR",
        )


def _check_readable(plan: Plan, files: Mapping[str, tuple[HostFile, ...]], snapshot: Path) -> None:
    """Raises `PreconditionFailed` when new masters would get an encryption configuration that opens nothing."""
    if plan.kind == "fresh":
        keys = read_old_cluster(HostFiles({}, files)).keys
        if keys is not None:
            check_canaries(
                canaries(snapshot),
                keys.encryption,
                what=f"the backup's {keys.encryption_path}" if keys.encryption_path else "the backup",
                hint="choose a backup of a time when the configuration was there: `bbr list` shows which are whole",
            )


def _files(archive: Archive, backup: Backup) -> Mapping[str, tuple[HostFile, ...]]:
    stored = archive.control_plane(backup)
    return stored.hosts if stored is not None else {}
