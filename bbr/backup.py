"""The way in: one backup of one cluster, as a checklist.

Everything is looked at before anything is stored: members are asked, every etcd is spooled, scanned and compared with
its server, and only then is it decided whether this is a base or an increment. Parts go first and are read back; the
signed manifest is last, and is the commit. Until then nothing is listed, and whatever a crash leaves is an orphan.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bbr.capture.cache import Cache, CacheFiles, Live
from bbr.capture.control_plane import ControlPlaneTaken, take_control_plane
from bbr.capture.etcd import Canaries, MemberSeen
from bbr.capture.generation import Place, place_run, why_new_generation
from bbr.capture.increment import Difference, added_records
from bbr.capture.take import Caution, Source, Taken, take_all
from bbr.errors import ClockSkew, IdentityConflict, PartialBackup, PreconditionFailed
from bbr.machines.machine import Machine
from bbr.progress import Progress
from bbr.repository import names
from bbr.repository.catalog import Backup, Catalog
from bbr.repository.document import one_line
from bbr.repository.frames import encode
from bbr.repository.heads import head_of, lost_finding
from bbr.repository.hostfiles import encode_host_files
from bbr.repository.inventory import encode_inventory
from bbr.repository.keys import SigningKey
from bbr.repository.manifest import (
    GENERATION_TERM,
    LINE_CHARACTERS,
    REASONS_LIMIT,
    ControlPlane,
    EtcdEntry,
    Manifest,
    MemberState,
    encode_manifest,
)
from bbr.repository.root import TrustedRoot
from bbr.repository.state import State
from bbr.repository.transfer import PartWriter, pieces, put_and_read_back, slices
from bbr.scratch import scratch_folder
from bbr.stores.store import Store

CLOCK_LIMIT = timedelta(minutes=15)
"""This host's clock may differ so much from the store's. Nothing trusts the host's; past it something is wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to back up, and what to put up with. Each ``accept_`` is recorded in the manifest when it was needed.

    ``masters``: whose control-plane files are taken, by the name that each has in the backup; none without any.
    """

    cluster: str
    sources: tuple[Source, ...]
    caution: Caution = field(default_factory=Caution)
    accept_identity: bool = False
    new_generation: bool = False
    masters: Mapping[str, Machine] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was committed. ``why_base`` is empty when every etcd went as an increment."""

    backup: Backup
    kinds: tuple[str, ...]
    why_base: str
    stored_bytes: int
    raw_bytes: int
    seconds: float
    warnings: tuple[str, ...]


