"""Certificates that an authority outside has signed for a new master: named, and held against what was asked. Pure.

A certificate that comes back is not believed: it must be of the key that was made for it, say at least what was asked
for, be issued by the cluster's own authority, and hold now. What does not would be found at the first connection, when
the old control plane is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from bbr.errors import PreconditionFailed
from bbr.layouts.authority import extension_of, read_certificates
from bbr.layouts.reissue import Csr, Issued, is_pair, read_leaf

Signed = Mapping[str, Issued]
"""What was given for one master, by `request_name`."""

_IDENTITY = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
"""Users and groups to Kubernetes."""


def request_name(path: PurePosixPath) -> str:
    """What a request for the file ``path`` is called: ``apiserver``, ``etcd-peer``, ``kubelet.conf``."""
    parts = path.parts[path.parts.index("pki") + 1 :] if "pki" in path.parts else (path.name,)
    return "-".join(parts).removesuffix(".crt")


def signed_for(asked: Csr, given: Signed, authority: bytes | None, *, now: datetime) -> Issued | None:
    """What was given for a request; None where nothing was. ``authority``: the file of the one that must have signed.

    Raises `PreconditionFailed` for one that does not say what was asked, or that nobody would trust.
    """
    name = request_name(asked.path)
    issued = given.get(name)
    if issued is None:
        return None
    leaf = read_leaf(issued.certificate, what=f"the certificate {name}.crt that was given")
    if not is_pair(leaf, issued.key):
        raise _refused(name, f"it is not of the key {name}.key")
    if not any(_is_from(leaf.certificate, one) for one in read_certificates(authority or b"", "the authority")):
        raise _refused(name, "the cluster's authority did not sign it")
    if not leaf.certificate.not_valid_before_utc <= now < leaf.certificate.not_valid_after_utc:
        raise _refused(name, "it does not hold now")
    lacking = _lacking(leaf.certificate, x509.load_pem_x509_csr(asked.request))
    if lacking:
        raise _refused(name, f"it lacks {lacking}")
    return issued


def _refused(name: str, why: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"the certificate {name}.crt that was given cannot be used: {why}",
        hint=f"have {name}.csr signed as it is by the owner of the cluster's authority",
    )


def _is_from(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _lacking(certificate: x509.Certificate, asked: x509.CertificateSigningRequest) -> str:
    """What was asked for and is not in the certificate; "" when all of it is."""
    for oid in _IDENTITY:
        wanted = {str(one.value) for one in asked.subject.get_attributes_for_oid(oid)}
        if wanted != {str(one.value) for one in certificate.subject.get_attributes_for_oid(oid)}:
            return f"the subject {asked.subject.rfc4514_string()}"
    names = set(extension_of(certificate, x509.SubjectAlternativeName) or ())
    missing = [str(name.value) for name in _asked(asked, x509.SubjectAlternativeName) if name not in names]
    if missing:
        return ", ".join(missing)
    usages = set(extension_of(certificate, x509.ExtendedKeyUsage) or ())
    unusable = [usage for usage in _asked(asked, x509.ExtendedKeyUsage) if usage not in usages]
    return f"the extended key usage {unusable[0].dotted_string}" if unusable else ""


def _asked(asked: x509.CertificateSigningRequest, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(asked.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return ()
