"""Endpoints as people write them."""

from __future__ import annotations

import pytest

from bbr.errors import UsageError
from bbr.etcd.address import Address, Credentials, parse_endpoint

PLAIN = Credentials()
SECURE = Credentials(b"ca", b"certificate", b"key")


@pytest.mark.parametrize(
    ("endpoint", "credentials", "address"),
    [
        ("https://10.0.0.1:2379", SECURE, Address("10.0.0.1", 2379, True)),
        ("https://10.0.0.1", PLAIN, Address("10.0.0.1", 2379, True)),
        ("http://etcd.example:4001/", PLAIN, Address("etcd.example", 4001, False)),
        ("etcd.example:4001", PLAIN, Address("etcd.example", 4001, False)),
        ("etcd.example:4001", SECURE, Address("etcd.example", 4001, True)),
        ("https://[2001:db8::1]:2379", SECURE, Address("2001:db8::1", 2379, True)),
    ],
)
def test_endpoint_is_taken_apart(endpoint: str, credentials: Credentials, address: Address) -> None:
    assert parse_endpoint(endpoint, credentials) == address


def test_an_ipv6_address_goes_to_grpc_in_brackets() -> None:
    assert Address("2001:db8::1", 2379, True).target == "dns:///[2001:db8::1]:2379"
    assert Address("etcd.example", 2379, True).target == "dns:///etcd.example:2379"


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "https://",
        "ftp://a:1",
        "unix:///run/etcd",
        "https://a:port",
        "https://a:99999",
        "https://a/path",
        "https://u:p@a",
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="no etcd endpoint"):
        parse_endpoint(endpoint, PLAIN)


def test_certificates_that_would_not_be_used_are_refused() -> None:
    with pytest.raises(UsageError, match="would not use them"):
        parse_endpoint("http://a:1", SECURE)


@pytest.mark.parametrize("half", [{"certificate": b"c"}, {"key": b"k"}, {"password": "word"}])
def test_half_of_what_belongs_together_is_refused(half: dict[str, bytes]) -> None:
    with pytest.raises(UsageError):
        Credentials(**half)  # type: ignore[arg-type]


def test_secrets_are_not_printed() -> None:
    printed = repr(Credentials(b"ca", b"certificate", b"secret-key", "root", "secret-word"))
    assert "secret" not in printed
    assert "root" in printed
