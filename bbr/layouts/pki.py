"""Whether the keys and certificates of masters belong together, and until when they hold. Pure.

Source: kubeadm's certificate layout (``pki/ca``, ``pki/etcd/ca``, ``pki/front-proxy-ca``, ``pki/sa``). A rebuilt
cluster stands on three authorities and the service-account key: with another ``sa.key`` every token is refused, and
with an authority whose key does not match nothing can be issued.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from bbr.layouts.authority import loaded_key

PKI = PurePosixPath("/etc/kubernetes/pki")
AUTHORITIES = ("ca", "etcd/ca", "front-proxy-ca")
SHARED = (*(f"{name}.crt" for name in AUTHORITIES), *(f"{name}.key" for name in AUTHORITIES), "sa.key", "sa.pub")
"""What every master has alike, below `PKI`. Source: kubeadm's upload-certs."""

EXPIRES_SOON = timedelta(days=30)

Files = Mapping[PurePosixPath, bytes]


@dataclass(frozen=True, slots=True)
class Expiry:
    """Until when a certificate holds (UTC)."""

    host: str
    path: PurePosixPath
    not_after: datetime


@dataclass(frozen=True, slots=True)
class PkiReport:
    """``problems`` stand in the way of a rebuild; ``notes`` are what a person should know."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    expiries: tuple[Expiry, ...]


def check_pki(hosts: Mapping[str, Files], *, now: datetime) -> PkiReport:
    """Look at every certificate and key pair of every host, and at what all hosts must have alike."""
    problems: list[str] = []
    notes: list[str] = []
    expiries: list[Expiry] = []
    for host, files in sorted(hosts.items()):
        problems += (f"{host}: {problem}" for problem in _pair_problems(files))
        notes += (f"{host}: {note}" for note in _missing_keys(files))
        expiries += _expiries(host, files)
    problems += _differences(hosts)
    for one in expiries:
        is_authority = str(one.path.relative_to(PKI).with_suffix("")) in AUTHORITIES
        if one.not_after <= now:
            text = f"{one.host}: {one.path} has expired, on {one.not_after:%Y-%m-%d}"
            (problems if is_authority else notes).append(text)
        elif one.not_after <= now + EXPIRES_SOON:
            notes.append(f"{one.host}: {one.path} expires on {one.not_after:%Y-%m-%d}")
    return PkiReport(tuple(problems), tuple(notes), tuple(expiries))


def _pair_problems(files: Files) -> Iterator[str]:
    for path, body in sorted(files.items()):
        if path.suffix not in (".crt", ".pub") or not path.is_relative_to(PKI):
            continue
        public = _public(path, body)
        if public is None:
            yield f"{path} cannot be read as a {'certificate' if path.suffix == '.crt' else 'public key'}"
            continue
        key = path.with_suffix(".key")
        if key not in files:
            continue
        private = _public_of_private(files[key])
        if private is None:
            yield f"{key} cannot be read as a private key"
        elif private != public:
            yield f"{key} is not the key of {path}"


def _missing_keys(files: Files) -> Iterator[str]:
    for name in AUTHORITIES:
        certificate, key = PKI / f"{name}.crt", PKI / f"{name}.key"
        if certificate in files and key not in files:
            yield f"{key} is not there: an external authority, which alone can issue certificates for new hosts"


def _differences(hosts: Mapping[str, Files]) -> Iterator[str]:
    for name in SHARED:
        path = PKI / name
        found: dict[bytes, str] = {}
        for host, files in sorted(hosts.items()):
            if path in files:
                found.setdefault(files[path].strip(), host)
        if len(found) > 1:
            yield f"{path} differs between {' and '.join(found.values())}: what one issues, the other refuses"


def _expiries(host: str, files: Files) -> Iterator[Expiry]:
    for path, body in sorted(files.items()):
        if path.suffix == ".crt" and path.is_relative_to(PKI):
            for certificate in _certificates(body):
                yield Expiry(host, path, certificate.not_valid_after_utc)


def _certificates(body: bytes) -> Iterable[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(body)
    except ValueError:
        return ()


def _public(path: PurePosixPath, body: bytes) -> bytes | None:
    """The public key, as bytes that can be compared."""
    try:
        if path.suffix == ".crt":
            key = x509.load_pem_x509_certificates(body)[0].public_key()
        else:
            key = load_pem_public_key(body)  # type: ignore[assignment]
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError:
        return None


def _public_of_private(body: bytes) -> bytes | None:
    try:
        key = loaded_key(body)
    except (ValueError, TypeError):  # TypeError: one that is locked by a password
        return None
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
