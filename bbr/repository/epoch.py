"""Keys that lie in the store, sealed: an epoch's identity for its readers, the admin key for administrators.

The root names each object with its SHA-256, so damage is found before a key is tried, and without one. What is sealed
is plain: an age identity line, a PEM key. So the stock age opens it:
``age -d -i RECOVERY keys/<epoch>/<hash>.age > epoch.key``, then ``age -d -i epoch.key part | zstd -d``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from bbr.errors import BodyTooLarge, KeyRefused, NotFound, RootInvalid, VerificationFailed
from bbr.repository.keys import SEALED_KEY_LIMIT_BYTES, Identity, SigningKey, seal_to
from bbr.repository.root import Administrator, Reader, TrustedRoot
from bbr.stores.store import Store


def open_epoch(store: Store, trusted: TrustedRoot, epoch_id: str, identities: Sequence[Identity]) -> Identity:
    """The identity that opens the parts of an epoch.

    Raises `KeyRefused` when none of ``identities`` is a reader's, `RootInvalid` when what is sealed to them is missing,
    changed, or not the epoch's.
    """
    epoch = trusted.root.epoch_of(epoch_id)
    opened = _open_first(store, epoch.readers, identities, f"epoch {epoch_id}")
    if opened is None:
        raise KeyRefused(
            f"none of the {len(identities)} identities given reads epoch {epoch_id}",
            hint=f"its readers are: {_holders(epoch.readers)}",
        )
    content, name = opened
    try:
        identity = Identity.parse(content.decode().strip())
    except (KeyRefused, UnicodeDecodeError) as err:
        raise RootInvalid(f"{name} does not hold an identity") from err
    if identity.recipient != epoch.recipient:
        raise RootInvalid(f"{name} does not hold the identity of epoch {epoch_id}")
    return identity


def open_admin_key(store: Store, trusted: TrustedRoot, identities: Sequence[Identity]) -> SigningKey:
    """The key that signs the next root. Raises as `open_epoch` does."""
    root = trusted.root
    opened = _open_first(store, root.administrators, identities, "the admin key")
    if opened is None:
        raise KeyRefused(
            f"none of the {len(identities)} identities given is an administrator's",
            hint=f"the administrators are: {_holders(root.administrators)}",
        )
    content, name = opened
    try:
        key = SigningKey.from_pem(content)
    except KeyRefused as err:
        raise RootInvalid(f"{name} does not hold a signing key") from err
    if key.public.public_hex != root.admin_key:
        raise RootInvalid(f"{name} does not hold the admin key of root {root.number}")
    return key


def seal_identity(identity: Identity, recipient: str) -> bytes:
    """An epoch's identity, for one reader."""
    return seal_to([recipient], f"{identity.secret()}\n".encode())


def seal_signing_key(key: SigningKey, recipient: str) -> bytes:
    """The admin key, for one administrator."""
    return seal_to([recipient], key.pem())


def check_sealed(store: Store, holder: Reader | Administrator) -> None:
    """Compare a sealed key with the root; needs no key. Raises `RootInvalid`."""
    _sealed(store, holder)


def _open_first(
    store: Store, holders: Sequence[Reader | Administrator], identities: Sequence[Identity], what: str
) -> tuple[bytes, str] | None:
    """The content of the first sealed object that one of ``identities`` is meant to open and does, and its name."""
    by_recipient = {identity.recipient: identity for identity in identities}
    problems: list[VerificationFailed | KeyRefused] = []
    for holder in holders:
        identity = by_recipient.get(holder.recipient)
        if identity is None:
            continue
        try:
            return identity.opens(_sealed(store, holder)), holder.object_name
        except (VerificationFailed, KeyRefused) as err:
            problems.append(err)
    if problems:
        raise RootInvalid(
            f"{what} cannot be opened: {'; '.join(map(str, problems))}", hint="try the identity of another person"
        ) from problems[-1]
    return None


def _sealed(store: Store, holder: Reader | Administrator) -> bytes:
    name = holder.object_name
    try:
        body = store.get(name, limit_bytes=SEALED_KEY_LIMIT_BYTES)
    except NotFound as err:
        raise RootInvalid(f"{name}, the key of {holder.label}, is missing from the store") from err
    except BodyTooLarge as err:
        raise RootInvalid(f"{name}, the key of {holder.label}, is larger than any key") from err
    if hashlib.sha256(body).hexdigest() != holder.sha256:
        raise RootInvalid(f"{name}, the key of {holder.label}, is not what the root says")
    return body


def _holders(holders: Sequence[Reader | Administrator]) -> str:
    return ", ".join(f"{holder.label} ({holder.recipient[:12]}...)" for holder in holders)
