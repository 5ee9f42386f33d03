"""What an authority outside gave back: taken when it is what was asked for, and refused by name when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bbr.errors import PreconditionFailed
from bbr.layouts.authority import certificate_pem, key_pem
from bbr.layouts.reissue import Csr, Issued, outline, read_leaf, request, request_client
from bbr.layouts.renaming import MasterName, Renaming
from bbr.layouts.signed import request_name, signed_for

NOW = datetime.now(UTC) + timedelta(hours=2)  # after what kubeadm makes later in the same run
PATH = PurePosixPath("/etc/kubernetes/kubelet.conf")
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])


def certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *extensions: x509.ExtensionType,
    by: ec.EllipticCurvePrivateKey = KEY,
    ends: timedelta = timedelta(days=1),
) -> x509.Certificate:
    builder = x509.CertificateBuilder(NAME, subject, key, x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=2)).not_valid_after(NOW + ends)
    for one in extensions:
        builder = builder.add_extension(one, critical=False)
    return builder.sign(by, hashes.SHA256())


AUTHORITY = certificate_pem(certificate(NAME, KEY.public_key(), x509.BasicConstraints(True, None)))


def asked_of(user: str = "system:node:n1") -> tuple[Csr, x509.CertificateSigningRequest]:
    csr = request_client(PATH, common_name=user, organization="system:nodes")
    return csr, x509.load_pem_x509_csr(csr.request)


def extensions_of(csr: x509.CertificateSigningRequest) -> list[x509.ExtensionType]:
    return [one.value for one in csr.extensions]


def test_names_of_requests() -> None:
    pki = PurePosixPath("/etc/kubernetes/pki")
    assert [request_name(pki / one) for one in ("apiserver.crt", "etcd/peer.crt")] == ["apiserver", "etcd-peer"]
    assert request_name(PATH) == "kubelet.conf"


def test_what_was_asked_for_is_taken_also_when_it_is_asked_again() -> None:
    csr, parsed = asked_of()
    public = parsed.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    issued = Issued(certificate_pem(certificate(parsed.subject, public, *extensions_of(parsed))), csr.key)
    again, _ = asked_of()
    for one in (csr, again):
        assert signed_for(one, {"kubelet.conf": issued}, AUTHORITY, now=NOW) == issued
    assert signed_for(csr, {}, AUTHORITY, now=NOW) is None


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("key", "it is not of the key kubelet.conf.key"),
        ("authority", "the cluster's authority did not sign it"),
        ("time", "it does not hold now"),
        ("subject", "it lacks the subject"),
        ("usage", "it lacks the extended key usage"),
    ],
)
def test_another_one_is_refused(what: str, says: str) -> None:
    csr, parsed = asked_of("system:node:n2" if what == "subject" else "system:node:n1")
    public = parsed.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    given = certificate(
        parsed.subject,
        public,
        *(extensions_of(parsed) if what != "usage" else ()),
        by=OTHER if what == "authority" else KEY,
        ends=timedelta(days=-1) if what == "time" else timedelta(days=1),
    )
    issued = Issued(certificate_pem(given), key_pem(OTHER) if what == "key" else csr.key)
    with pytest.raises(PreconditionFailed, match=says):
        signed_for(asked_of()[0], {"kubelet.conf": issued}, AUTHORITY, now=NOW)


def test_a_server_needs_every_name_that_was_asked_for() -> None:
    old = certificate(NAME, OTHER.public_key(), x509.SubjectAlternativeName([x509.DNSName("m1")]))
    masters = Renaming({MasterName("m1", "10.0.0.1"): MasterName("n1", "10.0.0.2")})
    path = PurePosixPath("/etc/kubernetes/pki/apiserver.crt")
    wanted = outline(read_leaf(certificate_pem(old), what="it"), masters, hosts=["10.0.0.2"])
    csr = request(wanted, path)
    public = x509.load_pem_x509_csr(csr.request).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    given = certificate(NAME, public, x509.SubjectAlternativeName([x509.DNSName("n1")]))
    with pytest.raises(PreconditionFailed, match=r"it lacks 10\.0\.0\.2"):
        signed_for(csr, {"apiserver": Issued(certificate_pem(given), csr.key)}, AUTHORITY, now=NOW)
