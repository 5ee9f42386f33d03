"""A master's certificates issued again from the cluster's own authorities. Pure: randomness, but no files.

A new leaf is the old one with other names: subject, usages and all other extensions are copied, old masters' names and
addresses are swapped for the new ones, and the key is new, of the old one's kind and size. It begins five minutes ago
(hosts' clocks differ) but not before its authority, and ends with its authority at the latest; otherwise it lasts as
long as the old one did. Source: kubeadm's app/util/pkiutil, RFC 5280.

Where the authority's key is not there (an external CA), there is a signing request instead.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bbr.errors import PreconditionFailed
from bbr.layouts.authority import (
    Authority,
    KeyMaker,
    PrivateKey,
    certificate_pem,
    dated,
    extension_of,
    key_like,
    key_pem,
    public_bytes,
    read_authority,
    read_certificates,
    read_private_key,
    sign,
)
from bbr.layouts.renaming import Renaming

_SHORTEST = timedelta(days=1)

_RENEWED = (
    x509.SubjectAlternativeName,
    x509.AuthorityKeyIdentifier,
    x509.SubjectKeyIdentifier,
    x509.BasicConstraints,
)
"""Extensions that are made anew; all others are copied."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Csr:
    """What an external authority is asked to sign for the file ``path``, and the key that belongs to it. In PEM."""

    path: PurePosixPath
    request: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that a master has: ``certificate``, and the ``chain`` that stands behind it in its file."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names and addresses that it holds for."""
        return tuple(_host_of(name) for name in _alternatives(self.certificate))


