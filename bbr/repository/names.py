"""The names of everything in a repository: built and read back here, and nowhere else.

    root/<n>.json                                                 the root documents
    admin/<admin key id>/<recipient hash>.age                     the admin key, sealed to one administrator
    keys/<epoch>/<recipient hash>.age                             an epoch's identity, sealed to one reader
    clusters/<cluster>/<generation>/<seq>-<nonce>-<number>.age    parts
    manifests/<cluster>/<generation>/<seq>-<nonce>.manifest       manifests, under a prefix of their own so that a
                                                                  listing of backups does not list their parts
    runs/<cluster>/<writer>-<nonce>                               the start of a run; its put tells the store's time

A generation is ``<YYYYMMDDTHHMMSSZ>-<writer id>-<nonce>``, a backup id ``<cluster>-<YYYYMMDDTHHMMSSZ>-<4 hex>``, an
epoch ``<YYYYMMDDTHHMMSSZ>-<8 hex>``. Nothing that a run writes can have the name of what another run wrote: each name
holds random bits of its own. Names in a listing are hostile; what does not parse is None, never an exception.
Every name builds to exactly one text and parses from no other. docs/format.md has the same table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from bbr.errors import UsageError

ROOT_PREFIX = "root/"
ADMIN_PREFIX = "admin/"
KEYS_PREFIX = "keys/"
PARTS_PREFIX = "clusters/"
MANIFESTS_PREFIX = "manifests/"
RUNS_PREFIX = "runs/"

SEQUENCE_LIMIT = 999_999
"""Highest sequence in a generation; the first is 0."""

PART_NUMBER_LIMIT = 99_999
"""Highest number of a part in one backup; the first is 0."""

ROOT_NUMBER_LIMIT = 99_999
"""Highest number of a root document; the first is 1."""

CLUSTER = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
STAMP = r"[0-9]{8}T[0-9]{6}Z"
KEY_ID = r"[0-9a-f]{16}"
NONCE = r"[0-9a-f]{16}"
SHA256 = r"[0-9a-f]{64}"
EPOCH = rf"{STAMP}-[0-9a-f]{{8}}"
GENERATION = rf"{STAMP}-{KEY_ID}-{NONCE}"
PART = rf"clusters/{CLUSTER}/{GENERATION}/[0-9]{{6}}-{NONCE}-[0-9]{{5}}\.age"
MANIFEST = rf"manifests/{CLUSTER}/{GENERATION}/[0-9]{{6}}-{NONCE}\.manifest"
KEY_OBJECT = rf"keys/{EPOCH}/[0-9a-f]{{32}}\.age"
ADMIN_OBJECT = rf"admin/{KEY_ID}/[0-9a-f]{{32}}\.age"
BACKUP_ID = rf"{CLUSTER}-{STAMP}-[0-9a-f]{{4}}"

_CLUSTER = re.compile(CLUSTER)
_STAMP = re.compile(STAMP)
_GENERATION = re.compile(rf"({STAMP})-({KEY_ID})-({NONCE})")
_ROOT = re.compile(r"root/([1-9][0-9]{0,4})\.json")
_MANIFEST = re.compile(rf"manifests/({CLUSTER})/({GENERATION})/([0-9]{{6}})-({NONCE})\.manifest")
_PART = re.compile(rf"clusters/({CLUSTER})/({GENERATION})/([0-9]{{6}})-({NONCE})-([0-9]{{5}})\.age")
_BACKUP_ID = re.compile(rf"({CLUSTER})-({STAMP})-([0-9a-f]{{4}})")


@dataclass(frozen=True, slots=True)
class Generation:
    """What the name of a generation says: when the store says it was opened (UTC, whole seconds), and by whom."""

    opened: datetime
    writer: str
    nonce: str

    def __str__(self) -> str:
        return generation(self.opened, self.writer, self.nonce)


@dataclass(frozen=True, slots=True)
class ManifestName:
    """The place of a manifest. ``generation`` is the generation's name."""

    cluster: str
    generation: str
    sequence: int
    nonce: str

    def __str__(self) -> str:
        return f"manifests/{self.cluster}/{self.generation}/{self.sequence:06d}-{self.nonce}.manifest"


@dataclass(frozen=True, slots=True)
class PartName:
    """The place of a part. ``generation`` is the generation's name."""

    cluster: str
    generation: str
    sequence: int
    nonce: str
    number: int

    def __str__(self) -> str:
        return f"clusters/{self.cluster}/{self.generation}/{self.sequence:06d}-{self.nonce}-{self.number:05d}.age"


