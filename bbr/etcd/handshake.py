"""Why a connection to etcd fails, found out by a handshake of our own.

gRPC reports every connection that fails as UNAVAILABLE, with a text that is made for its own developers and changes
from release to release. Python's ``ssl`` gives reasons as numbers. So after such a failure the same address is tried
once more here, with the same certificates, and the reason is put in words.

What gRPC 1.85 says, after "failed to connect to all addresses; last error: ... ", seen with etcd 3.6:

    server's CA is not ours     Tls handshake failed ... VERIFY_FAILED: unable to get local issuer certificate
    certificate has expired     Tls handshake failed ... VERIFY_FAILED: certificate has expired
    is not valid yet            Tls handshake failed ... VERIFY_FAILED: certificate is not yet valid
    is made out to other names  Custom verification check failed ...: Hostname Verification Check failed.
    no client certificate       Unwrap failed (TSI_DATA_CORRUPTED)
    server refuses client's    the same: its CA is another one, or it has expired
    key of another certificate  Failed to create security handshaker.
    a file that is not PEM      the same
    server speaks plain text    Handshake read failed (Socket closed)
    client speaks plain text    Socket closed
    nobody listens              Failed to connect to remote host: Connection refused

With TLS 1.3 a server judges the client's certificate after the client believes that the handshake is over; that is why
gRPC stumbles over the alert as over damaged data, and why one byte is read here.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from bbr.etcd.address import Address, Credentials

PROBE_TIME = timedelta(seconds=3)

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""RFC 9113, 3.4 and 6.5: what each side sends first. The fourth byte is the frame's type."""


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """What is wrong, and what to do next."""

    what: str
    hint: str


_PLAIN = TlsFailure("the server does not speak TLS", "write the endpoint with http:// if it is to serve plain text")


def why_tls_fails(
    address: Address, credentials: Credentials, *, time_limit: timedelta = PROBE_TIME
) -> TlsFailure | None:
    """What is wrong with TLS at ``address``. None when TLS is not the reason: refused, silent, or fine.

    Never raises for what the network or the files do; the caller has an error in hand, and wants a better word for it.
    """
    if address.tls and (failure := _own_certificate_trouble(credentials)):
        return failure
    try:
        with socket.create_connection((address.host, address.port), time_limit.total_seconds()) as plain:
            return _shake(plain, address, credentials) if address.tls else _speaks_tls(plain)
    except OSError:
        return None


def _own_certificate_trouble(credentials: Credentials) -> TlsFailure | None:
    """A server that refuses an expired client certificate says no more than that it is bad."""
    if credentials.certificate is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(credentials.certificate)
    except ValueError:
        return TlsFailure("the client certificate is not PEM", "check the file that was given")
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        return TlsFailure(
            f"the client certificate has expired, on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            "renew it (kubeadm certs renew) or give another one",
        )
    if now < certificate.not_valid_before_utc:
        return TlsFailure(
            f"the client certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "compare the clocks of this host and the issuer",
        )
    return None


def _shake(plain: socket.socket, address: Address, credentials: Credentials) -> TlsFailure | None:
    try:
        context = _context(credentials)
    except (ssl.SSLError, ValueError) as err:
        if "KEY_VALUES_MISMATCH" in str(err):
            return TlsFailure("the client certificate and its key do not belong together", "give this one's key")
        return TlsFailure(f"the CA, client certificate or key cannot be used: {err}", "check that the files are PEM")
    try:
        with context.wrap_socket(plain, server_hostname=address.host) as wrapped:
            wrapped.recv(1)
    except ssl.SSLCertVerificationError as err:
        return _refused_by_us(err, address)
    except ssl.SSLEOFError:
        return _PLAIN if _speaks_plain(address) else None
    except ssl.SSLError as err:
        return _refused_by_server(err, credentials)
    return None


def _context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=credentials.ca.decode("ascii") if credentials.ca else None)
    if credentials.certificate is not None:
        # ssl takes paths only. A memory file keeps the key off the disk, and is gone with its descriptor.
        with os.fdopen(os.memfd_create("client", os.MFD_CLOEXEC), "wb") as file:
            file.write(credentials.certificate + b"\n" + (credentials.key or b""))
            file.flush()
            # An empty password, so that an encrypted key is an error and not a question on the terminal.
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
    return context


def _refused_by_us(err: ssl.SSLCertVerificationError, address: Address) -> TlsFailure:
    match err.verify_code:  # X509_V_ERR_* of OpenSSL's x509_vfy.h
        case 9:
            return TlsFailure(
                "the server's certificate is not valid yet", "compare the clocks of this host and the server"
            )
        case 10:
            return TlsFailure(
                "the server's certificate has expired", "renew it on the server (kubeadm certs renew etcd-server)"
            )
        case 62 | 64:
            return TlsFailure(
                f"the server's certificate is not made out to {address.host} (name mismatch)",
                "use an endpoint that the certificate names, or issue one that names this endpoint",
            )
        case 2 | 18 | 19 | 20 | 21:
            return TlsFailure(
                "the server's certificate is signed by an authority that the CA file does not hold (unknown authority)",
                "give the CA that signed etcd's certificates (on kubeadm /etc/kubernetes/pki/etcd/ca.crt)",
            )
    return TlsFailure(f"the server's certificate is refused: {err.verify_message}", "look at it with openssl s_client")


def _refused_by_server(err: ssl.SSLError, credentials: Credentials) -> TlsFailure:
    reason = (err.reason or str(err)).upper()
    words = reason.replace("_", " ").lower()
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return _PLAIN
    if "ALERT" not in reason:
        return TlsFailure(f"the TLS handshake failed: {words}", "look at the server with openssl s_client")
    if credentials.certificate is None:
        return TlsFailure(
            "the server asks for a client certificate and none was given", "give a client certificate and key"
        )
    return TlsFailure(
        f"the server refuses the client certificate ({words})",
        "give a certificate that etcd's --trusted-ca-file signed, valid now and for client use",
    )


def _speaks_plain(address: Address) -> bool:
    """Whether the server greets in plain HTTP/2: it broke a TLS handshake off, as one does that is about to stop."""
    with socket.create_connection((address.host, address.port), PROBE_TIME.total_seconds()) as plain:
        plain.sendall(_HTTP2_PREFACE + _EMPTY_SETTINGS)
        answer = plain.recv(len(_EMPTY_SETTINGS))
    return len(answer) > 3 and answer[3] == _EMPTY_SETTINGS[3]


def _speaks_tls(plain: socket.socket) -> TlsFailure | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(plain):
            return TlsFailure("the server speaks TLS and the endpoint says http://", "write it with https://")
    except ssl.SSLError:
        return None