def run(
    request: Request, *, store: Store, trusted: TrustedRoot, key: SigningKey, state: State, progress: Progress
) -> Outcome:
    """Back one cluster up. Returns once the backup is listed, complete, and was read back.

    Raises `PartialBackup` after a backup was committed that lacks something. Anything else that is raised means that
    nothing was committed, unless it is the manifest itself that could not be read back: then a listing tells.
    `HeldByAnotherRun` when this host is already at it.
    """
    started = time.monotonic()
    trusted.root.check_writer(key.key_id, request.cluster)
    with state.run_lock(request.cluster), scratch_folder(state.spool) as spool, ExitStack() as opened:
        nonce = secrets.token_hex(8)
        began = _announce(store, request.cluster, key, nonce)
        catalog = Catalog.load(
            store, trusted, cluster=request.cluster, cache=state.manifests, memory=state.heads, progress=progress
        )
        for gone in catalog.lost:
            progress.warn(str(lost_finding(gone)))
        lost = next((gone.sha256 for gone in catalog.lost if gone.writer == key.key_id), None)
        newest = catalog.head(key.key_id)
        # What was lost is named all the same: so everybody learns of it.
        head = lost or (newest.sha256 if newest else None)
        caches = CacheFiles(state.caches, request.cluster)
        cache = None if lost else caches.load(head)
        taken, missing = take_all(request.sources, cache, spool, opened, caution=request.caution, progress=progress)
        control = _take_control_plane(request, taken, began, progress)
        identity = _checked_identity(catalog, taken, request)
        why_base = (
            "a new generation was asked for"
            if request.new_generation
            else why_new_generation(
                cache,
                taken,
                began=began,
                epoch=trusted.root.epoch.id,
                is_known=head is not None,
                is_lost=lost is not None,
            )
        )
        chain = None if why_base else cache
        place = place_run(request.cluster, nonce, began=began, writer=key.key_id, chain=chain)
        parts = PartWriter(
            store,
            names.parts(place.cluster, place.generation, place.sequence, place.nonce),
            recipient=trusted.root.epoch.recipient,
            began=began,
            progress=progress,
        )
        entries = tuple(_store_etcd(one, parts, base=chain is None) for one in taken)
        inventory = parts.send([encode_inventory({one.source.name: one.examined.scan.live for one in taken})])
        control_plane = _store_control_plane(control, parts, newest, place) if control else None
        problems = [problem for one in taken for problem in one.capture.problems]
        reasons = tuple(missing + problems + list(control.problems if control else ()))[:REASONS_LIMIT]
        manifest = Manifest(
            repository_id=trusted.repository_id,
            root_number=trusted.root.number,
            cluster=request.cluster,
            cluster_identity=identity,
            generation=place.generation,
            sequence=place.sequence,
            nonce=nonce,
            previous=head,
            heads=_other_heads(catalog, key.key_id),
            epoch=trusted.root.epoch.id,
            time=parts.time,
            backup_id=names.backup_id(request.cluster, began, secrets.token_hex(2)),
            writer=key.key_id,
            status="partial" if reasons else "complete",
            reasons=tuple(one_line(reason, LINE_CHARACTERS) for reason in reasons),
            etcds=entries,
            control_plane=control_plane,
            inventory=inventory,
        )
        progress.step("committing")
        kept = {live.name: live for live in chain.etcds} if chain else {}
        fresh = {one.source.name: one.to_remember(place.sequence) for one in taken}
        backup = _commit(manifest, tuple((kept | fresh).values()), caches, store, key)
        if problem := state.heads.advance(head_of(backup)):
            progress.warn(problem)
    for warning in control.warnings if control else ():
        progress.warn(warning)
    outcome = _outcome(backup, taken, why_base, parts, time.monotonic() - started)
    if reasons:
        raise PartialBackup(
            f"backup {manifest.backup_id} is committed, and partial: {'; '.join(reasons)}",
            hint="the latest complete backup is the one before; mend this and run the backup again",
        )
    return outcome


def _announce(store: Store, cluster: str, key: SigningKey, nonce: str) -> datetime:
    """Record that a run began. The write tells the store's time, which no read can be trusted for."""
    stored = store.put(names.run_record(cluster, key.key_id, nonce), b"")
    off = abs(stored.time - datetime.now(UTC))
    if off > CLOCK_LIMIT:
        raise ClockSkew(
            f"this host's clock and the store's differ by {off}",
            hint="set this host's clock (timedatectl), then run the backup again",
        )
    return stored.time


def _checked_identity(catalog: Catalog, taken: Sequence[Taken], request: Request) -> str:
    """A cluster's name is bound to the cluster that it was first used for. The first etcd that was asked for tells."""
    # Not one that claims a later time than it was stored at: whoever wrote that could take the name over.
    newest = next((one.manifest for one in reversed(catalog.backups) if not catalog.doubt(one)), None)
    if newest and taken[0].source.name != request.sources[0].name:
        return newest.cluster_identity
    first = taken[0].capture
    identity = f"uid:{first.cluster_uid}" if first.cluster_uid else f"etcd:{first.cluster_id}"
    if newest and newest.cluster_identity != identity and not request.accept_identity:
        raise IdentityConflict(
            f"the name {request.cluster} belongs to cluster {newest.cluster_identity} "
            f"(backup {newest.backup_id}); this is cluster {identity}",
            hint="choose another --cluster name, or --accept-identity if this cluster really takes the other's place",
        )
    return identity


