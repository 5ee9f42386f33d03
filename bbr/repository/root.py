"""The root: all that is trusted in a repository, in one signed, numbered document, after the model of TUF.

Number 1 is signed by its own admin key; the SHA-256 of its stored bytes is the repository's id. Number n+1 names the
SHA-256 of number n and is signed by the admin keys of both (once, when they are one key). Nobody accepts another id, or
a lower number than was seen before. Since the root carries the SHA-256 of every sealed key, a flipped byte in any of
them is found without a key. Rules are pure; only `load_roots` reads. Source: TUF specification, sections 5.3 and 6.1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bbr.errors import (
    BodyTooLarge,
    FormatTooNew,
    KeyRefused,
    NoRepository,
    NotFound,
    RootInvalid,
    VerificationFailed,
)
from bbr.repository import document, names
from bbr.repository.document import integer, many, matching, optional, text, time
from bbr.repository.envelope import Envelope, check_signatures, decode_envelope, encode_envelope, sign
from bbr.repository.keys import RECIPIENT, SigningKey, VerifyKey, checked_recipient, key_id
from bbr.stores.store import Store

FORMAT = 1
PAYLOAD_TYPE = "application/vnd.bbr.root.v1+json"
ROOT_LIMIT_BYTES = 4 * 1024 * 1024
RECOVERY_READERS = 2
"""At least so many recovery identities read an epoch: one can be lost."""

ALL_CLUSTERS = "*"

Role = Literal["writer", "verifier", "pruner"]
ReaderRole = Literal["recovery", "drill"]


@dataclass(frozen=True, slots=True)
class Pin:
    """What is known of a repository before it is asked: its id, and the highest root number that was seen."""

    repository_id: str
    root_number: int


@dataclass(frozen=True, slots=True)
class Reader:
    """Who can open an epoch. ``sha256`` (hex) is of the object in which the epoch's identity is sealed to them."""

    recipient: str
    role: ReaderRole
    label: str
    object_name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """A term of service of one encryption key. Parts are sealed to ``recipient``."""

    id: str
    recipient: str
    opened: datetime
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who can open the admin key. ``sha256`` (hex) is of the object in which it is sealed to them."""

    recipient: str
    label: str
    object_name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that signs in a role, for some clusters or `ALL_CLUSTERS`; not for what was done from ``revoked`` on."""

    id: str
    public_key: str
    role: Role
    clusters: tuple[str, ...]
    label: str
    revoked: datetime | None

    def serves(self, cluster: str) -> bool:
        """Whether this key may sign for ``cluster``."""
        return ALL_CLUSTERS in self.clusters or cluster in self.clusters


@dataclass(frozen=True, slots=True)
class Root:
    """One root document. ``previous`` is the SHA-256 of the one before as stored; epochs are in order, newest last."""

    number: int
    previous: str | None
    created: datetime
    admin_key: str
    administrators: tuple[Administrator, ...]
    epochs: tuple[Epoch, ...]
    signers: tuple[Signer, ...]
    format: int = FORMAT

    @property
    def epoch(self) -> Epoch:
        """The epoch that is written to."""
        return self.epochs[-1]

    def epoch_of(self, epoch_id: str) -> Epoch:
        """An epoch by its id. Raises `RootInvalid` when there is none."""
        for epoch in self.epochs:
            if epoch.id == epoch_id:
                return epoch
        raise RootInvalid(f"root {self.number} knows no epoch {epoch_id}")

    def signer(self, signer_id: str) -> Signer | None:
        """A signer by its id, revoked or not."""
        return next((signer for signer in self.signers if signer.id == signer_id), None)

    def check_writer(self, writer_id: str, cluster: str) -> None:
        """Raises `KeyRefused` unless this key may write backups of ``cluster`` from now on."""
        signer = self.signer(writer_id)
        if signer is None or signer.role != "writer":
            raise KeyRefused(
                f"key {writer_id} is no writer of this repository (root {self.number})",
                hint="an administrator adds it with `bbr writer add`",
            )
        if signer.revoked:
            raise KeyRefused(
                f"writer {signer.label} ({writer_id}) was revoked at {signer.revoked:%Y-%m-%d %H:%M} UTC",
                hint="make a new key for this host with `bbr writer add`",
            )
        if not signer.serves(cluster):
            raise KeyRefused(
                f"writer {signer.label} ({writer_id}) may back up {', '.join(signer.clusters)}, not {cluster}",
                hint="an administrator adds a writer for this cluster with `bbr writer add`",
            )


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """The newest root, every number up to it checked. ``sha256`` (hex) is of its stored bytes; ``first_contact`` says
    that no pin was there to compare the repository's id with."""

    root: Root
    repository_id: str
    sha256: str
    first_contact: bool

    @property
    def pin(self) -> Pin:
        """What to remember for the next contact."""
        return Pin(self.repository_id, self.root.number)


