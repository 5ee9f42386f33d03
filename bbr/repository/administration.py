"""Making a repository, and changing who is trusted in it.

A repository exists once root/1.json does: sealed keys are put first, under names that belong to this attempt alone, so
one that was cut off leaves nothing that stands in the way. It is made in two steps, `draft` and `publish`, so that the
files of recovery identities and writers are on disk, with the repository's id in them, before anything is sealed to
them. Every later change is a new root, numbered and chained: nothing is overwritten, and nothing can be hidden.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bbr.errors import AlreadyExists, PreconditionFailed, RootInvalid, TargetNotEmpty, UsageError
from bbr.repository import names
from bbr.repository.document import one_line
from bbr.repository.epoch import open_admin_key, seal_identity, seal_signing_key
from bbr.repository.keys import Identity, SigningKey, VerifyKey, checked_recipient
from bbr.repository.root import (
    ALL_CLUSTERS,
    LABEL_CHARACTERS,
    RECOVERY_READERS,
    Administrator,
    Epoch,
    Pin,
    Reader,
    Role,
    Root,
    Signer,
    TrustedRoot,
    encode_root,
    first_root,
    load_roots,
)
from bbr.repository.transfer import put_and_read_back
from bbr.stores.store import Store


@dataclass(frozen=True, slots=True)
class Holder:
    """A person or a safe with an age identity. ``recipient`` is its public half."""

    recipient: str
    label: str


@dataclass(frozen=True, slots=True)
class NewSigner:
    """A key to be trusted in a role, for ``clusters`` or all of them."""

    key: VerifyKey
    label: str
    clusters: tuple[str, ...] = (ALL_CLUSTERS,)
    role: Role = "writer"


@dataclass(frozen=True, slots=True)
class Draft:
    """A repository that is not stored yet. ``sealed`` are objects by name; ``body`` is root/1.json."""

    root: Root
    pin: Pin
    sealed: Mapping[str, bytes]
    body: bytes


def draft(
    *,
    recovery: Sequence[Holder],
    writers: Sequence[NewSigner] = (),
    administrators: Sequence[Holder] = (),
    now: datetime,
) -> Draft:
    """A new repository, ready to be published. Without ``administrators``, those who hold the recovery identities are.

    Raises `UsageError` for fewer than two different recovery identities, or a label or a cluster that cannot be;
    `KeyRefused` for what is no age recipient.
    """
    if len({holder.recipient for holder in recovery}) < RECOVERY_READERS:
        raise UsageError(
            "a repository needs at least two different recovery identities: one can be lost",
            hint="give two, and keep one of them offline; `bbr init` makes both if given none",
        )
    epoch_identity, admin_key = Identity.generate(), SigningKey.generate()
    epoch_id = names.epoch(now, secrets.token_hex(4))
    readers, sealed_readers = _sealed_readers(recovery, epoch_identity, epoch_id)
    admins, sealed_admins = _sealed_administrators(administrators or recovery, admin_key)
    root = Root(
        number=1,
        previous=None,
        created=_whole_seconds(now),
        admin_key=admin_key.public.public_hex,
        administrators=admins,
        epochs=(Epoch(epoch_id, epoch_identity.recipient, _whole_seconds(now), readers),),
        signers=tuple(_signer(one, ()) for one in writers),
    )
    body = _encoded(root, admin_key)
    pin = Pin(hashlib.sha256(body).hexdigest(), 1)
    return Draft(first_root(body), pin, {**sealed_readers, **sealed_admins}, body)


def publish(store: Store, drafted: Draft) -> TrustedRoot:
    """Store a drafted repository; each object is read back, the root is last.

    Raises `TargetNotEmpty` when the address holds a repository, and leaves that as it is.
    """
    if next(iter(store.list(names.ROOT_PREFIX)), None) is not None:
        raise TargetNotEmpty("there is a repository at this address; it was left as it is", hint=_USE_IT)
    for name, body in drafted.sealed.items():
        put_and_read_back(store, name, body)
    try:
        put_and_read_back(store, names.root_name(1), drafted.body)
    except AlreadyExists as err:
        raise TargetNotEmpty("another repository was made at this address meanwhile", hint=_USE_IT) from err
    return replace(load_roots(store, drafted.pin), first_contact=False)


def create(
    store: Store,
    *,
    recovery: Sequence[Holder],
    writers: Sequence[NewSigner] = (),
    administrators: Sequence[Holder] = (),
    now: datetime,
) -> TrustedRoot:
    """`draft` and `publish` at once, for a caller that has every key on disk already."""
    return publish(store, draft(recovery=recovery, writers=writers, administrators=administrators, now=now))


def add_signer(
    store: Store, trusted: TrustedRoot, identities: Sequence[Identity], signer: NewSigner, *, now: datetime
) -> TrustedRoot:
    """Trust one more key. ``identities`` are an administrator's.

    Raises `KeyRefused` when they are not, `UsageError` for a label or key that the root has, `PreconditionFailed` when
    another administrator was faster.
    """
    key = open_admin_key(store, trusted, identities)
    root = trusted.root
    changed = replace(root, signers=(*root.signers, _signer(signer, root.signers)))
    return _advance(store, trusted, changed, key, now)


def revoke_signer(
    store: Store, trusted: TrustedRoot, identities: Sequence[Identity], name: str, *, at: datetime, now: datetime
) -> TrustedRoot:
    """Trust nothing that a key signs from ``at`` on, which is past, or now. ``name`` is its label or id.

    A revocation can be moved to an earlier time, never to a later one. What it signed before stays listed, and can be
    restored. Raises as `add_signer` does.
    """
    key = open_admin_key(store, trusted, identities)
    root = trusted.root
    signer = find_signer(root, name)
    if _whole_seconds(at) > _whole_seconds(now):
        raise UsageError(
            f"{at:%Y-%m-%d %H:%M:%S} UTC has not come yet", hint="until then the key would be believed; leave --at out"
        )
    if signer.revoked and signer.revoked <= at:
        raise UsageError(
            f"{signer.role} {signer.label} was revoked at {signer.revoked:%Y-%m-%d %H:%M} UTC already",
            hint="a revocation can only be moved to an earlier time, with --at",
        )
    revoked = replace(signer, revoked=_whole_seconds(at))
    changed = replace(root, signers=tuple(revoked if one.id == signer.id else one for one in root.signers))
    return _advance(store, trusted, changed, key, now)


def find_signer(root: Root, name: str) -> Signer:
    """The signer with this id, or the one in service with this label. Raises `UsageError`, naming those there are."""
    by_id = root.signer(name)
    if by_id is not None:
        return by_id
    called = [signer for signer in root.signers if signer.label == name]
    found = [signer for signer in called if signer.revoked is None] or called[-1:]
    if not found:
        there = ", ".join(f"{signer.label} ({signer.id})" for signer in root.signers) or "none"
        raise UsageError(f"no signer has the label or id {name!r}", hint=f"there are: {there}")
    return found[0]


_USE_IT = "use it, or name another address"


def _advance(store: Store, trusted: TrustedRoot, changed: Root, key: SigningKey, now: datetime) -> TrustedRoot:
    """Put the next root and believe it only as it is read back."""
    before = trusted.root
    root = replace(
        changed,
        number=before.number + 1,
        previous=trusted.sha256,
        created=max(_whole_seconds(now), before.created),
    )
    body = _encoded(root, key)
    name = names.root_name(root.number)
    try:
        put_and_read_back(store, name, body)
    except AlreadyExists as err:
        raise PreconditionFailed(
            f"{name} exists: another administrator changed the root meanwhile",
            hint="look at what changed (`bbr writer list`), then run this again",
        ) from err
    newest = load_roots(store, Pin(trusted.repository_id, root.number))
    if newest.root.number == root.number and newest.sha256 != hashlib.sha256(body).hexdigest():
        raise PreconditionFailed(f"{name} is another's: two administrators changed the root at once")
    return newest


def _encoded(root: Root, key: SigningKey) -> bytes:
    try:
        return encode_root(root, [key])
    except RootInvalid as err:
        raise UsageError(f"this would not be a root that anyone accepts: {err}") from err


def _sealed_readers(
    recovery: Sequence[Holder], identity: Identity, epoch_id: str
) -> tuple[tuple[Reader, ...], dict[str, bytes]]:
    sealed: dict[str, bytes] = {}
    readers = []
    for holder in recovery:
        name = names.key_name(epoch_id, checked_recipient(holder.recipient))
        sealed[name] = seal_identity(identity, holder.recipient)
        digest = hashlib.sha256(sealed[name]).hexdigest()
        readers.append(Reader(holder.recipient, "recovery", _label(holder.label), name, digest))
    return tuple(readers), sealed


def _sealed_administrators(
    holders: Sequence[Holder], key: SigningKey
) -> tuple[tuple[Administrator, ...], dict[str, bytes]]:
    sealed: dict[str, bytes] = {}
    administrators = []
    for holder in holders:
        name = names.admin_name(key.key_id, checked_recipient(holder.recipient))
        sealed[name] = seal_signing_key(key, holder.recipient)
        digest = hashlib.sha256(sealed[name]).hexdigest()
        administrators.append(Administrator(holder.recipient, _label(holder.label), name, digest))
    return tuple(administrators), sealed


def _signer(new: NewSigner, there: Sequence[Signer]) -> Signer:
    label = _label(new.label)
    for cluster in new.clusters:
        if cluster != ALL_CLUSTERS:
            names.checked_cluster(cluster)
    for signer in there:
        if signer.id == new.key.key_id:
            raise UsageError(f"key {signer.id} is known already, as {signer.role} {signer.label}")
        if signer.label == label and signer.revoked is None:
            raise UsageError(
                f"there is a {signer.role} called {label} ({signer.id})", hint="revoke it, or choose another label"
            )
    return Signer(new.key.key_id, new.key.public_hex, new.role, new.clusters, label, None)


def _label(text: str) -> str:
    if not text or one_line(text, LABEL_CHARACTERS) != text:
        raise UsageError(f"not a label: {text[:80]!r}", hint=f"use one line of up to {LABEL_CHARACTERS} characters")
    return text


def _whole_seconds(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(microsecond=0)
