"""The manifest: the signed record of one backup. Writing it is the commit; what it does not name does not exist.

The payload is canonical JSON of these very dataclasses: each field by its name, in an envelope of `PAYLOAD_TYPE` with
one signature, the writer's. All of it is clear, so that listing and pruning need no key; names and counts of objects
are in a sealed part. `decode_manifest` checks shape and bounds and that the record agrees with itself; whether the one
who signed it may say so is decided by `bbr.repository.acceptance`. Pure; docs/format.md describes every field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal

from bbr.errors import ManifestInvalid, UsageError
from bbr.repository import document, names
from bbr.repository.document import boolean, integer, many, matching, optional, text, time
from bbr.repository.envelope import encode_envelope, sign
from bbr.repository.keys import SigningKey
from bbr.stores.store import OBJECT_LIMIT_BYTES

FORMAT = 1
PAYLOAD_TYPE = "application/vnd.bbr.manifest.v1+json"

GENERATION_TERM = timedelta(hours=24)
"""How long a writer may commit into a generation, in the store's time. Readers and pruners rely on it."""

PART_RAW_BYTES = 16 * 1024 * 1024
"""Most bytes that one part holds before compression."""

MANIFEST_LIMIT_BYTES = 8 * 1024 * 1024
"""Largest manifest that is read: it has room for the parts of 300 GB."""

LINE_CHARACTERS = 1000
"""Longest text that etcd or a member can put into a manifest; longer ones are cut."""

REASONS_LIMIT = 100
ALARMS_LIMIT = 100

Status = Literal["complete", "partial"]
Kind = Literal["base", "increment"]


@dataclass(frozen=True, slots=True)
class PartRef:
    """A stored part: its object name, size and SHA-256 (hex) as stored, and the bytes that it holds when opened."""

    name: str
    size_bytes: int
    sha256: str
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class MemberState:
    """What one etcd member answered. ``hash_kv`` and ``compact_revision`` are None when it was not compared."""

    id: str
    name: str
    version: str
    revision: int
    hash_kv: int | None
    compact_revision: int | None
    note: str