def encode_root(root: Root, keys: Iterable[SigningKey]) -> bytes:
    """The bytes to store, signed. Raises `RootInvalid` for a root that a reader would refuse."""
    payload = document.encode(root)
    _decode_payload(payload, f"root {root.number}, before it was written,")
    return encode_envelope(sign(PAYLOAD_TYPE, payload, list(keys)))


def first_root(body: bytes, what: str = "root/1.json") -> Root:
    """Read and check the stored bytes of root 1; its id is for the caller to compare."""
    envelope, root = _open(body, what)
    if root.number != 1 or root.previous is not None:
        raise RootInvalid(f"{what} holds root {root.number}, or names one before it")
    _check_signed(envelope, {root.admin_key}, what)
    return root


def next_root(before: Root, before_body: bytes, body: bytes, what: str) -> Root:
    """Read and check the stored bytes of the root that follows ``before``."""
    envelope, root = _open(body, what)
    if root.number != before.number + 1:
        raise RootInvalid(f"{what} holds root {root.number}")
    if root.previous != hashlib.sha256(before_body).hexdigest():
        raise RootInvalid(f"{what} does not follow the root {before.number} that is stored here")
    if root.created < before.created:
        raise RootInvalid(f"{what} is older than root {before.number}")
    _check_signed(envelope, {before.admin_key, root.admin_key}, what)
    return root


def load_roots(store: Store, pin: Pin | None) -> TrustedRoot:
    """Read every root and believe the newest.

    Raises `NoRepository` when there is none, or another than is pinned; `FormatTooNew`; `RootInvalid` where a number is
    missing, lower than pinned, or does not follow from the one before.
    """
    numbers = sorted(
        number for entry in store.list(names.ROOT_PREFIX) if (number := names.parse_root_name(entry.name)) is not None
    )
    if not numbers:
        raise NoRepository("there is no repository at this address", hint="check the address, or make one: `bbr init`")
    if numbers != list(range(1, len(numbers) + 1)):
        missing = next(number for number in range(1, numbers[-1] + 1) if number not in numbers)
        raise RootInvalid(f"root {missing} is missing, root {numbers[-1]} is there: the store lost or withholds it")
    body = _get(store, 1)
    root = first_root(body)
    repository_id = hashlib.sha256(body).hexdigest()
    if pin is not None and pin.repository_id != repository_id:
        raise NoRepository(
            f"the repository at this address has the id {repository_id}, the one expected has {pin.repository_id}",
            hint="check the address; if the repository was replaced on purpose, use its own key files",
        )
    for number in numbers[1:]:
        following = _get(store, number)
        root, body = next_root(root, body, following, names.root_name(number)), following
    if pin is not None and root.number < pin.root_number:
        raise RootInvalid(
            f"the store shows root {root.number}, but root {pin.root_number} was seen before",
            hint="somebody put an older state of the repository back; do not trust it before you know why",
        )
    return TrustedRoot(root, repository_id, hashlib.sha256(body).hexdigest(), first_contact=pin is None)


def _get(store: Store, number: int) -> bytes:
    name = names.root_name(number)
    try:
        return store.get(name, limit_bytes=ROOT_LIMIT_BYTES)
    except NotFound as err:
        raise RootInvalid(f"{name} is listed, and is not there") from err
    except BodyTooLarge as err:
        raise RootInvalid(f"{name} is larger than any root: {err}") from err


def _open(body: bytes, what: str) -> tuple[Envelope, Root]:
    envelope = decode_envelope(body, error=RootInvalid, what=what)
    version = re.fullmatch(r"application/vnd\.bbr\.root\.v([1-9][0-9]{0,5})\+json", envelope.payload_type)
    if version is None:
        raise RootInvalid(f"{what} is signed as {envelope.payload_type[:60]!r}, not as a root")
    if int(version[1]) > FORMAT:
        raise FormatTooNew(
            f"{what}: the repository has format {version[1]}, this bbr reads format {FORMAT}", hint="use a newer bbr"
        )
    return envelope, _decode_payload(envelope.payload, what)


def _decode_payload(payload: bytes, what: str) -> Root:
    root = document.decode(payload, _ROOT, error=RootInvalid, what=what)
    problem = _administration_problem(root) or _epochs_problem(root) or _signers_problem(root)
    if problem:
        raise RootInvalid(f"{what}: {problem}")
    return root


