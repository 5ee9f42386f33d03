"""Throw-away certificates, judged by real handshakes of OpenSSL."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bbr.servers.certificates import Authority, Pair

EXPIRED, UNKNOWN_AUTHORITY, OTHER_NAME, OTHER_ADDRESS = 10, 20, 62, 64  # X509_V_ERR_* of OpenSSL's x509_vfy.h


@contextmanager
def server(pair: Pair, folder: Path, client_authority: Authority | None = None) -> Iterator[socket.socket]:
    """The client's end of a connection whose other end shakes hands with ``pair``."""
    file = folder / "server.pem"
    file.write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority.certificate.decode())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True) as connection:
                connection.sendall(b"hello")
        except (ssl.SSLError, OSError):  # the client's error is what a test looks at
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours:
            ours.settimeout(20)
            yield ours
    finally:
        thread.join()


def greeting(connection: socket.socket, authority: Authority, host: str, own: Path | None = None) -> bytes:
    """What the server says, once it is trusted. Raises as `ssl` does."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if own:
        context.load_cert_chain(own)
    with context.wrap_socket(connection, server_hostname=host) as wrapped:
        return wrapped.recv(16)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_certificate_is_trusted_for_loopback(host: str, tmp_path: Path) -> None:
    authority = Authority("ours")
    with server(authority.issue("etcd"), tmp_path) as connection:
        assert greeting(connection, authority, host) == b"hello"


def refusal(pair: Pair, authority: Authority, host: str, folder: Path) -> int:
    with server(pair, folder) as connection, pytest.raises(ssl.SSLCertVerificationError) as caught:
        greeting(connection, authority, host)
    return caught.value.verify_code


def test_certificate_of_another_authority_of_the_same_name_is_refused(tmp_path: Path) -> None:
    pair = Authority("ours").issue("etcd")
    # The name is that of the issuer, so OpenSSL gets as far as the signature.
    assert refusal(pair, Authority("ours"), "localhost", tmp_path) in (7, UNKNOWN_AUTHORITY)
    assert refusal(pair, Authority("another"), "localhost", tmp_path) == UNKNOWN_AUTHORITY


def test_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority("ours")
    pair = authority.issue("etcd", not_after=datetime.now(UTC) - timedelta(hours=1))
    assert refusal(pair, authority, "localhost", tmp_path) == EXPIRED


def test_certificate_for_other_hosts_is_refused(tmp_path: Path) -> None:
    authority = Authority("ours")
    pair = authority.issue("etcd", ["etcd-1.example", "192.0.2.1"])
    assert refusal(pair, authority, "localhost", tmp_path) == OTHER_NAME
    assert refusal(pair, authority, "127.0.0.1", tmp_path) == OTHER_ADDRESS


def test_one_certificate_serves_and_calls(tmp_path: Path) -> None:
    authority = Authority("ours")
    client = authority.issue("root")
    (tmp_path / "client.pem").write_bytes(client.certificate + client.key)
    with server(authority.issue("etcd"), tmp_path, client_authority=authority) as connection:
        assert greeting(connection, authority, "localhost", tmp_path / "client.pem") == b"hello"


def test_keys_are_p256_and_the_common_name_is_the_one_asked_for() -> None:
    certificate = x509.load_pem_x509_certificate(Authority("ours").issue("root").certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert certificate.subject.rfc4514_string() == "CN=root"