def checked_cluster(name: str) -> str:
    """The name itself. Raises `UsageError` when it is not one for a cluster."""
    if not _CLUSTER.fullmatch(name):
        raise UsageError(
            f"not a name for a cluster: {name[:80]!r}",
            hint="use at most 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or a digit",
        )
    return name


def stamp(time: datetime) -> str:
    """A UTC time in whole seconds as names carry it: ``20260102T030405Z``."""
    return time.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ").rjust(16, "0")


def parse_stamp(text: str) -> datetime | None:
    """The time that a stamp says, or None."""
    if not _STAMP.fullmatch(text):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:  # the 31st of February
        return None
    return time if stamp(time) == text else None


def epoch(opened: datetime, nonce: str) -> str:
    """The id of an epoch. ``nonce`` is 8 random hex digits."""
    return f"{stamp(opened)}-{nonce}"


def generation(opened: datetime, writer: str, nonce: str) -> str:
    """The name of a generation. ``opened`` is store time, ``writer`` a key's id, ``nonce`` 16 random hex digits."""
    return f"{stamp(opened)}-{writer}-{nonce}"


def backup_id(cluster: str, began: datetime, nonce: str) -> str:
    """The id of a backup whose run began at ``began`` (store time). ``nonce`` is 4 random hex digits."""
    return f"{cluster}-{stamp(began)}-{nonce}"


def parse_backup_id(text: str) -> tuple[str, datetime] | None:
    """The cluster and the time that a backup id says, or None."""
    found = _BACKUP_ID.fullmatch(text)
    time = parse_stamp(found[2]) if found else None
    return (found[1], time) if found and time else None


def parse_generation(text: str) -> Generation | None:
    """What the name of a generation says, or None."""
    found = _GENERATION.fullmatch(text)
    opened = parse_stamp(found[1]) if found else None
    return Generation(opened, found[2], found[3]) if found and opened else None


def parse_manifest_name(text: str) -> ManifestName | None:
    """The place that an object name under ``manifests/`` says, or None."""
    found = _MANIFEST.fullmatch(text)
    return ManifestName(found[1], found[2], int(found[3]), found[4]) if found else None


def parse_part_name(text: str) -> PartName | None:
    """The place that an object name under ``clusters/`` says, or None."""
    found = _PART.fullmatch(text)
    return PartName(found[1], found[2], int(found[3]), found[4], int(found[5])) if found else None


def manifest(cluster: str, generation: str, sequence: int, nonce: str) -> str:
    """Where the manifest of one backup is. ``nonce`` is the run's: 16 random hex digits."""
    return str(ManifestName(cluster, generation, sequence, nonce))


def parts(cluster: str, generation: str, sequence: int, nonce: str) -> Iterator[str]:
    """The names for the parts of one backup, from number 0 on, as many as are taken."""
    for number in range(PART_NUMBER_LIMIT + 1):
        yield str(PartName(cluster, generation, sequence, nonce, number))


def manifests_prefix(cluster: str | None = None) -> str:
    """What the names of a cluster's manifests begin with, or of every cluster's."""
    return MANIFESTS_PREFIX if cluster is None else f"{MANIFESTS_PREFIX}{cluster}/"


def root_name(number: int) -> str:
    """Where root document ``number`` is."""
    return f"{ROOT_PREFIX}{number}.json"


def parse_root_name(text: str) -> int | None:
    """The number that an object name under ``root/`` says, or None."""
    found = _ROOT.fullmatch(text)
    return int(found[1]) if found else None


def recipient_hash(recipient: str) -> str:
    """What stands for a recipient in a name: the first 32 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(recipient.encode()).hexdigest()[:32]


def admin_name(admin_key_id: str, recipient: str) -> str:
    """Where the admin key lies for one administrator. A new admin key has new names, so nothing is overwritten."""
    return f"{ADMIN_PREFIX}{admin_key_id}/{recipient_hash(recipient)}.age"


def key_name(epoch: str, recipient: str) -> str:
    """Where an epoch's identity lies for one reader."""
    return f"{KEYS_PREFIX}{epoch}/{recipient_hash(recipient)}.age"


def run_record(cluster: str, writer: str, nonce: str) -> str:
    """Where the start of a run is recorded."""
    return f"{RUNS_PREFIX}{cluster}/{writer}-{nonce}"
