"""Certificates issued again: kinds of keys, bundles, dates, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from bbr.errors import PreconditionFailed
from bbr.layouts.authority import PrivateKey, read_authority
from bbr.layouts.reissue import (
    client_certificate,
    is_pair,
    issue,
    outline,
    read_leaf,
)
from bbr.layouts.renaming import MasterName, Renaming

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
RENAMING = Renaming({MasterName("m1", "10.0.0.1"): MasterName("m9", "10.0.0.9")})
RSA = rsa.generate_private_key(65537, 2048)


def pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate(
    key: PrivateKey,
    name: str,
    *,
    signer: PrivateKey | None = None,
    begin: datetime = NOW - YEAR,
    end: datetime = NOW + YEAR,
    hosts: tuple[str, ...] = (),
) -> bytes:
    """An authority's, or with ``signer`` a leaf of the authority "ca"."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if signer is None:
        usage = (True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(x509.KeyUsage(*usage), critical=True)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, hosts))), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    by = signer or key
    return builder.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(
        Encoding.PEM
    )


@pytest.mark.parametrize(
    "authority", [RSA, ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
@pytest.mark.parametrize("old", [RSA, ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()])
def test_a_leaf_of_every_kind_gets_a_new_key_of_its_kind(authority: PrivateKey, old: PrivateKey) -> None:
    leaf = read_leaf(certificate(old, "m1", signer=authority, hosts=("m1", "x.lab")), what="leaf")
    signer = read_authority(certificate(authority, "ca"), pem(authority), what="ca", now=NOW)
    issued = issue(outline(leaf, RENAMING, hosts=["10.0.0.9"]), signer, now=NOW)
    new = read_leaf(issued.certificate, what="new")
    assert is_pair(new, issued.key)
    assert not is_pair(new, pem(old))
    assert not is_pair(new, b"")
    assert (new.hosts, new.certificate.subject.rfc4514_string()) == (("m9", "x.lab", "10.0.0.9"), "CN=m9")
    key = load_pem_private_key(issued.key, password=None)
    assert type(key) is type(old)
    assert getattr(key, "key_size", 0) == getattr(old, "key_size", 0)
    new.certificate.verify_directly_issued_by(signer.certificate)
    assert repr(issued).count("PRIVATE") == repr(signer).count("PrivateKey") == 0


def test_a_new_leaf_is_taken_by_a_verifier_of_certificate_chains() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate(key, "ca")
    leaf = read_leaf(certificate(key, "m1", signer=key, hosts=("m1",)), what="leaf")
    issued = issue(outline(leaf, RENAMING), read_authority(ca, pem(key), what="ca", now=NOW), now=NOW)
    store = Store(x509.load_pem_x509_certificates(ca))
    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("m9"))
    assert len(verifier.verify(x509.load_pem_x509_certificate(issued.certificate), [])) == 2


@pytest.mark.parametrize(
    ("begin", "end", "wanted"),
    [
        (-YEAR, YEAR, (timedelta(minutes=-5), timedelta(days=100, minutes=-5))),
        (timedelta(minutes=-1), YEAR, (timedelta(minutes=-1), timedelta(days=100, minutes=-1))),
        (-YEAR, timedelta(days=40), (timedelta(minutes=-5), timedelta(days=40))),
    ],
)
def test_a_leaf_lasts_as_long_as_the_old_one_but_within_its_authority(
    begin: timedelta, end: timedelta, wanted: tuple[timedelta, timedelta]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate(key, "ca", begin=NOW + begin, end=NOW + end)
    old = certificate(key, "m1", signer=key, begin=NOW - timedelta(days=90), end=NOW + timedelta(days=10))
    signer = read_authority(ca, pem(key), what="ca", now=NOW)
    new = read_leaf(issue(outline(read_leaf(old, what="l"), RENAMING), signer, now=NOW).certificate, what="new")
    assert (new.certificate.not_valid_before_utc - NOW, new.certificate.not_valid_after_utc - NOW) == wanted


def test_of_a_bundle_the_authority_counts_whose_key_it_is_and_a_chain_is_kept() -> None:
    one, two = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    bundle = certificate(one, "ca") + certificate(two, "ca")
    signer = read_authority(bundle, pem(two), what="ca", now=NOW)
    leaf = read_leaf(certificate(one, "m1", signer=two) + certificate(two, "ca"), what="leaf")
    new = issue(outline(leaf, RENAMING), signer, now=NOW)
    first, second = x509.load_pem_x509_certificates(new.certificate)
    first.verify_directly_issued_by(signer.certificate)
    assert second == leaf.chain[0]


def test_a_client_of_ours_lives_shortly_and_may_only_be_a_client() -> None:
    ca = certificate(RSA, "ca")
    made, key = client_certificate(
        ca, pem(RSA), common_name="bbr", organization="system:masters", lifetime=timedelta(hours=1), now=NOW
    )
    leaf = read_leaf(made, what="client")
    assert is_pair(leaf, key)
    assert leaf.certificate.subject.rfc4514_string() == "CN=bbr,O=system:masters"
    assert leaf.certificate.not_valid_after_utc == NOW + timedelta(minutes=55)
    usage = leaf.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf.certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))


@pytest.mark.parametrize(
    ("body", "key", "says"),
    [
        (certificate(RSA, "ca"), pem(ed25519.Ed25519PrivateKey.generate()), "is not the key of its certificate"),
        (certificate(RSA, "ca", end=NOW), pem(RSA), "nothing that it issues would be trusted"),
        (certificate(RSA, "ca", begin=NOW + timedelta(days=1)), pem(RSA), "nothing that it issues would be trusted"),
        (b"nonsense", pem(RSA), "cannot be read as a certificate"),
        (certificate(RSA, "ca"), b"nonsense", "cannot be read as a private key"),
    ],
)
def test_an_authority_that_cannot_issue_is_refused(body: bytes, key: bytes, says: str) -> None:
    with pytest.raises(PreconditionFailed, match=says):
        read_authority(body, key, what="ca", now=NOW)


def test_an_authoritys_certificate_is_no_leaf() -> None:
    with pytest.raises(PreconditionFailed, match="leaf is an authority's certificate"):
        read_leaf(certificate(RSA, "ca"), what="leaf")
