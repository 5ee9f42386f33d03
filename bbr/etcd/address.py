"""Where an etcd member listens, and what opens it: values that the client and the handshake share."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bbr.errors import UsageError

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM bytes of the CA and of a client certificate with its key; user and password where etcd's auth wants them.

    ``ca`` None trusts the system's authorities. Secrets stay out of ``repr``.
    """

    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Raises `UsageError` for half a pair."""
        if (self.certificate is None) != (self.key is None):
            raise UsageError("a client certificate and its key are given together or not at all")
        if self.password and not self.username:
            raise UsageError("an etcd password was given without a user name")


@dataclass(frozen=True, slots=True)
class Address:
    """One endpoint, taken apart. ``host`` is a name or an IP address, without brackets."""

    host: str
    port: int
    tls: bool

    @property
    def target(self) -> str:
        """As gRPC wants it."""
        return f"dns:///[{self.host}]:{self.port}" if ":" in self.host else f"dns:///{self.host}:{self.port}"


def parse_endpoint(endpoint: str, credentials: Credentials) -> Address:
    """`https://host:port`, `http://host:port`, or `host:port`, which is TLS when certificates are given, as in etcdctl.

    Raises `UsageError`.
    """
    default = "https" if credentials.ca or credentials.certificate else "http"
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"{default}://{endpoint}")
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as err:
        raise UsageError(f"{endpoint!r} is no etcd endpoint: {err}") from err
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UsageError(f"{endpoint!r} is no etcd endpoint", hint="write https://host:2379")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"{endpoint!r} is no etcd endpoint: it has a path", hint="write https://host:2379")
    if parts.scheme == "http" and (credentials.ca or credentials.certificate):
        raise UsageError(
            f"certificates were given, and {endpoint} would not use them", hint="write the endpoint with https://"
        )
    return Address(parts.hostname, port, parts.scheme == "https")
