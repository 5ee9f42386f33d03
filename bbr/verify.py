"""Proving a backup, at one of three depths.

    stored     every root, sealed key, manifest and part that the backup needs is there, whole, and signed for;
               no key is needed
    readable   and it opens, rebuilds, and has the HashKV that its manifest promises
    bootable   and a real etcd, from a data directory that etcdutl made of it without a bump, answers that HashKV

Checks only read. Each is a line of the report, passed or not, and all are made: the first that fails hides no other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from bbr.errors import (
    HashMismatch,
    ManifestInvalid,
    NotFound,
    PartDamaged,
    VerificationFailed,
)
from bbr.etcd.auth import disable_auth
from bbr.etcd.tools import Etcdutl
from bbr.progress import Progress
from bbr.rebuild import rebuild
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from bbr.repository.epoch import check_sealed
from bbr.repository.manifest import PartRef
from bbr.repository.parts import check_part
from bbr.repository.root import Administrator, Reader
from bbr.repository.transfer import read_part
from bbr.scratch import scratch_folder
from bbr.servers.etcd import boot_etcd
from bbr.threads import pool

Level = Literal["stored", "readable", "bootable"]

_THREADS = 4
SCRATCH_TOKEN = "bbr-scratch"  # noqa: S105 - etcd's word for the name of a new cluster, no secret


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``detail`` says what was seen, or what is wrong."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BootTools:
    """The programs that the level ``bootable`` needs: those of the backup's own etcd version."""

    etcd: Path
    etcdutl: Etcdutl


def verify_stored(archive: Archive, backup: Backup | None, *, progress: Progress) -> Iterator[Check]:
    """Check all that one backup needs, or with None all that the repository holds. Needs no key.

    Damage is never raised, it is a check that did not pass; raises what the store raises when it does not answer.
    """
    progress.step("reading what is stored")
    yield _check("root", partial(_root, archive))
    yield _check("sealed keys", partial(_sealed_keys, archive))
    yield _check("catalog", partial(_findings, archive, backup))
    links = _links(archive, backup)
    total = sum(part.size_bytes for link in links for part in link.manifest.parts)
    done = 0
    for link in links:
        yield _check(f"{link.manifest.backup_id}: manifest", partial(_manifest, archive, link))
        yield _check(f"{link.manifest.backup_id}: parts", partial(_parts, archive, link.manifest.parts))
        done += sum(part.size_bytes for part in link.manifest.parts)
        progress.advance(done, total)


def verify_readable(
    archive: Archive, backup: Backup, *, scratch: Path, boot: BootTools | None, progress: Progress
) -> Iterator[Check]:
    """Open and rebuild one backup in a folder of ``scratch``, and with ``boot`` start a real etcd on it.

    Raises `KeyRefused` when no identity opens it, `NoSpace`, and what the store raises when it does not answer.
    """
    manifest = backup.manifest
    yield _check(f"{manifest.backup_id}: inventory", partial(_inventory, archive, backup))
    if manifest.control_plane is not None:
        yield _check(f"{manifest.backup_id}: control plane", partial(_control_plane, archive, backup))
    for entry in manifest.etcds:
        with scratch_folder(scratch) as folder:
            target = folder / "snapshot.db"
            name = f"{manifest.backup_id}: etcd {entry.name}"
            yield _check(f"{name} readable", partial(_readable, archive, backup, entry.name, target, progress))
            if boot is not None and target.exists():
                progress.step(f"booting etcd {entry.name} of {manifest.backup_id}")
                yield _check(f"{name} bootable", partial(_bootable, boot, target, entry.revision, entry.hash_kv))


def _check(name: str, look: Callable[[], str]) -> Check:
    began = time.monotonic()
    try:
        detail, passed = look(), True
    except (VerificationFailed, NotFound) as err:
        detail, passed = str(err), False
    return Check(name, passed, detail, time.monotonic() - began)


def _root(archive: Archive) -> str:
    root = archive.trusted.root
    return f"number {root.number}, every number up to it signed by the one before"


