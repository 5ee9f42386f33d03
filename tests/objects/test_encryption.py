"""Encrypted values: sealed here as kube-apiserver seals them, and opened with the right and the wrong configuration."""

from __future__ import annotations

import base64
import os

import pytest
import yaml
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from bbr.objects.encryption import Sealed, parse_sealed, why_sealed

KEY = b"/registry/secrets/default/password"
OBJECT = b"k8s\0" + b"an object" * 20
RIGHT, WRONG = os.urandom(32), os.urandom(32)


def sealed_cbc(secret: bytes, name: str = "key1") -> bytes:
    padder = PKCS7(128).padder()
    padded = padder.update(OBJECT) + padder.finalize()
    iv = os.urandom(16)
    cipher = Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor()
    return f"k8s:enc:aescbc:v1:{name}:".encode() + iv + cipher.update(padded) + cipher.finalize()


def sealed_gcm(secret: bytes, key: bytes = KEY, name: str = "key1") -> bytes:
    nonce = os.urandom(12)
    return f"k8s:enc:aesgcm:v1:{name}:".encode() + nonce + AESGCM(secret).encrypt(nonce, OBJECT, key)


def configuration(provider: str, secret: bytes, name: str = "key1") -> bytes:
    keys = {"keys": [{"name": name, "secret": base64.b64encode(secret).decode()}]}
    providers = [{provider: keys}, {"identity": {}}]
    document = {"kind": "EncryptionConfiguration", "resources": [{"resources": ["secrets"], "providers": providers}]}
    return yaml.safe_dump(document).encode()


def test_a_value_in_the_clear_needs_no_configuration() -> None:
    assert parse_sealed(OBJECT) is None
    assert why_sealed(None, KEY, OBJECT) == ""


def test_a_value_is_taken_apart() -> None:
    assert parse_sealed(b"k8s:enc:aescbc:v1:key:1:body") == Sealed("aescbc", "key", b"1:body")
    assert parse_sealed(b"k8s:enc:") == Sealed("", "", b"")


@pytest.mark.parametrize(("provider", "value"), [("aescbc", sealed_cbc(RIGHT)), ("aesgcm", sealed_gcm(RIGHT))])
def test_the_right_configuration_opens_it_and_a_wrong_one_does_not(provider: str, value: bytes) -> None:
    assert why_sealed(configuration(provider, RIGHT), KEY, value) == ""
    assert why_sealed(configuration(provider, WRONG), KEY, value) == (
        f"{provider} key 'key1' of the configuration does not open it"
    )
    assert why_sealed(None, KEY, value) == (
        f"it is encrypted by {provider} key 'key1', and there is no encryption configuration"
    )
    assert "which the configuration does not have" in why_sealed(configuration(provider, RIGHT, "key2"), KEY, value)
    assert "which the configuration does not have" in why_sealed(b"[", KEY, value)


def test_a_value_that_was_moved_to_another_key_does_not_open() -> None:
    value = sealed_gcm(RIGHT, b"/registry/secrets/default/other")
    assert "does not open it" in why_sealed(configuration("aesgcm", RIGHT), KEY, value)


def test_what_a_kms_sealed_is_believed_where_the_configuration_names_it() -> None:
    value = b"k8s:enc:kms:v2:vault:sealed"
    named = b"resources: [{resources: [secrets], providers: [{kms: {apiVersion: v2, name: vault, endpoint: x}}]}]"
    assert why_sealed(named, KEY, value) == ""
    assert "which the configuration does not have" in why_sealed(named.replace(b"vault", b"other"), KEY, value)


@pytest.mark.parametrize("cut", [0, 5, 20, 40])
def test_a_cut_value_does_not_open(cut: int) -> None:
    for provider, value in (("aescbc", sealed_cbc(RIGHT)), ("aesgcm", sealed_gcm(RIGHT))):
        assert why_sealed(configuration(provider, RIGHT), KEY, value[: len("k8s:enc:aescbc:v1:key1:") + cut])
