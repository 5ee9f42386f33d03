"""DSSE: the envelope around a signed document, and the exact bytes that a signature is over.

    {"payload": <base64>, "payloadType": <type>, "signatures": [{"keyid": <id>, "sig": <base64>}, ...]}
    PAE(type, payload) = "DSSEv1" SP len(type) SP type SP len(payload) SP payload

The type is signed too, so that no document can pass for one of another kind. What DSSE leaves open is fixed here, so
that an envelope has one form: canonical JSON, standard base64 with padding, signatures in the order of their key ids
and none twice. Source: github.com/secure-systems-lab/dsse, envelope.md and protocol.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bbr.errors import VerificationFailed
from bbr.repository import document
from bbr.repository.keys import KEY_ID_CHARACTERS, SIGNATURE_BYTES, SigningKey, VerifyKey

SIGNATURES_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature, and the id of the key that it claims to be of."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and what is signed with it. Opened, not yet believed: see `check_signatures`."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a signature is over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, keys: Sequence[SigningKey]) -> Envelope:
    """Sign with each of ``keys``; a key given twice signs once."""
    message = pae(payload_type, payload)
    by_id = {key.key_id: key for key in keys}
    signatures = tuple(Signature(key_id, by_id[key_id].sign(message)) for key_id in sorted(by_id))
    return Envelope(payload_type, payload, signatures)


def encode_envelope(envelope: Envelope) -> bytes:
    """The stored bytes."""
    return document.canonical(
        {
            "payload": base64.b64encode(envelope.payload).decode(),
            "payloadType": envelope.payload_type,
            "signatures": [
                {"keyid": one.key_id, "sig": base64.b64encode(one.value).decode()} for one in envelope.signatures
            ],
        }
    )


def decode_envelope(body: bytes, *, error: type[VerificationFailed], what: str) -> Envelope:
    """Open stored bytes, checking their form and no signature. The caller bounds the size."""
    fields = document.decode(body, _ENVELOPE, error=error, what=what)
    ids = [one.key_id for one in fields.signatures]
    if ids != sorted(set(ids)):
        raise error(f"{what}: signatures out of order, or two by one key")
    return fields


def check_signatures(
    envelope: Envelope, keys: Mapping[str, VerifyKey], *, error: type[VerificationFailed], what: str
) -> None:
    """Check that exactly ``keys`` (by id) signed, and each well: no signature missing, bad, or by anyone else."""
    message = pae(envelope.payload_type, envelope.payload)
    signed = {one.key_id: one.value for one in envelope.signatures}
    if signed.keys() != keys.keys():
        raise error(f"{what} is signed by {', '.join(sorted(signed)) or 'nobody'}, not by {', '.join(sorted(keys))}")
    for key_id, key in keys.items():
        if not key.verifies(signed[key_id], message):
            raise error(f"{what}: the signature of {key_id} is bad")


def _base64(value: object) -> bytes:
    """Standard base64. Loose bits in the last digit pass Python's decoder, so the text is made again and compared."""
    if isinstance(value, str):
        try:
            decoded = binascii.a2b_base64(value, strict_mode=True)
        except ValueError as err:  # binascii.Error, or not ASCII
            raise VerificationFailed(f"not base64: {err}") from err
        if binascii.b2a_base64(decoded, newline=False).decode() == value:
            return decoded
    raise VerificationFailed("not base64 in its one form")


def _signature_value(value: object) -> bytes:
    decoded = _base64(value)
    if len(decoded) != SIGNATURE_BYTES:
        raise VerificationFailed(f"a signature of {len(decoded)} bytes")
    return decoded


_SIGNATURE = document.Record(
    lambda keyid, sig: Signature(keyid, sig),
    {"keyid": document.matching(rf"[0-9a-f]{{{KEY_ID_CHARACTERS}}}"), "sig": _signature_value},
)
_ENVELOPE = document.Record(
    lambda payload, payloadType, signatures: Envelope(payloadType, payload, signatures),  # noqa: N803 - DSSE's names
    {
        "payload": _base64,
        "payloadType": document.text(100),
        "signatures": document.many(_SIGNATURE, SIGNATURES_LIMIT),
    },
)
