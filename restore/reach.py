"""Clients of what runs on a master, through its own SSH connection: only SSH has to be reachable.

Credentials are the master's own, read into memory. For the API server a client certificate of the group system:masters
is issued for twelve hours, and kept in memory only, by the CA whose key lies on the master; where it does not (an
external CA), super-admin.conf or admin.conf are used as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import yaml

from bbr.apiserver.client import ApiServer
from bbr.errors import PreconditionFailed
from bbr.etcd.address import Credentials
from bbr.etcd.client import EtcdClient
from bbr.layouts.pki import PKI
from bbr.layouts.reissue import client_certificate
from restore.guard import Reachable
from restore.survey import read_file

ETCD_PORT = 2379
API_PORT = 6443
RECOVERY_PORT = 16443

CLIENT_NAME = "bbr-restore"
MASTERS_GROUP = "system:masters"
CLIENT_LIFETIME = timedelta(hours=12)

_CONFIGS = (PurePosixPath("/etc/kubernetes/super-admin.conf"), PurePosixPath("/etc/kubernetes/admin.conf"))


class Reach:
    """Makes clients, and remembers each machine's credentials, in memory only."""

    def __init__(self) -> None:
        self._etcd: dict[str, Credentials] = {}
        self._api: dict[str, tuple[bytes, bytes, bytes]] = {}

    @contextmanager
    def etcd(self, machine: Reachable, ca_file: str, *, pair: tuple[str, str] = ("", "")) -> Iterator[EtcdClient]:
        """The etcd of a master. ``ca_file`` is the CA of its clients, "" for one without TLS.

        ``pair`` is etcd's own certificate and key, which it opens itself with; used where none was made for clients.
        """
        credentials = self.etcd_credentials(machine, ca_file, pair=pair)
        scheme = "https" if ca_file else "http"
        with (
            machine.forward(ETCD_PORT) as (host, port),
            EtcdClient(f"{scheme}://{host}:{port}", credentials) as client,
        ):
            yield client

    def etcd_credentials(self, machine: Reachable, ca_file: str, *, pair: tuple[str, str] = ("", "")) -> Credentials:
        """What opens the etcd of a master, read once. Raises `PreconditionFailed` when it is not there."""
        if machine.name not in self._etcd:
            found = _etcd_credentials(machine, PurePosixPath(ca_file), pair) if ca_file else Credentials()
            self._etcd[machine.name] = found
        return self._etcd[machine.name]

    def api(self, machine: Reachable, port: int) -> AbstractContextManager[ApiServer]:
        """The API server of a master, asked with the rights of system:masters."""
        return self.api_at(machine, "127.0.0.1", port)

    @contextmanager
    def api_at(self, machine: Reachable, host: str, port: int) -> Iterator[ApiServer]:
        """An API server that can be reached from a master, by a name that the master knows."""
        if machine.name not in self._api:
            ca = read_file(machine, PKI / "ca.crt")
            if ca is None:
                raise PreconditionFailed(f"{machine.name}: {PKI / 'ca.crt'} is missing")
            self._api[machine.name] = (ca, *_client_pair(machine, ca))
        with machine.forward(port, host) as address, ApiServer(address, *self._api[machine.name]) as api:
            yield api


def _etcd_credentials(machine: Reachable, ca_file: PurePosixPath, own: tuple[str, str]) -> Credentials:
    """The CA and client certificate that the master itself uses. Raises `PreconditionFailed` when they are missing."""
    authority = read_file(machine, ca_file)
    stems = (ca_file.with_name("healthcheck-client"), PKI / "apiserver-etcd-client", ca_file.with_name("server"))
    pairs = [(stem.with_suffix(".crt"), stem.with_suffix(".key")) for stem in stems]
    if all(own):
        pairs.append((PurePosixPath(own[0]), PurePosixPath(own[1])))
    for certificate_file, key_file in pairs:
        certificate, key = read_file(machine, certificate_file), read_file(machine, key_file)
        if authority and certificate and key:
            return Credentials(authority, certificate, key)
    raise PreconditionFailed(f"{machine.name}: there is no client certificate for etcd beside {ca_file}")


def _client_pair(machine: Reachable, ca: bytes) -> tuple[bytes, bytes]:
    ca_key = read_file(machine, PKI / "ca.key")
    if ca_key is not None:
        return client_certificate(
            ca,
            ca_key,
            common_name=CLIENT_NAME,
            organization=MASTERS_GROUP,
            lifetime=CLIENT_LIFETIME,
            now=datetime.now(UTC),
        )
    for path in _CONFIGS:
        body = read_file(machine, path)
        if body is not None and (pair := _pair_of(body)) is not None:
            return pair
    raise PreconditionFailed(
        f"{machine.name}: neither the CA's key nor a kubeconfig of an administrator is there",
        hint=f"put one to {_CONFIGS[0]}",
    )


def _pair_of(kubeconfig: bytes) -> tuple[bytes, bytes] | None:
    try:
        user = yaml.safe_load(kubeconfig)["users"][0]["user"]
        data = user["client-certificate-data"], user["client-key-data"]
        return base64.b64decode(data[0]), base64.b64decode(data[1])
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError):
        return None