def _check_signed(envelope: Envelope, public_keys: set[str], what: str) -> None:
    keys = [VerifyKey(bytes.fromhex(public)) for public in public_keys]
    check_signatures(envelope, {key.key_id: key for key in keys}, error=RootInvalid, what=what)


def _administration_problem(root: Root) -> str:
    prefix = f"{names.ADMIN_PREFIX}{key_id(bytes.fromhex(root.admin_key))}/"
    if not root.administrators:
        return "no administrator"
    if _repeats(one.recipient for one in root.administrators):
        return "an administrator named twice"
    if any(not one.object_name.startswith(prefix) for one in root.administrators):
        return "an admin key that lies elsewhere than where this admin key belongs"
    return ""


def _epochs_problem(root: Root) -> str:
    if not root.epochs:
        return "no epoch"
    if _repeats(epoch.id for epoch in root.epochs) or _repeats(epoch.recipient for epoch in root.epochs):
        return "two epochs of one id or one key"
    if [epoch.opened for epoch in root.epochs] != sorted(epoch.opened for epoch in root.epochs):
        return "epochs out of order"
    for epoch in root.epochs:
        if sum(reader.role == "recovery" for reader in epoch.readers) < RECOVERY_READERS:
            return f"epoch {epoch.id} has fewer than two recovery identities"
        if _repeats([epoch.recipient, *(reader.recipient for reader in epoch.readers)]):
            return f"epoch {epoch.id} has a reader twice, or itself as a reader"
        if any(not reader.object_name.startswith(f"{names.KEYS_PREFIX}{epoch.id}/") for reader in epoch.readers):
            return f"epoch {epoch.id} has a key that lies outside of it"
    return ""


def _signers_problem(root: Root) -> str:
    if _repeats(signer.id for signer in root.signers):
        return "a signer named twice"
    for signer in root.signers:
        if signer.id != key_id(bytes.fromhex(signer.public_key)):
            return f"signer {signer.id} is not called after its key"
        if signer.public_key == root.admin_key:
            return f"signer {signer.id} is the admin key"
        if not signer.clusters or _repeats(signer.clusters):
            return f"signer {signer.id} has no cluster, or one twice"
    return ""


def _repeats(values: Iterable[str]) -> bool:
    listed = list(values)
    return len(set(listed)) != len(listed)


def _recipient(value: object) -> str:
    try:
        return checked_recipient(_RECIPIENT_TEXT(value))
    except KeyRefused as err:
        raise VerificationFailed(str(err)) from err


def _cluster_or_all(value: object) -> str:
    return ALL_CLUSTERS if value == ALL_CLUSTERS else _CLUSTER(value)


def _public_key(value: object) -> str:
    public = _SHA256(value)
    try:
        VerifyKey(bytes.fromhex(public))
    except KeyRefused as err:
        raise VerificationFailed(str(err)) from err
    return public


LABEL_CHARACTERS = 100
_RECIPIENT_TEXT = matching(RECIPIENT)
_CLUSTER = matching(names.CLUSTER)
_SHA256 = matching(names.SHA256)
_LABEL = text(LABEL_CHARACTERS)

_READER = document.Record(
    Reader,
    {
        "recipient": _recipient,
        "role": matching("recovery|drill"),
        "label": _LABEL,
        "object_name": matching(names.KEY_OBJECT),
        "sha256": _SHA256,
    },
)
_EPOCH = document.Record(
    Epoch,
    {
        "id": matching(names.EPOCH),
        "recipient": _recipient,
        "opened": time,
        "readers": many(_READER, 1000),
    },
)
_ADMINISTRATOR = document.Record(
    Administrator,
    {
        "recipient": _recipient,
        "label": _LABEL,
        "object_name": matching(names.ADMIN_OBJECT),
        "sha256": _SHA256,
    },
)
_SIGNER = document.Record(
    Signer,
    {
        "id": matching(names.KEY_ID),
        "public_key": _public_key,
        "role": matching("writer|verifier|pruner"),
        "clusters": many(_cluster_or_all, 10_000),
        "label": _LABEL,
        "revoked": optional(time),
    },
)
_ROOT = document.Record(
    Root,
    {
        "format": integer(FORMAT, FORMAT),
        "number": integer(1, names.ROOT_NUMBER_LIMIT),
        "previous": optional(_SHA256),
        "created": time,
        "admin_key": _public_key,
        "administrators": many(_ADMINISTRATOR, 1000),
        "epochs": many(_EPOCH, 1000),
        "signers": many(_SIGNER, 10_000),
    },
)