def _sealed_keys(archive: Archive) -> str:
    root = archive.trusted.root
    holders: list[Administrator | Reader] = [*root.administrators]
    holders += [reader for epoch in root.epochs for reader in epoch.readers]
    for holder in holders:
        check_sealed(archive.store, holder)
    return f"{len(holders)} as the root says"


def _findings(archive: Archive, backup: Backup | None) -> str:
    errors = [finding for finding in archive.catalog.findings if finding.severity == "error"]
    needed = {link.object_name for link in _links(archive, backup)}
    concerned = [finding for finding in errors if backup is None or finding.object_name in needed]
    if concerned:
        raise ManifestInvalid("; ".join(str(finding) for finding in concerned))
    if errors:
        return f"nothing against this one; {len(errors)} findings about others, which `bbr list` shows"
    return f"{len(archive.catalog.backups)} manifests, their chains unbroken"


def _links(archive: Archive, backup: Backup | None) -> list[Backup]:
    """Every backup that is needed, each once, oldest first."""
    if backup is None:
        return list(archive.catalog.backups)
    links: dict[str, Backup] = {}
    for entry in backup.manifest.etcds:
        for link in archive.catalog.chain(backup, entry.name):
            links[link.object_name] = link
    return list(links.values())


def _manifest(archive: Archive, backup: Backup) -> str:
    """The catalog may come from this host's cache: read the stored manifest once more."""
    body = archive.store.get(backup.object_name, limit_bytes=backup.size_bytes)
    if hashlib.sha256(body).hexdigest() != backup.sha256:
        raise ManifestInvalid(f"{backup.object_name} is not what was listed")
    return f"signed by writer {backup.manifest.writer}"


def _parts(archive: Archive, parts: Sequence[PartRef]) -> str:
    with pool(_THREADS, "verify") as threads:
        problems = [problem for problem in threads.map(partial(_part_problem, archive), parts) if problem]
    if problems:
        raise PartDamaged("; ".join(problems))
    return f"{len(parts)} parts, {sum(part.size_bytes for part in parts):,} bytes"


def _part_problem(archive: Archive, part: PartRef) -> str:
    try:
        check_part(read_part(archive.store, part), part)
    except PartDamaged as err:
        return str(err)
    return ""


def _inventory(archive: Archive, backup: Backup) -> str:
    counts = {name: sum(prefixes.values()) for name, prefixes in archive.inventory(backup).objects.items()}
    return ", ".join(f"{name}: {count:,} objects" for name, count in sorted(counts.items()))


def _control_plane(archive: Archive, backup: Backup) -> str:
    taken = archive.control_plane(backup)
    hosts = taken.hosts if taken else {}
    return ", ".join(f"{host}: {len(files)} files" for host, files in sorted(hosts.items()))


def _readable(archive: Archive, backup: Backup, etcd: str, target: Path, progress: Progress) -> str:
    rebuilt = rebuild(archive, backup, etcd, target, progress=progress)
    return f"HashKV {rebuilt.hash_kv} at revision {rebuilt.revision}, as promised"


def _bootable(tools: BootTools, snapshot: Path, revision: int, hash_kv: int) -> str:
    """Without a bump: after one, the member would answer "compacted" for the manifest's revision. Without users either:
    nobody here knows their passwords, and HashKV does not cover them."""
    disable_auth(snapshot)
    data_dir = snapshot.parent / "data"
    peer_url = "http://127.0.0.1:2380"
    tools.etcdutl.restore(
        snapshot,
        data_dir,
        name="scratch",
        initial_cluster=f"scratch={peer_url}",
        peer_urls=peer_url,
        token=SCRATCH_TOKEN,
        bump=0,
        mark_compacted=False,
    )
    with boot_etcd(tools.etcd, data_dir) as member, member.client() as client:
        answer = client.hash_kv(revision)
    if answer.hash != hash_kv:
        raise HashMismatch(f"etcd answers HashKV {answer.hash} at revision {revision}; the manifest promises {hash_kv}")
    return f"etcd {tools.etcdutl.version} answers HashKV {answer.hash} at revision {revision}"