@dataclass(frozen=True, slots=True)
class EtcdEntry:
    """One etcd in a backup. Ids are hex. ``hash_kv`` is at ``revision`` and ``compact_revision``, and holds for the
    rebuilt snapshot. ``parent`` is the sequence, in this generation, that an increment builds upon; None for a base,
    whose parts concatenate to the snapshot file of ``snapshot_bytes`` (trailing hash included). ``snapshot_sha256``
    is that trailing hash: of the bolt file before it."""

    name: str
    cluster_id: str
    member_id: str
    member_name: str
    server_version: str
    storage_version: str
    members: tuple[MemberState, ...]
    alarms: tuple[str, ...]
    revision: int
    compact_revision: int
    hash_kv: int
    compared: bool
    not_compared_because: str
    records: int
    page_size: int
    snapshot_bytes: int
    snapshot_sha256: str
    parent: int | None
    parts: tuple[PartRef, ...]

    @property
    def kind(self) -> Kind:
        """What its parts hold."""
        return "base" if self.parent is None else "increment"

    @property
    def stored_bytes(self) -> int:
        """Bytes that this entry's own parts take in the store."""
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The archive of control-plane files: SHA-256 (hex) of its content, and its parts, which an earlier backup of the
    same generation may have stored."""

    sha256: str
    parts: tuple[PartRef, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup. ``time`` is the store's when the last part was in; ``previous`` and ``heads`` are SHA-256 (hex) of
    stored manifests: this writer's one before of this cluster, and the newest that it saw of each other writer."""

    repository_id: str
    root_number: int
    cluster: str
    cluster_identity: str
    generation: str
    sequence: int
    nonce: str
    previous: str | None
    heads: tuple[str, ...]
    epoch: str
    time: datetime
    backup_id: str
    writer: str
    status: Status
    reasons: tuple[str, ...]
    etcds: tuple[EtcdEntry, ...]
    control_plane: ControlPlane | None
    inventory: tuple[PartRef, ...]
    format: int = FORMAT

    @property
    def opened(self) -> datetime:
        """When its generation was opened, by the store's time. Raises `ManifestInvalid` for a name that holds none."""
        generation = names.parse_generation(self.generation)
        if generation is None:
            raise ManifestInvalid(f"{self.generation} is no name of a generation")
        return generation.opened

    def etcd(self, name: str) -> EtcdEntry:
        """The entry of one etcd. Raises `UsageError`, naming those there are."""
        for entry in self.etcds:
            if entry.name == name:
                return entry
        there = ", ".join(entry.name for entry in self.etcds) or "none"
        raise UsageError(f"backup {self.backup_id} has no etcd named {name!r}", hint=f"it has: {there}")

    @property
    def parts(self) -> tuple[PartRef, ...]:
        """Every part that this manifest names, its own and the control plane's."""
        control_plane = self.control_plane.parts if self.control_plane else ()
        return (*chain.from_iterable(entry.parts for entry in self.etcds), *control_plane, *self.inventory)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the parts take in the store."""
        return sum(part.size_bytes for part in self.parts)


def encode_manifest(manifest: Manifest, key: SigningKey) -> bytes:
    """The bytes to store: the signed envelope.

    ``time`` loses its fraction of a second, and texts that come from etcd and its members become one printable line:
    no backup fails for a line break in somebody's error message. Raises `ManifestInvalid` for all else that
    `decode_manifest` would refuse, so that nothing is committed that cannot be read.
    """
    payload = document.encode(_fitted(manifest))
    decode_manifest(payload, what=f"the manifest of {manifest.backup_id}, before it was written,")
    body = encode_envelope(sign(PAYLOAD_TYPE, payload, [key]))
    if len(body) > MANIFEST_LIMIT_BYTES:
        raise ManifestInvalid(f"the manifest of {manifest.backup_id} has {len(body):,} bytes: too many")
    return body


def decode_manifest(payload: bytes, *, what: str = "the manifest") -> Manifest:
    """Read a payload. Raises `ManifestInvalid`, with ``what`` for its name, where anything is not as it must be."""
    manifest = document.decode(payload, _MANIFEST, error=ManifestInvalid, what=what)
    problem = _contradiction(manifest)
    if problem:
        raise ManifestInvalid(f"{what}: {problem}")
    return manifest


def recall_manifest(payload: bytes) -> Manifest | None:
    """Read a payload that `decode_manifest` took before and that this host kept, unchecked and so three times as fast.
    None when it is of another shape: kept by another version of bbr."""
    try:
        return _MANIFEST.believed(json.loads(payload))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _fitted(manifest: Manifest) -> Manifest:
    return replace(
        manifest,
        reasons=tuple(_line(reason) or "unknown" for reason in manifest.reasons[:REASONS_LIMIT]),
        etcds=tuple(
            replace(
                entry,
                member_name=_line(entry.member_name),
                server_version=_line(entry.server_version),
                storage_version=_line(entry.storage_version),
                not_compared_because=_line(entry.not_compared_because),
                alarms=tuple(_line(alarm) for alarm in entry.alarms[:ALARMS_LIMIT]),
                members=tuple(
                    replace(one, name=_line(one.name), version=_line(one.version), note=_line(one.note))
                    for one in entry.members
                ),
            )
            for entry in manifest.etcds
        ),
    )


def _line(text_of_others: str) -> str:
    return document.one_line(text_of_others, LINE_CHARACTERS)


def _contradiction(manifest: Manifest) -> str:
    """In what the record does not agree with itself, or ""."""
    generation = names.parse_generation(manifest.generation)
    taken = names.parse_backup_id(manifest.backup_id)
    if generation is None or taken is None:
        return "its generation or its backup id holds no time"
    if generation.writer != manifest.writer:
        return f"the generation belongs to writer {generation.writer}, the manifest is by {manifest.writer}"
    if taken[0] != manifest.cluster:
        return f"backup id {manifest.backup_id} is of another cluster than {manifest.cluster}"
    if not generation.opened <= taken[1] <= manifest.time:
        return "its times do not follow: generation opened, backup begun, backup done"
    if (manifest.status == "complete") == bool(manifest.reasons):
        return "a complete backup has no reasons, a partial one has"
    if manifest.status == "complete" and not manifest.etcds:
        return "a complete backup without an etcd"
    if len({entry.name for entry in manifest.etcds}) != len(manifest.etcds):
        return "two etcds of one name"
    return _parts_contradiction(manifest)


def _parts_contradiction(manifest: Manifest) -> str:
    for entry in manifest.etcds:
        if entry.parent is not None and entry.parent >= manifest.sequence:
            return f"etcd {entry.name} builds upon sequence {entry.parent}, which is not before {manifest.sequence}"
        if entry.parent is None and sum(part.raw_bytes for part in entry.parts) != entry.snapshot_bytes:
            return f"etcd {entry.name}: the parts of the base hold other than {entry.snapshot_bytes} bytes"
    own_prefix = f"clusters/{manifest.cluster}/{manifest.generation}/{manifest.sequence:06d}-{manifest.nonce}-"
    own = [*chain.from_iterable(entry.parts for entry in manifest.etcds), *manifest.inventory]
    for part in own:
        if not part.name.startswith(own_prefix):
            return f"part {part.name} is of another backup"
    if len({part.name for part in own}) != len(own):
        return "one part named twice"
    for part in manifest.control_plane.parts if manifest.control_plane else ():
        place = names.parse_part_name(part.name)
        if place is None or (place.cluster, place.generation) != (manifest.cluster, manifest.generation):
            return f"part {part.name} is of another generation"
    return ""


_SHA256 = matching(names.SHA256)
_COUNT = integer(0, 2**63 - 1)
_HEX_ID = matching("[0-9a-f]{1,16}")
_HASH_KV = integer(0, 2**32 - 1)
_LINE = text(LINE_CHARACTERS, empty=True)
_REVISION = integer(0, 2**63 - 1)
_KEY_ID = matching(names.KEY_ID)
_NONCE = matching(names.NONCE)

_PART = document.Record(
    PartRef,
    {
        "name": matching(names.PART),
        "size_bytes": integer(1, OBJECT_LIMIT_BYTES),
        "sha256": _SHA256,
        "raw_bytes": integer(1, PART_RAW_BYTES),
    },
)
_PARTS = many(_PART, names.PART_NUMBER_LIMIT)
_MEMBER = document.Record(
    MemberState,
    {
        "id": _HEX_ID,
        "name": _LINE,
        "version": _LINE,
        "revision": _REVISION,
        "hash_kv": optional(_HASH_KV),
        "compact_revision": optional(integer(-1, 2**63 - 1)),
        "note": _LINE,
    },
)
_ETCD = document.Record(
    EtcdEntry,
    {
        "name": matching("[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"),
        "cluster_id": _HEX_ID,
        "member_id": _HEX_ID,
        "member_name": _LINE,
        "server_version": _LINE,
        "storage_version": _LINE,
        "members": many(_MEMBER, 100),
        "alarms": many(_LINE, ALARMS_LIMIT),
        "revision": _REVISION,
        "compact_revision": integer(-1, 2**63 - 1),
        "hash_kv": _HASH_KV,
        "compared": boolean,
        "not_compared_because": _LINE,
        "records": _COUNT,
        "page_size": integer(512, 65536),
        "snapshot_bytes": _COUNT,
        "snapshot_sha256": _SHA256,
        "parent": optional(integer(0, names.SEQUENCE_LIMIT)),
        "parts": _PARTS,
    },
)
_CONTROL_PLANE = document.Record(ControlPlane, {"sha256": _SHA256, "parts": _PARTS})
_MANIFEST = document.Record(
    Manifest,
    {
        "format": integer(FORMAT, FORMAT),
        "repository_id": _SHA256,
        "root_number": integer(1, names.ROOT_NUMBER_LIMIT),
        "cluster": matching(names.CLUSTER),
        "cluster_identity": matching(
            "uid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|etcd:[0-9a-f]{1,16}"
        ),
        "generation": matching(names.GENERATION),
        "sequence": integer(0, names.SEQUENCE_LIMIT),
        "nonce": _NONCE,
        "previous": optional(_SHA256),
        "heads": many(_SHA256, 1000),
        "epoch": matching(names.EPOCH),
        "time": time,
        "backup_id": matching(names.BACKUP_ID),
        "writer": _KEY_ID,
        "status": matching("complete|partial"),
        "reasons": many(text(LINE_CHARACTERS), REASONS_LIMIT),
        "etcds": many(_ETCD, 100),
        "control_plane": optional(_CONTROL_PLANE),
        "inventory": _PARTS,
    },
)
