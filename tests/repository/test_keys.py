from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import KeyRefused, VerificationFailed
from bbr.repository.keys import Identity, SigningKey, VerifyKey, checked_recipient, seal_to

IDENTITY = Identity.generate()
SEALED = seal_to([IDENTITY.recipient], b"secret content")


def test_signing_key_is_called_after_its_public_half() -> None:
    key = SigningKey.generate()
    assert key.key_id == hashlib.sha256(key.public.public_raw).hexdigest()[:16]
    assert VerifyKey(bytes.fromhex(key.public.public_hex)).key_id == key.key_id


def test_signature_is_over_one_message() -> None:
    key = SigningKey.generate()
    signature = key.sign(b"message")
    assert key.public.verifies(signature, b"message")
    assert not key.public.verifies(signature, b"Message")
    assert not key.public.verifies(signature[:-1], b"message")


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
def test_public_key_of_a_wrong_size_is_refused(raw: bytes) -> None:
    with pytest.raises(KeyRefused, match="32 bytes"):
        VerifyKey(raw)


def test_no_secret_shows_in_a_repr() -> None:
    key = SigningKey.generate()
    assert repr(key) == f"SigningKey({key.key_id})"
    assert repr(IDENTITY) == f"Identity({IDENTITY.recipient})"
    assert IDENTITY.secret() not in repr(IDENTITY)


def test_pem_holds_the_same_key_and_text_before_it_is_passed_over() -> None:
    key = SigningKey.generate()
    assert SigningKey.from_pem(b"# a comment\n" + key.pem()).key_id == key.key_id


@given(st.binary(max_size=300))
def test_pem_that_is_none_is_refused(pem: bytes) -> None:
    with pytest.raises(KeyRefused):
        SigningKey.from_pem(pem)


def test_pem_of_another_kind_of_key_is_refused() -> None:
    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyRefused, match="not an Ed25519 key") as caught:
        SigningKey.from_pem(pem)
    assert caught.value.exit_code == 12


def test_pem_with_a_passphrase_is_refused() -> None:
    pem = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    with pytest.raises(KeyRefused, match="not an unencrypted PEM"):
        SigningKey.from_pem(pem)


def test_identity_parses_from_its_secret() -> None:
    assert Identity.parse(IDENTITY.secret()).opens(SEALED) == b"secret content"


@given(st.text())
def test_text_that_is_no_identity_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        Identity.parse(text)
    assert str(caught.value) == "not an age X25519 identity (AGE-SECRET-KEY-1...)"


@given(st.text())
def test_text_that_is_no_recipient_is_refused(text: str) -> None:
    with pytest.raises(KeyRefused, match="not an age X25519 recipient"):
        checked_recipient(text)


def test_recipient_in_upper_case_is_refused() -> None:
    with pytest.raises(KeyRefused, match="not an age X25519 recipient"):
        checked_recipient(IDENTITY.recipient.upper())


def test_each_recipient_opens_what_was_sealed_to_several() -> None:
    second = Identity.generate()
    body = seal_to([IDENTITY.recipient, second.recipient], b"both")
    assert IDENTITY.opens(body) == second.opens(body) == b"both"


def test_identity_of_another_is_refused() -> None:
    with pytest.raises(KeyRefused, match="sealed to others") as caught:
        Identity.generate().opens(SEALED)
    assert caught.value.exit_code == 12


def test_age_file_that_was_cut_or_changed_is_refused() -> None:
    for size in range(len(SEALED)):
        with pytest.raises((VerificationFailed, KeyRefused)):
            IDENTITY.opens(SEALED[:size])
        with pytest.raises((VerificationFailed, KeyRefused)):
            IDENTITY.opens(SEALED[:size] + bytes([SEALED[size] ^ 1]) + SEALED[size + 1 :])
    with pytest.raises(VerificationFailed, match="not a whole age file"):
        IDENTITY.opens(SEALED + b"x")


@given(st.binary())
def test_bytes_that_are_no_age_file_are_refused(body: bytes) -> None:
    with pytest.raises(VerificationFailed, match="not a whole age file"):
        IDENTITY.opens(body)