def _store_etcd(one: Taken, parts: PartWriter, *, base: bool) -> EtcdEntry:
    snapshot, capture, name = one.snapshot, one.capture, one.source.name
    if base or one.live is None or not isinstance(one.change, Difference):
        parent = None
        what, total = f"etcd {name}: sealing and storing a base", len(snapshot.whole)
        refs = parts.send(slices(snapshot.whole), what=what, total_bytes=total)
    else:
        parent = one.live.sequence
        records = added_records(snapshot.reader, one.examined.scan.revisions, one.change.added)
        stream = encode(one.change.removed, records, snapshot.small_buckets())
        what = f"etcd {name}: sealing and storing {len(one.change.added):,} new records"
        refs = parts.send(pieces(stream), what=what)
    return EtcdEntry(
        name=name,
        cluster_id=capture.cluster_id,
        member_id=capture.source.id,
        member_name=capture.source.name,
        server_version=capture.version,
        storage_version=snapshot.storage_version,
        members=tuple(_member_state(member) for member in capture.members),
        alarms=capture.alarms,
        revision=snapshot.revision,
        compact_revision=one.examined.compact_revision,
        hash_kv=one.examined.hash_kv,
        compared=capture.compared and one.examined.compared,
        not_compared_because=capture.not_compared_because,
        records=len(one.examined.scan.digests),
        page_size=snapshot.reader.page_size,
        snapshot_bytes=len(snapshot.whole),
        snapshot_sha256=snapshot.trailer.hex(),
        parent=parent,
        parts=refs,
    )


def _take_control_plane(
    request: Request, taken: Sequence[Taken], began: datetime, progress: Progress
) -> ControlPlaneTaken | None:
    """The masters' files, held against the first etcd that was asked for, where that could be taken."""
    if not request.masters:
        return None
    first = taken[0] if taken[0].source.name == request.sources[0].name else None
    canaries = first.capture.canaries if first else Canaries()
    return take_control_plane(request.masters, canaries, now=began, progress=progress)


def _store_control_plane(
    control: ControlPlaneTaken, parts: PartWriter, newest: Backup | None, place: Place
) -> ControlPlane | None:
    """Its parts: those that an earlier backup of the same generation stored, when nothing has changed since.

    None where no master could be read.
    """
    if not control.archive.hosts:
        return None
    body = encode_host_files(control.archive)
    sha256 = hashlib.sha256(body).hexdigest()
    before = newest.manifest if newest and newest.manifest.generation == place.generation else None
    if before and before.control_plane and before.control_plane.sha256 == sha256:
        return before.control_plane
    refs = parts.send(pieces([body]), what="control plane: sealing and storing its files", total_bytes=len(body))
    return ControlPlane(sha256, refs)


def _member_state(member: MemberSeen) -> MemberState:
    return MemberState(
        id=member.id,
        name=member.name,
        version=member.version,
        revision=member.revision,
        hash_kv=member.hash_kv,
        compact_revision=member.compact_revision,
        note=member.note,
    )


def _commit(manifest: Manifest, lives: tuple[Live, ...], caches: CacheFiles, store: Store, key: SigningKey) -> Backup:
    """Put the manifest. The cache is written before it and renamed after, so a kill between leaves it true."""
    opened = manifest.opened
    if manifest.time > opened + GENERATION_TERM:
        raise PreconditionFailed(
            f"the generation's term ended at {opened + GENERATION_TERM:%Y-%m-%d %H:%M} UTC, during this run",
            hint="nothing was committed; run the backup again, it starts a new generation",
        )
    body = encode_manifest(manifest, key)
    head = hashlib.sha256(body).hexdigest()
    caches.write_next(Cache(head, manifest.generation, opened, manifest.sequence, manifest.epoch, lives))
    name = names.manifest(manifest.cluster, manifest.generation, manifest.sequence, manifest.nonce)
    put_and_read_back(store, name, body)
    caches.promote()
    return Backup(manifest=manifest, object_name=name, sha256=head, size_bytes=len(body))


def _other_heads(catalog: Catalog, writer: str) -> tuple[str, ...]:
    """The newest manifests of all other writers, those that the store has lost among them."""
    seen = {other.manifest.writer: other.sha256 for other in catalog.heads()}
    lost = {head.writer: head.sha256 for head in catalog.lost}
    return tuple(sha256 for of, sha256 in sorted((seen | lost).items()) if of != writer)


def _outcome(backup: Backup, taken: Sequence[Taken], why_base: str, parts: PartWriter, seconds: float) -> Outcome:
    return Outcome(
        backup=backup,
        kinds=tuple(entry.kind for entry in backup.manifest.etcds),
        why_base=why_base,
        stored_bytes=parts.stored_bytes,
        raw_bytes=parts.raw_bytes,
        seconds=seconds,
        warnings=tuple(warning for one in taken for warning in one.capture.warnings),
    )