@dataclass(frozen=True, slots=True)
class Outline:
    """What a new leaf is to say: the old leaf, and the subject and the names that it gets."""

    old: Leaf
    subject: x509.Name
    names: tuple[x509.GeneralName, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names and addresses that the new one holds for."""
        return tuple(_host_of(name) for name in self.names)

    @property
    def is_new(self) -> bool:
        """Whether it says anything else than the old one."""
        return self.subject != self.old.certificate.subject or set(self.names) != set(
            _alternatives(self.old.certificate)
        )


def read_leaf(body: bytes, *, what: str) -> Leaf:
    """The certificate in a file. Raises `PreconditionFailed` for what is none, or is an authority itself."""
    first, *chain = read_certificates(body, what)
    constraints = extension_of(first, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise PreconditionFailed(f"{what} is an authority's certificate, where a server's or client's was expected")
    return Leaf(first, tuple(chain))


def is_pair(leaf: Leaf, key: bytes) -> bool:
    """Whether this is the private key of this certificate."""
    try:
        return public_bytes(read_private_key(key, "a key").public_key()) == public_bytes(leaf.certificate.public_key())
    except PreconditionFailed:
        return False


def outline(leaf: Leaf, renaming: Renaming, *, hosts: Collection[str] = ()) -> Outline:
    """The leaf with the new names; ``hosts`` are names and addresses that it must hold for besides."""
    subject = x509.Name(
        x509.RelativeDistinguishedName(
            x509.NameAttribute(one.oid, renaming.name(str(one.value)))
            if one.oid == NameOID.COMMON_NAME and renaming.name(str(one.value)) != one.value
            else one
            for one in part
        )
        for part in leaf.certificate.subject.rdns
    )
    swapped = [_swapped(name, renaming) for name in _alternatives(leaf.certificate)]
    return Outline(leaf, subject, tuple(dict.fromkeys([*swapped, *map(_name_of, hosts)])))


def issue(wanted: Outline, authority: Authority, *, now: datetime, new_key: KeyMaker = key_like) -> Issued:
    """The new leaf, with the old one's chain behind it."""
    old = wanted.old.certificate
    key = new_key(old.public_key())
    lifetime = max(old.not_valid_after_utc - old.not_valid_before_utc, _SHORTEST)
    builder = dated(authority, now=now, lifetime=lifetime).subject_name(wanted.subject).public_key(key.public_key())
    for extension, critical in _extensions(wanted, key):
        builder = builder.add_extension(extension, critical)
    certificate = sign(builder, authority)
    return Issued(b"".join(certificate_pem(one) for one in (certificate, *wanted.old.chain)), key_pem(key))


def request(wanted: Outline, path: PurePosixPath) -> Csr:
    """The same, to be signed by an authority whose key is elsewhere."""
    key = key_like(wanted.old.certificate.public_key())
    builder = x509.CertificateSigningRequestBuilder().subject_name(wanted.subject)
    for extension, critical in _extensions(wanted, key):
        builder = builder.add_extension(extension, critical)
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return Csr(path, signed.public_bytes(Encoding.PEM), key_pem(key))


def client_certificate(
    ca_crt: bytes, ca_key: bytes, *, common_name: str, organization: str, lifetime: timedelta, now: datetime
) -> tuple[bytes, bytes]:
    """A client's certificate and key, in PEM: P-256, for ``lifetime`` but not longer than the authority.

    ``organization`` is a group to Kubernetes (empty: none). Raises `PreconditionFailed` as `read_authority` does.
    """
    authority = read_authority(ca_crt, ca_key, what=f"the authority for {common_name}", now=now)
    issued = issue_client(authority, common_name=common_name, organization=organization, lifetime=lifetime, now=now)
    return issued.certificate, issued.key


def issue_client(
    authority: Authority,
    *,
    common_name: str,
    organization: str,
    lifetime: timedelta,
    now: datetime,
    like: x509.Certificate | None = None,
    new_key: KeyMaker = key_like,
) -> Issued:
    """A client's certificate. Its key is of the kind that ``like`` has, else P-256."""
    key = new_key(like.public_key()) if like else ec.generate_private_key(ec.SECP256R1())
    builder = dated(authority, now=now, lifetime=lifetime).subject_name(_client(common_name, organization))
    builder = builder.public_key(key.public_key())
    for extension, critical in _client_extensions():
        builder = builder.add_extension(extension, critical)
    return Issued(certificate_pem(sign(builder, authority)), key_pem(key))


def request_client(path: PurePosixPath, *, common_name: str, organization: str) -> Csr:
    """A client's signing request, with a P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(_client(common_name, organization))
    for extension, critical in _client_extensions():
        builder = builder.add_extension(extension, critical)
    return Csr(path, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), key_pem(key))


def _client(common_name: str, organization: str) -> x509.Name:
    names = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, common_name)]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names if value])


def _client_extensions() -> Iterator[tuple[x509.ExtensionType, bool]]:
    # As kubeadm has them: digital signature and key encipherment, critical.
    yield x509.KeyUsage(True, False, True, False, False, False, False, False, False), True
    yield x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False
    yield x509.BasicConstraints(ca=False, path_length=None), True


def _extensions(wanted: Outline, key: PrivateKey) -> Iterator[tuple[x509.ExtensionType, bool]]:
    for one in wanted.old.certificate.extensions:
        if not isinstance(one.value, _RENEWED):
            yield one.value, one.critical
        elif isinstance(one.value, x509.SubjectKeyIdentifier):
            yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), one.critical
    yield x509.BasicConstraints(ca=False, path_length=None), True
    if wanted.names:
        yield x509.SubjectAlternativeName(wanted.names), False


def _swapped(name: x509.GeneralName, renaming: Renaming) -> x509.GeneralName:
    new = renaming.host(_host_of(name)) if isinstance(name, x509.DNSName | x509.IPAddress) else ""
    return _name_of(new) if new and new != _host_of(name) else name


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:  # a name, then
        return x509.DNSName(host)


def _host_of(name: x509.GeneralName) -> str:
    return str(name.value)


def _alternatives(certificate: x509.Certificate) -> Iterable[x509.GeneralName]:
    return extension_of(certificate, x509.SubjectAlternativeName) or ()
