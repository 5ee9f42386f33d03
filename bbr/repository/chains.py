"""How manifests must fit together: every rule that compares one with another. Pure.

Each writer links its manifests of one cluster by ``previous``, across generations, and notes the newest that it saw of
the other writers in ``heads``. So a manifest that was dropped is missed by the next, whoever holds the store. Inside a
generation sequences count from 0 without a gap. An increment needs the manifest that it builds upon, down to a base.
Nothing here refuses to restore: a damaged chain is reported, and what can still be restored can.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from bbr.repository.acceptance import CLOCK_TOLERANCE
from bbr.repository.backups import Backup, Finding, Severity


def chain_findings(backups: Sequence[Backup]) -> list[Finding]:
    """What is wrong between manifests, of one cluster or of several."""
    known = {backup.sha256: backup for backup in backups}
    findings: list[Finding] = []
    for backup in backups:
        findings += _link_findings(backup, known)
    findings += _fork_findings(backups)
    ids = Counter(backup.manifest.backup_id for backup in backups)
    for backup in backups:
        if ids[backup.manifest.backup_id] > 1:
            text = f"{backup.manifest.backup_id} is the id of several backups"
            findings.append(_finding("error", "id", backup, text))
    return findings


def chain_places(backups: Sequence[Backup]) -> dict[str, int]:
    """For each manifest, by its hash, a number that is higher than those of its writer's that come before it.

    What follows one that is gone comes after all of the chain that are left from before the gap.
    """
    previous = {backup.sha256: backup.manifest.previous for backup in backups}
    places: dict[str, int] = {}
    for backup in backups:
        # A manifest holds the hash of the one before it, so there is no way to make a ring of them.
        way = [backup.sha256]
        while (before := previous[way[-1]]) in previous and before not in places:
            way.append(before)
        first = 0 if before is None else len(backups)
        start = places[before] + 1 if before in places else first
        for place, sha256 in enumerate(reversed(way), start):
            places.setdefault(sha256, place)
    return places


def heads(backups: Iterable[Backup]) -> dict[tuple[str, str], Backup]:
    """The end of each chain, by (cluster, writer): what no other names as its previous; the newest where it forks.

    ``backups`` come oldest first.
    """
    listed = list(backups)
    named = {(backup.manifest.writer, backup.manifest.previous) for backup in listed}
    ends: dict[tuple[str, str], Backup] = {}
    for backup in listed:
        if (backup.manifest.writer, backup.sha256) not in named:
            ends[backup.manifest.cluster, backup.manifest.writer] = backup
    return ends


class Parents:
    """Finds what an increment builds upon."""

    def __init__(self, backups: Iterable[Backup]) -> None:
        self._by_sha256: dict[str, Backup] = {}
        self._by_place: defaultdict[tuple[str, str, int], list[Backup]] = defaultdict(list)
        for backup in backups:
            manifest = backup.manifest
            self._by_sha256[backup.sha256] = backup
            self._by_place[manifest.cluster, manifest.generation, manifest.sequence].append(backup)

    def parent(self, backup: Backup, sequence: int) -> Backup | None:
        """The backup of ``sequence`` that ``backup`` comes after. Where several have that number, the chain decides."""
        manifest = backup.manifest
        candidates = self._by_place.get((manifest.cluster, manifest.generation, sequence), [])
        if len(candidates) <= 1:
            return candidates[0] if candidates else None
        before = self._by_sha256.get(manifest.previous or "")
        while before is not None and before.manifest.generation == manifest.generation:
            if before.manifest.sequence <= sequence:
                return before if before.manifest.sequence == sequence else None
            before = self._by_sha256.get(before.manifest.previous or "")
        return None

    def chain(self, backup: Backup, etcd: str) -> tuple[list[Backup], str]:
        """All that ``backup`` needs for one etcd, base first, and what is missing below that; "" when it is whole."""
        links = [backup]
        while (sequence := links[-1].manifest.etcd(etcd).parent) is not None:
            child = links[-1]
            parent = self.parent(child, sequence)
            if parent is None:
                return links[::-1], (
                    f"{child.manifest.backup_id} builds upon sequence {sequence} of generation "
                    f"{child.manifest.generation}, which is missing"
                )
            problem = _misfit(child, parent, etcd)
            if problem:
                return links[::-1], problem
            links.append(parent)
        return links[::-1], ""


def unrestorable(backups: Sequence[Backup], parents: Parents) -> dict[str, str]:
    """Which backups (by object name) lack something that an etcd of theirs builds upon, and what.

    Parents are judged before what builds upon them, so this takes one step for each backup, however long a chain is.
    """
    broken: dict[str, str] = {}
    for backup in sorted(backups, key=_by_sequence):
        for entry in backup.manifest.etcds:
            if entry.parent is None:
                continue
            parent = parents.parent(backup, entry.parent)
            if parent is None:
                problem = f"etcd {entry.name} builds upon sequence {entry.parent} of its generation, which is missing"
            else:
                problem = broken.get(parent.object_name, "") or _misfit(backup, parent, entry.name)
            if problem:
                broken[backup.object_name] = problem
    return broken


def _by_sequence(backup: Backup) -> int:
    return backup.manifest.sequence


def _misfit(child: Backup, parent: Backup, etcd: str) -> str:
    """Why ``parent`` cannot be what ``child`` builds upon; or ""."""
    own = child.manifest.etcd(etcd)
    base = next((entry for entry in parent.manifest.etcds if entry.name == etcd), None)
    if base is None:
        return f"{child.manifest.backup_id} builds upon {parent.manifest.backup_id}, which has no etcd {etcd}"
    if base.cluster_id != own.cluster_id or parent.manifest.epoch != child.manifest.epoch:
        return f"{child.manifest.backup_id} builds upon {parent.manifest.backup_id}, which is of another etcd or epoch"
    return ""


def _link_findings(backup: Backup, known: Mapping[str, Backup]) -> list[Finding]:
    manifest = backup.manifest
    findings = [
        _finding("error", "missing", backup, f"writer {manifest.writer} had seen manifest {head}, which is gone")
        for head in manifest.heads
        if head not in known
    ]
    if manifest.previous is None:
        if manifest.sequence:
            findings.append(_finding("error", "sequence", backup, f"begins a chain at sequence {manifest.sequence}"))
        return findings
    before = known.get(manifest.previous)
    if before is None:
        findings.append(_finding("error", "missing", backup, f"the manifest before it, {manifest.previous}, is gone"))
        return findings
    previous = before.manifest
    if (previous.writer, previous.cluster) != (manifest.writer, manifest.cluster):
        findings.append(_finding("error", "chain", backup, f"follows {before.object_name}, of another chain"))
    elif previous.generation == manifest.generation and previous.sequence + 1 != manifest.sequence:
        text = f"has sequence {manifest.sequence} after {previous.sequence}"
        findings.append(_finding("error", "sequence", backup, text))
    elif previous.generation != manifest.generation and manifest.sequence:
        text = f"begins a generation at sequence {manifest.sequence}"
        findings.append(_finding("error", "sequence", backup, text))
    if previous.time > manifest.time + CLOCK_TOLERANCE:
        text = f"claims {manifest.time:%Y-%m-%d %H:%M} UTC; the one before it {previous.time:%Y-%m-%d %H:%M} UTC"
        findings.append(_finding("note", "time", backup, text))
    if previous.cluster_identity != manifest.cluster_identity:
        text = f"is of cluster {manifest.cluster_identity}; the one before it of {previous.cluster_identity}"
        findings.append(_finding("note", "identity", backup, text))
    return findings


def _fork_findings(backups: Sequence[Backup]) -> list[Finding]:
    followers: defaultdict[tuple[str, str, str | None], list[Backup]] = defaultdict(list)
    for backup in backups:
        manifest = backup.manifest
        followers[manifest.cluster, manifest.writer, manifest.previous].append(backup)
    return [
        _finding("error", "fork", later, f"follows the same manifest as {first.object_name}: two hosts use one key")
        for first, *more in followers.values()
        for later in more
    ]


def _finding(severity: Severity, kind: str, backup: Backup, message: str) -> Finding:
    return Finding(severity, kind, backup.manifest.cluster, backup.object_name, message)
