"""Certificate authorities of a cluster: read, checked, and used to sign; and the certificates and keys in PEM. Pure.

What is read comes out of a backup: everything that may fail while it is used is made to fail while it is read.
Source: kubeadm's app/util/pkiutil, RFC 5280.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from bbr.errors import PreconditionFailed

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
KeyMaker = Callable[[object], PrivateKey]
"""A new key for a certificate, from the public key of the one before."""

Extension = TypeVar("Extension", bound=x509.ExtensionType)

_BACKDATED = timedelta(minutes=5)
"""Hosts' clocks differ."""

_RSA_BITS = range(2048, 8193)
"""A smaller key is refused by today's TLS; a larger one takes minutes to make."""

_RSA_MOST_BITS = 16384
"""OpenSSL's own limit."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


def read_authority(certificate: bytes, key: bytes, *, what: str, now: datetime) -> Authority:
    """The authority of these two files. Raises `PreconditionFailed` when they do not match, or it is not valid now.

    A bundle may hold several (while one authority replaces another): the one counts whose key this is.
    """
    private = read_private_key(key, what)
    match = [
        one
        for one in read_certificates(certificate, what)
        if public_bytes(one.public_key()) == public_bytes(private.public_key())
    ]
    if not match:
        raise PreconditionFailed(f"the key of {what} is not the key of its certificate")
    if not match[0].not_valid_before_utc <= now < match[0].not_valid_after_utc:
        raise PreconditionFailed(
            f"{what} holds from {match[0].not_valid_before_utc:%Y-%m-%d} to {match[0].not_valid_after_utc:%Y-%m-%d},"
            f" and it is {now:%Y-%m-%d}: nothing that it issues would be trusted",
            hint="renew the authority first (kubeadm's manual CA rotation)",
        )
    return Authority(match[0], private)


def dated(authority: Authority, *, now: datetime, lifetime: timedelta) -> x509.CertificateBuilder:
    """Everything that comes from the authority and the clock."""
    begin = max(now - _BACKDATED, authority.certificate.not_valid_before_utc)
    end = min(begin + lifetime, authority.certificate.not_valid_after_utc)
    ski = extension_of(authority.certificate, x509.SubjectKeyIdentifier)
    aki = (
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
        if ski
        else x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    )
    return (
        x509.CertificateBuilder()
        .issuer_name(authority.certificate.subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(aki, critical=False)
    )


def sign(builder: x509.CertificateBuilder, authority: Authority) -> x509.Certificate:
    """The certificate. Raises `PreconditionFailed` where an old one's extension can be read and not written."""
    key = authority.key
    # As Go does it: a hash of the curve's strength.
    large = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256
    strength = hashes.SHA384() if large else hashes.SHA256()
    try:
        return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else strength)
    except (ValueError, TypeError) as err:  # an extension of the old one that can be read and not written
        raise PreconditionFailed(f"{authority.certificate.subject.rfc4514_string()} cannot issue this again") from err


def key_like(public: object) -> PrivateKey:
    """A new key of the kind and size of this one."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public.curve)
    if isinstance(public, ed25519.Ed25519PublicKey):
        return ed25519.Ed25519PrivateKey.generate()
    size = public.key_size if isinstance(public, rsa.RSAPublicKey) else _RSA_BITS.start
    return rsa.generate_private_key(65537, size if size in _RSA_BITS else _RSA_BITS.start)


def throwaway_key(_: object) -> PrivateKey:
    """A P-256 key, made in no time, for certificates that nobody will use: RSA takes a second for each master."""
    return ec.generate_private_key(ec.SECP256R1())


def read_certificates(body: bytes, what: str) -> list[x509.Certificate]:
    """All certificates of a file. Raises `PreconditionFailed` for what is none."""
    try:
        found = x509.load_pem_x509_certificates(body)
        for one in found:
            _ = one.extensions, one.public_key()  # parsed late, and then a broken one would fail elsewhere
        return found
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as err:
        raise PreconditionFailed(f"{what} cannot be read as a certificate") from err


def read_private_key(body: bytes, what: str) -> PrivateKey:
    """A private key of a kind that servers take. Raises `PreconditionFailed` for another, or a locked one."""
    try:
        key = loaded_key(body)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:  # TypeError: one that is locked by a password
        raise PreconditionFailed(f"the key of {what} cannot be read as a private key") from err
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise PreconditionFailed(f"the key of {what} is neither RSA, ECDSA nor Ed25519")
    return key


@lru_cache(maxsize=128)
def loaded_key(body: bytes) -> PrivateKeyTypes:
    """A private key whose parts fit together. Raises `ValueError`, `TypeError` and `UnsupportedAlgorithm`.

    OpenSSL's own check of an RSA key also proves its primes, in 40 ms; three masters have 25 keys, asked for over and
    over. Whether they are primes matters to whoever made the key; that it signs for its certificate follows from the
    rest.
    """
    key = load_pem_private_key(body, password=None, unsafe_skip_rsa_key_validation=True)
    if isinstance(key, rsa.RSAPrivateKey) and not _fits_together(key.private_numbers()):
        raise ValueError("the parts of this RSA key do not fit together")
    return key


def _fits_together(key: rsa.RSAPrivateNumbers) -> bool:
    """Whether modulus, primes and exponents belong to one another. Source: RFC 8017, section 3.2."""
    p, q, e, n = key.p, key.q, key.public_numbers.e, key.public_numbers.n
    return (
        min(p, q, e) > 2
        and p & q & e & 1 == 1
        and n.bit_length() <= _RSA_MOST_BITS
        and p * q == n
        and all(key.d * e % (prime - 1) == 1 for prime in (p, q))
        and (key.dmp1, key.dmq1) == (key.d % (p - 1), key.d % (q - 1))
        and key.iqmp * q % p == 1
    )


def extension_of(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """An extension; None where the certificate has none of the kind."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def public_bytes(public: object) -> bytes:
    """A public key, as bytes that can be compared."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    """A private key in PEM: a secret."""
    old = not isinstance(key, ed25519.Ed25519PrivateKey)  # kubeadm's own format, which Ed25519 has not got
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL if old else PrivateFormat.PKCS8, NoEncryption()
    )
