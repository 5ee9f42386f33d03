from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import ManifestInvalid, VerificationFailed
from bbr.repository.envelope import (
    Envelope,
    Signature,
    check_signatures,
    decode_envelope,
    encode_envelope,
    pae,
    sign,
)
from bbr.repository.keys import SigningKey

KEY = SigningKey.generate()
OTHER = SigningKey.generate()
KIND = "application/vnd.example+json"
BODY = encode_envelope(sign(KIND, b'{"a":1}', [KEY]))


def check(body: bytes, *keys: SigningKey) -> Envelope:
    envelope = decode_envelope(body, error=ManifestInvalid, what="it")
    check_signatures(envelope, {key.key_id: key.public for key in keys}, error=ManifestInvalid, what="it")
    return envelope


def test_signed_bytes_are_those_of_the_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected


def test_envelope_has_the_fields_of_the_specification() -> None:
    fields = json.loads(BODY)
    assert base64.b64decode(fields["payload"]) == b'{"a":1}'
    assert fields["payloadType"] == KIND
    assert [one["keyid"] for one in fields["signatures"]] == [KEY.key_id]


@given(st.text(min_size=1, max_size=90).filter(str.isprintable), st.binary())
def test_signed_payload_is_read_back(kind: str, payload: bytes) -> None:
    envelope = check(encode_envelope(sign(kind, payload, [KEY, OTHER])), KEY, OTHER)
    assert (envelope.payload_type, envelope.payload) == (kind, payload)


def test_key_given_twice_signs_once() -> None:
    assert len(sign(KIND, b"", [KEY, KEY]).signatures) == 1


def test_every_flipped_bit_is_refused() -> None:
    for place in range(len(BODY)):
        for bit in range(8):
            changed = bytearray(BODY)
            changed[place] ^= 1 << bit
            with pytest.raises(VerificationFailed):
                check(bytes(changed), KEY)


@given(st.binary())
def test_any_bytes_are_refused_in_the_callers_error(body: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        decode_envelope(body, error=ManifestInvalid, what="it")


def test_loose_bits_in_base64_are_refused() -> None:
    body = BODY.replace(b'"eyJhIjoxfQ=="', b'"eyJhIjoxfR=="')
    assert body != BODY
    with pytest.raises(ManifestInvalid, match="payload: not base64 in its one form"):
        decode_envelope(body, error=ManifestInvalid, what="it")


def test_missing_signature_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="is signed by"):
        check(BODY, KEY, OTHER)


def test_signature_by_anyone_else_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match=f"signed by {OTHER.key_id}, not by {KEY.key_id}"):
        check(encode_envelope(sign(KIND, b"{}", [OTHER])), KEY)


def test_unsigned_envelope_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="signed by nobody"):
        check(encode_envelope(Envelope(KIND, b"{}", ())), KEY)


def test_signature_under_the_id_of_another_key_is_refused() -> None:
    forged = Envelope(KIND, b"{}", (Signature(KEY.key_id, OTHER.sign(pae(KIND, b"{}"))),))
    with pytest.raises(ManifestInvalid, match=f"the signature of {KEY.key_id} is bad"):
        check(encode_envelope(forged), KEY)


def test_payload_signed_as_another_type_is_refused() -> None:
    signed = sign("application/vnd.other+json", b"{}", [KEY])
    with pytest.raises(ManifestInvalid, match="is bad"):
        check(encode_envelope(Envelope(KIND, b"{}", signed.signatures)), KEY)


def test_two_signatures_by_one_key_are_refused() -> None:
    signature = sign(KIND, b"{}", [KEY]).signatures[0]
    with pytest.raises(ManifestInvalid, match="two by one key"):
        check(encode_envelope(Envelope(KIND, b"{}", (signature, signature))), KEY)


def test_short_signature_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="a signature of 63 bytes"):
        check(encode_envelope(Envelope(KIND, b"{}", (Signature(KEY.key_id, bytes(63)),))), KEY)
