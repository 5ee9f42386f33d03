"""What a plan is made of, seen side by side: machines, the archive, what of the old cluster still answers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bbr.errors import BbrError, EtcdError, KeyRefused, PartDamaged
from bbr.etcd.client import EtcdClient
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.threads import pool
from restore.counting import Counted, count_objects
from restore.facts import Facts, Live, LiveMember
from restore.guard import Reachable
from restore.iaas.iaas import Iaas, Known, machine_of
from restore.iaas.site import Site as Place
from restore.oldcluster import read_old_cluster
from restore.reach import Reach
from restore.safety import Safety
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
    safety: Safety | None,
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
        census = _Census({} if safety else counts.result(), backup.manifest.etcd(etcd).revision)
        looks = {one.name: threads.submit(_look, iaas, one, census) for one in wanted}
        seen = {name: future.result() for name, future in looks.items()}
        stored = files.result()
        inventory_counts = counts.result()
    surveys = {name: one[0] for name, one in seen.items() if isinstance(one[0], Survey)}
    lives = {name: one[1] for name, one in seen.items() if name in surveys}
    live = _together(lives)
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
        unreachable={name: one[0] for name, one in seen.items() if isinstance(one[0], BbrError)},
        can_fence=place.fence is not None,
        highest_revision=max([*revisions, live.revision, safety.highest_revision if safety else 0]),
        live=live,
        lives=lives,
        inventory_counts={} if safety else inventory_counts,
        now=datetime.now(UTC).replace(microsecond=0),
        safety=safety,
    )


def _look(iaas: Iaas, known: Known, census: _Census) -> tuple[Survey | BbrError, Live]:
    try:
        made = iaas.get(known.name)
        if made is None or made.state == "off":
            return _not_there(known, is_made=made is not None), Live()
        with machine_of(made) as machine:
            seen = survey(machine)
            return seen, _live(machine, seen, census)
    except BbrError as err:
        return err, Live()


def _not_there(known: Known, *, is_made: bool) -> BbrError:
    if is_made:
        return BbrError(f"{known.name} ({known.address}) is off", hint="switch it on")
    return BbrError(f"{known.name} does not exist", hint=f"make it: --make {known.name}")


class _Census:
    """Objects are counted once, on the first member that answers."""

    def __init__(self, before: Mapping[str, int], since: int) -> None:
        self._before, self._since = before, since
        self._lock = threading.Lock()
        self._is_done = False

    def take(self, client: EtcdClient) -> Counted:
        with self._lock:
            if self._is_done:
                return Counted()
            self._is_done = True
        try:
            return count_objects(client, self._before, since=self._since)
        except EtcdError:
            return Counted()  # a plan is made without it, too


def _together(lives: Mapping[str, Live]) -> Live:
    """What answers anywhere, as one. The longest member list counts: a member that was cut off may have an old one."""
    if not lives:
        return Live()
    every = list(lives.values())
    counted = max(every, key=lambda one: len(one.counts))
    return replace(
        counted,
        revision=max(one.revision for one in every),
        members=max((one.members for one in every), key=len),
        has_leader=any(one.has_leader for one in every),
        is_api_answering=any(one.is_api_answering for one in every),
    )


def _live(machine: Reachable, seen: Survey, census: _Census) -> Live:
    """What still answers there. That it does not answer is what a restore is for, and no error."""
    is_api_answering = "kube-apiserver" in seen.running
    if "etcd" not in seen.running or seen.etcd is None:
        return Live(is_api_answering=is_api_answering)
    ca_file = seen.etcd.file("trusted-ca-file") if seen.etcd.flags.get("cert-file") else None
    pair = tuple(str(seen.etcd.file(flag) or "") for flag in ("cert-file", "key-file"))
    try:
        with Reach().etcd(machine, str(ca_file or ""), pair=(pair[0], pair[1])) as client:
            status = client.status()
            members = tuple(LiveMember(one.name, one.peer_urls, one.is_learner) for one in client.members())
            counted = census.take(client)
        return Live(
            status.revision,
            members,
            bool(status.leader_id),
            is_api_answering,
            counted.counts,
            counted.others,
            counted.newest,
        )
    except BbrError:
        return Live(is_api_answering=is_api_answering)


def _counts(archive: Archive, backup: Backup, etcd: str) -> Mapping[str, int]:
    try:
        found = archive.inventory(backup).objects.get(etcd, {})
        # What an earlier restore bumped its revisions with is a record whose key is empty, and nobody's object.
        return {prefix: count for prefix, count in found.items() if prefix}
    except (KeyRefused, PartDamaged):
        return {}
