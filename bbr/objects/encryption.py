"""Values that kube-apiserver encrypted: which provider and key, and whether a configuration still opens them. Pure.

    k8s:enc:<provider>:v1:<key name>:<sealed>

``aescbc``: an IV of 16 bytes, then AES-CBC with PKCS#7. ``aesgcm``: a nonce of 12 bytes, then AES-GCM with the etcd key
as authenticated data. ``secretbox`` and ``kms`` are not opened here. The keys are in the EncryptionConfiguration,
not in etcd: with another one the API server never gets ready, or answers 500 for every Secret.
Source: k8s.io/apiserver pkg/storage/value/encrypt/aes and its EncryptionConfiguration.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

PREFIX = b"k8s:enc:"
_IV_BYTES, _NONCE_BYTES = 16, 12
_OPENED_HERE = ("aescbc", "aesgcm")


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted value, taken apart."""

    provider: str
    key_name: str
    body: bytes


def parse_sealed(value: bytes) -> Sealed | None:
    """The parts of an encrypted value; None for one that is in the clear."""
    if not value.startswith(PREFIX):
        return None
    provider, _, rest = value[len(PREFIX) :].partition(b":")
    _version, _, rest = rest.partition(b":")
    key_name, _, body = rest.partition(b":")
    return Sealed(provider.decode(errors="replace"), key_name.decode(errors="replace"), body)


def why_sealed(configuration: bytes | None, key: bytes, value: bytes) -> str:
    """Why a stored value cannot be read with an EncryptionConfiguration; "" when it can, or needs none.

    ``key`` is the value's whole key in etcd. What only a KMS or another program can open counts as readable where the
    configuration names that provider.
    """
    sealed = parse_sealed(value)
    if sealed is None:
        return ""
    if configuration is None:
        return f"it is encrypted by {sealed.provider} key {sealed.key_name!r}, and there is no encryption configuration"
    keys = dict(_keys(configuration, sealed.provider))
    if sealed.key_name not in keys:
        return f"it is encrypted by {sealed.provider} key {sealed.key_name!r}, which the configuration does not have"
    if sealed.provider not in _OPENED_HERE:
        return ""
    opened = _opened(sealed, keys[sealed.key_name], key)
    return "" if opened else f"{sealed.provider} key {sealed.key_name!r} of the configuration does not open it"


def _keys(configuration: bytes, provider: str) -> Iterator[tuple[str, bytes]]:
    """(name, key) of every key of a provider, in all its resources; an empty key for one that is elsewhere."""
    try:
        document = yaml.safe_load(configuration)
        for resource in document["resources"]:
            for one in resource["providers"]:
                section = one.get(provider)
                if section and provider == "kms":
                    yield str(section["name"]), b""
                for key in (section or {}).get("keys") or ():
                    yield str(key["name"]), base64.b64decode(key["secret"], validate=True)
    except (yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError, binascii.Error):
        return


def _opened(sealed: Sealed, secret: bytes, key: bytes) -> bool:
    try:
        if sealed.provider == "aesgcm":
            AESGCM(secret).decrypt(sealed.body[:_NONCE_BYTES], sealed.body[_NONCE_BYTES:], key)
            return True
        cipher = Cipher(algorithms.AES(secret), modes.CBC(sealed.body[:_IV_BYTES])).decryptor()
        padded = cipher.update(sealed.body[_IV_BYTES:]) + cipher.finalize()
        unpadder = PKCS7(128).unpadder()
        clear = unpadder.update(padded) + unpadder.finalize()
    except (InvalidTag, ValueError):
        return False
    # CBC has no tag: a wrong key may end in a padding that fits, but not in an object.
    return clear.startswith((b"k8s\0", b"{"))
