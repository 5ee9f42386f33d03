"""What a plan is made of, seen side by side: machines, the archive, what of the old cluster still answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bbr.errors import BbrError, KeyRefused, PartDamaged
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.threads import pool
from restore.draft import Facts, Live
from restore.guard import Reachable
from restore.iaas.iaas import Iaas, Known, machine_of
from restore.iaas.site import Site as Place
from restore.oldcluster import read_old_cluster
from restore.reach import Reach
from restore.survey import Survey, survey

BOUND_HOSTS = 8


def gather(
    archive: Archive,
    backup: Backup,
    place: Place,
    *,
    etcd: str,
    repository: str,
    inventory: Path,
    skipped: frozenset[str],
    progress: Progress,
) -> Facts:
    """Look at everything; change nothing. ``skipped`` machines are known to be gone.

    Raises `KeyRefused`, `PartDamaged`. A machine that cannot be reached is a fact, no error: `draft` decides whether
    it is needed.
    """
    iaas = place.iaas
    info = iaas.info()
    known = {one.name: one for one in info.known}
    wanted = [one for one in info.known if one.role != "worker" and one.name not in skipped]
    progress.step(f"looking at {', '.join(one.name for one in wanted) or 'no machine'}")
    with pool(BOUND_HOSTS + 1, "survey") as threads:
        files = threads.submit(archive.control_plane, backup)
        counts = threads.submit(_counts, archive, backup, etcd)
        looks = {one.name: threads.submit(_look, iaas, one) for one in wanted}
        seen = {name: future.result() for name, future in looks.items()}
        stored = files.result()
        inventory_counts = counts.result()
    surveys = {name: one[0] for name, one in seen.items() if isinstance(one[0], Survey)}
    lives = [one[1] for one in seen.values() if isinstance(one[0], Survey)]
    live = max(lives, key=lambda one: one.revision, default=Live())
    same = [one for one in archive.catalog.backups if one.manifest.cluster == backup.manifest.cluster]
    revisions = [entry.revision for one in same for entry in one.manifest.etcds if entry.name == etcd]
    return Facts(
        repository=repository,
        inventory=str(inventory.absolute()),
        inventory_sha256=hashlib.sha256(inventory.read_bytes()).hexdigest(),
        backup=backup,
        etcd=etcd,
        old=read_old_cluster(stored) if stored is not None else None,
        known=known,
        surveys=surveys,
        unreachable={name: str(one[0]) for name, one in seen.items() if not isinstance(one[0], Survey)},
        can_fence=place.fence is not None,
        highest_revision=max([*revisions, live.revision]),
        live=live,
        inventory_counts=inventory_counts,
        now=datetime.now(UTC).replace(microsecond=0),
    )


def _look(iaas: Iaas, known: Known) -> tuple[Survey | BbrError, Live]:
    try:
        made = iaas.get(known.name)
        if made is None or made.state == "off":
            return BbrError("it is off" if made else "it does not exist"), Live()
        with machine_of(made) as machine:
            seen = survey(machine)
            return seen, _live(machine, seen)
    except BbrError as err:
        return err, Live()


def _live(machine: Reachable, seen: Survey) -> Live:
    """What still answers there. That it does not answer is what a restore is for, and no error."""
    is_api_answering = "kube-apiserver" in seen.running
    if "etcd" not in seen.running or seen.etcd is None:
        return Live(is_api_answering=is_api_answering)
    ca_file = seen.etcd.file("trusted-ca-file") if seen.etcd.flags.get("cert-file") else None
    try:
        with Reach().etcd(machine, str(ca_file or "")) as client:
            revision = client.status().revision
            members = tuple(member.name for member in client.members())
        return Live(revision, members, is_api_answering)
    except BbrError:
        return Live(is_api_answering=is_api_answering)


def _counts(archive: Archive, backup: Backup, etcd: str) -> Mapping[str, int]:
    try:
        return archive.inventory(backup).objects.get(etcd, {})
    except (KeyRefused, PartDamaged):
        return {}
