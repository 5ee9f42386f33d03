"""Keys and certificates of masters: what belongs together, what differs, what expires."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from bbr.layouts.pki import PKI, PkiReport, check_pki

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LONG = NOW + timedelta(days=3650)


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate(key: ec.EllipticCurvePrivateKey, not_after: datetime = LONG) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    built = builder.not_valid_before(NOW - timedelta(days=3000)).not_valid_after(not_after)
    return built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


CA, ETCD, FRONT, ACCOUNTS, LEAF, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(6))
MASTER = {
    "ca.crt": certificate(CA),
    "ca.key": private(CA),
    "etcd/ca.crt": certificate(ETCD),
    "etcd/ca.key": private(ETCD),
    "front-proxy-ca.crt": certificate(FRONT),
    "front-proxy-ca.key": private(FRONT),
    "sa.key": private(ACCOUNTS),
    "sa.pub": public(ACCOUNTS),
    "apiserver.crt": certificate(LEAF, NOW + timedelta(days=300)),
    "apiserver.key": private(LEAF),
}


def check(*changes: Mapping[str, bytes | None]) -> PkiReport:
    """Masters m1, m2, ... that are alike but for these changes."""
    hosts = {}
    for number, change in enumerate(changes, 1):
        files = {name: body for name, body in {**MASTER, **change}.items() if body is not None}
        hosts[f"m{number}"] = {PKI / name: body for name, body in files.items()}
    return check_pki(hosts, now=NOW)


def test_masters_that_belong_together_have_no_problem() -> None:
    report = check({}, {}, {})
    assert (report.problems, report.notes) == ((), ())
    assert {
        (one.host, one.path.name, one.not_after) for one in report.expiries if one.path.name == "apiserver.crt"
    } == {(f"m{number}", "apiserver.crt", NOW + timedelta(days=300)) for number in (1, 2, 3)}


@pytest.mark.parametrize(
    ("name", "body", "problem"),
    [
        ("ca.key", private(OTHER), "m1: /etc/kubernetes/pki/ca.key is not the key of /etc/kubernetes/pki/ca.crt"),
        ("sa.pub", public(OTHER), "m1: /etc/kubernetes/pki/sa.key is not the key of /etc/kubernetes/pki/sa.pub"),
        ("apiserver.key", b"nonsense", "m1: /etc/kubernetes/pki/apiserver.key cannot be read as a private key"),
        ("etcd/ca.crt", b"nonsense", "m1: /etc/kubernetes/pki/etcd/ca.crt cannot be read as a certificate"),
        ("sa.pub", b"nonsense", "m1: /etc/kubernetes/pki/sa.pub cannot be read as a public key"),
        (
            "ca.crt",
            certificate(CA, NOW - timedelta(days=1)),
            "m1: /etc/kubernetes/pki/ca.crt has expired, on 2026-11-23",
        ),
    ],
)
def test_what_does_not_hold_is_a_problem(name: str, body: bytes, problem: str) -> None:
    assert check({name: body}).problems == (problem,)


def test_service_account_keys_that_differ_are_a_problem() -> None:
    report = check({}, {"sa.key": private(OTHER), "sa.pub": public(OTHER)})
    assert report.problems == (
        "/etc/kubernetes/pki/sa.key differs between m1 and m2: what one issues, the other refuses",
        "/etc/kubernetes/pki/sa.pub differs between m1 and m2: what one issues, the other refuses",
    )


def test_an_authority_without_its_key_is_a_note() -> None:
    report = check({"ca.key": None})
    assert report.problems == ()
    assert "an external authority" in report.notes[0]


@pytest.mark.parametrize(("days", "says"), [(-1, "has expired, on 2026-11-23"), (20, "expires on 2026-12-14")])
def test_a_leaf_that_expires_is_a_note(days: int, says: str) -> None:
    report = check({"apiserver.crt": certificate(LEAF, NOW + timedelta(days=days))})
    assert (report.problems, report.notes) == ((), (f"m1: /etc/kubernetes/pki/apiserver.crt {says}",))


def test_certificates_elsewhere_are_not_looked_at() -> None:
    assert check_pki({"m1": {PurePosixPath("/opt/x.crt"): b"nonsense"}}, now=NOW) == PkiReport((), (), ())
