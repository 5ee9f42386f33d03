"""Every way in which TLS can fail, against a real etcd: the client says which it was, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from bbr.errors import EtcdTls, EtcdUnavailable
from bbr.etcd.address import parse_endpoint
from bbr.etcd.client import Credentials, EtcdClient
from bbr.etcd.handshake import why_tls_fails
from bbr.servers.certificates import Authority
from bbr.servers.etcd import EtcdServers
from bbr.servers.ports import free_ports
from tests.etcd.conftest import Serve, with_client

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


def refused(endpoint: str, credentials: Credentials) -> str:
    """What the client says. It has to be about TLS, and to have a hint."""
    with EtcdClient(endpoint, credentials) as client, pytest.raises(EtcdTls) as caught:
        client.status()
    assert endpoint in str(caught.value)
    assert caught.value.hint
    assert not caught.value.retry_may_help
    return str(caught.value)


def test_the_right_certificates_are_let_in(serve: Serve) -> None:
    authority = Authority("right")
    with serve(authority, authority.issue("etcd")) as endpoint:
        credentials = with_client(authority, authority.issue("client"))
        with EtcdClient(endpoint, credentials) as client:
            assert client.status().leader_id
        assert why_tls_fails(parse_endpoint(endpoint, credentials), credentials) is None


def from_another_authority(authority: Authority) -> Credentials:
    return with_client(Authority("wrong"), authority.issue("client"))


def that_trust_the_system(authority: Authority) -> Credentials:
    pair = authority.issue("client")
    return Credentials(None, pair.certificate, pair.key)


def without_a_certificate(authority: Authority) -> Credentials:
    return Credentials(authority.certificate)


def of_a_client_of_another_authority(authority: Authority) -> Credentials:
    return with_client(authority, Authority("wrong").issue("client"))


def that_have_expired(authority: Authority) -> Credentials:
    return with_client(authority, authority.issue("client", not_after=LONG_AGO))


def with_the_key_of_another(authority: Authority) -> Credentials:
    return Credentials(authority.certificate, authority.issue("client").certificate, authority.issue("client").key)


def with_a_ca_that_is_no_pem(authority: Authority) -> Credentials:
    pair = authority.issue("client")
    return Credentials(b"not \xff PEM", pair.certificate, pair.key)


def with_a_certificate_that_is_no_pem(authority: Authority) -> Credentials:
    return Credentials(authority.certificate, b"not PEM", authority.issue("client").key)


def with_a_key_that_is_no_pem(authority: Authority) -> Credentials:
    return Credentials(authority.certificate, authority.issue("client").certificate, b"not PEM")


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (from_another_authority, "unknown authority"),
        (that_trust_the_system, "unknown authority"),
        (without_a_certificate, "asks for a client certificate"),
        (of_a_client_of_another_authority, "refuses the client certificate"),
        (that_have_expired, "client certificate has expired"),
        (with_the_key_of_another, "do not belong together"),
        (with_a_ca_that_is_no_pem, "cannot be used"),
        (with_a_certificate_that_is_no_pem, "not PEM"),
        (with_a_key_that_is_no_pem, "cannot be used"),
    ],
)
def test_wrong_credentials_are_told_apart(
    credentials: Callable[[Authority], Credentials], words: str, serve: Serve
) -> None:
    authority = Authority("right")
    with serve(authority, authority.issue("etcd")) as endpoint:
        assert words in refused(endpoint, credentials(authority))


def test_an_expired_server_certificate_is_named(serve: Serve) -> None:
    authority = Authority("right")
    with serve(authority, authority.issue("etcd", not_after=LONG_AGO)) as endpoint:
        said = refused(endpoint, with_client(authority, authority.issue("client")))
    assert "the server's certificate has expired" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_for_other_names_is_named(host: str, serve: Serve) -> None:
    authority = Authority("right")
    with serve(authority, authority.issue("etcd", ["etcd.example", "10.1.2.3"])) as endpoint:
        own = endpoint.replace("127.0.0.1", host)
        said = refused(own, with_client(authority, authority.issue("client")))
    assert f"not made out to {host} (name mismatch)" in said


def test_plain_text_to_a_tls_server_is_named(serve: Serve) -> None:
    authority = Authority("right")
    with serve(authority, authority.issue("etcd")) as endpoint:
        assert "the endpoint says http://" in refused(endpoint.replace("https", "http"), Credentials())


def test_tls_to_a_plain_server_is_named(module_etcd: EtcdServers) -> None:
    authority = Authority("right")
    endpoint = module_etcd.endpoints[0].replace("http", "https")
    assert "does not speak TLS" in refused(endpoint, with_client(authority, authority.issue("client")))


def test_nobody_listening_is_not_blamed_on_tls() -> None:
    authority = Authority("right")
    endpoint = f"https://127.0.0.1:{free_ports(1)[0]}"
    with (
        EtcdClient(endpoint, with_client(authority, authority.issue("client"))) as client,
        pytest.raises(EtcdUnavailable, match="refused"),
    ):
        client.status()


def test_no_key_ever_reaches_an_error(serve: Serve) -> None:
    authority = Authority("right")
    credentials = with_client(authority, authority.issue("client"), username="root", password="secret-word")
    with serve(authority, authority.issue("etcd", ["etcd.example"])) as endpoint:
        said = refused(endpoint, credentials)
    assert "secret-word" not in said + repr(credentials)
    assert "PRIVATE" not in said + repr(credentials)
