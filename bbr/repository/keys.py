"""Keys: Ed25519 for what is signed, age X25519 for what is sealed. Nothing here touches a file or a store.

In this room the one module that uses pyrage and the cryptography package. Secrets never show in a repr. Sources:
RFC 8032 (Ed25519), RFC 8410 (its PKCS#8), c2sp.org/age (X25519 recipients).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyrage
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from pyrage import x25519

from bbr.errors import KeyRefused, VerificationFailed

KEY_ID_CHARACTERS = 16
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

SEALED_KEY_LIMIT_BYTES = 16 * 1024
"""Largest sealed key that is read from a store; they have a few hundred bytes."""

RECIPIENT = r"age1[02-9ac-hj-np-z]{58}"
"""What the text of an age X25519 recipient looks like (Bech32); its checksum is checked by `checked_recipient`."""


def key_id(public_raw: bytes) -> str:
    """What a signing key is called: the first 16 hex digits of the SHA-256 of its raw public half."""
    return hashlib.sha256(public_raw).hexdigest()[:KEY_ID_CHARACTERS]


class VerifyKey:
    """The public half of a signing key."""

    __slots__ = ("_key", "key_id", "public_raw")

    def __init__(self, public_raw: bytes) -> None:
        """Raises `KeyRefused` when these are not the 32 bytes of an Ed25519 key."""
        try:
            self._key = Ed25519PublicKey.from_public_bytes(public_raw)
        except ValueError as err:
            raise KeyRefused("not the 32 bytes of an Ed25519 public key") from err
        self.public_raw = public_raw
        self.key_id = key_id(public_raw)

    def __repr__(self) -> str:
        return f"VerifyKey({self.key_id})"

    @property
    def public_hex(self) -> str:
        """The raw public half in hex, as the root has it."""
        return self.public_raw.hex()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's over ``message``."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """An Ed25519 key that signs."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = VerifyKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def key_id(self) -> str:
        """What this key is called."""
        return self.public.key_id

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """The key in PEM PKCS#8; text before it is passed over. Raises `KeyRefused`, showing none of it."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise KeyRefused("not an unencrypted PEM private key") from err
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyRefused("a private key, but not an Ed25519 key")
        return cls(key)

    def pem(self) -> bytes:
        """The secret as PEM PKCS#8, unencrypted: only for a file of its owner, or to be sealed."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """64 bytes over ``message``; the same each time."""
        return self._key.sign(message)


class Identity:
    """An age X25519 identity: what opens, of a person, a safe, or an epoch."""

    __slots__ = ("_identity", "recipient")

    def __init__(self, identity: x25519.Identity) -> None:
        self._identity = identity
        self.recipient = str(identity.to_public())

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"

    @classmethod
    def generate(cls) -> Identity:
        """A new identity."""
        return cls(x25519.Identity.generate())

    @classmethod
    def parse(cls, text: str) -> Identity:
        """The identity that ``AGE-SECRET-KEY-1...`` is. Raises `KeyRefused`, without showing any of it."""
        try:
            return cls(x25519.Identity.from_str(text))
        except pyrage.IdentityError as err:
            raise KeyRefused("not an age X25519 identity (AGE-SECRET-KEY-1...)") from err

    def secret(self) -> str:
        """``AGE-SECRET-KEY-1...``: only for a file of its owner, or to be sealed."""
        return str(self._identity)

    def opens(self, body: bytes) -> bytes:
        """The content of an age file. Raises `KeyRefused` when sealed to others, `VerificationFailed` when damaged."""
        try:
            content: bytes = pyrage.decrypt(body, [self._identity])
        except pyrage.DecryptError as err:
            if str(err) == _SEALED_TO_OTHERS:
                raise KeyRefused(f"sealed to others than {self.recipient}") from err
            raise VerificationFailed(f"not a whole age file: {err}") from err
        return content


_SEALED_TO_OTHERS = "No matching keys found"


def checked_recipient(text: str) -> str:
    """The recipient itself. Raises `KeyRefused` when it is not an age X25519 recipient in its one form."""
    _recipient(text)
    return text


def seal_to(recipients: Sequence[str], content: bytes) -> bytes:
    """An age file that each of ``recipients`` can open alone."""
    body: bytes = pyrage.encrypt(content, [_recipient(text) for text in recipients])
    return body


def _recipient(text: str) -> x25519.Recipient:
    try:
        recipient = x25519.Recipient.from_str(text)
    except pyrage.RecipientError as err:
        raise KeyRefused(f"not an age X25519 recipient (age1...): {text[:80]!r}") from err
    if str(recipient) != text:  # Bech32 has an upper-case form; a name in the store is made of this text
        raise KeyRefused(f"not an age X25519 recipient in lower case: {text[:80]!r}")
    return recipient
