"""Real etcd members on loopback: a new cluster of one or more, or one member on a restored data directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bbr.errors import EtcdError, EtcdUnauthorized
from bbr.etcd.client import Credentials, EtcdClient
from bbr.servers.certificates import Authority
from bbr.servers.ports import LOOPBACK, free_ports
from bbr.servers.process import Process

PLAIN = Credentials(ca=None, certificate=None, key=None)
QUICK_FLAGS = ("--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "warn")
"""An election takes a second by default; members on one machine need not be so patient."""


class Member:
    """One member: its process can be killed, stopped and started again on the same data."""

    def __init__(
        self, name: str, command: Sequence[str], *, data_dir: Path, endpoint: str, credentials: Credentials
    ) -> None:
        self.name, self.data_dir, self.endpoint = name, data_dir, endpoint
        self._command, self._credentials = list(command), credentials
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Its process id. Raises `RuntimeError` when it does not run."""
        return self._running().pid

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.data_dir.with_name(f"{self.data_dir.name}.log")

    def start(self) -> None:
        """Start it and do not wait. One that still runs is ended first: two on one data directory would be none."""
        self.stop()
        self._process = Process(f"etcd {self.name}", self._command, log=self.log)

    def restart(self) -> None:
        """Start it again on its data, and wait until it serves."""
        self.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it has a leader and answers."""
        process = self._running()
        process.wait_ready(lambda: _listens(self.endpoint), what=f"a listener at {self.endpoint}")
        with self.client() as client:
            process.wait_ready(lambda: _has_leader(client), what=f"a leader at {self.endpoint}")

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def client(self) -> EtcdClient:
        """A client of this member, to be closed by the caller."""
        return EtcdClient(self.endpoint, self._credentials)

    def _running(self) -> Process:
        if self._process is None or not self._process.is_running:
            raise RuntimeError(f"member {self.name} does not run")
        return self._process


@dataclass(frozen=True, slots=True)
class EtcdServers:
    """A running cluster."""

    members: tuple[Member, ...]
    credentials: Credentials
    authority: Authority | None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The client URL of each member."""
        return tuple(member.endpoint for member in self.members)

    def client(self, index: int = 0) -> EtcdClient:
        """A client of one member, to be closed by the caller."""
        return self.members[index].client()


@contextmanager
def start_etcd(
    binary: Path, base: Path, *, members: int = 1, tls: bool = False, flags: Sequence[str] = ()
) -> Iterator[EtcdServers]:
    """A new cluster under ``base``, ready, and gone with the context. Data and logs stay: the folder is the caller's.

    With ``tls``, clients and peers show certificates; the client's name is root, etcd's own user for all rights.
    """
    base.mkdir(parents=True, exist_ok=True)
    authority = Authority("bbr test authority") if tls else None
    secure, credentials = _security(authority, base)
    scheme = "https" if tls else "http"
    ports = free_ports(2 * members)
    names = [f"m{number}" for number in range(members)]
    peers = {name: f"{scheme}://{LOOPBACK}:{ports[2 * at + 1]}" for at, name in enumerate(names)}
    cluster = ",".join(f"{name}={url}" for name, url in peers.items())
    started = []
    with ExitStack() as running:
        for at, name in enumerate(names):
            endpoint = f"{scheme}://{LOOPBACK}:{ports[2 * at]}"
            data_dir = base / f"{name}.etcd"
            command = [
                *(str(binary), "--name", name, "--data-dir", str(data_dir)),
                *_urls(endpoint, peers[name]),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                *(*QUICK_FLAGS, *secure, *flags),
            ]
            member = Member(name, command, data_dir=data_dir, endpoint=endpoint, credentials=credentials)
            running.callback(member.stop)  # one after the other: a leader alone waits six seconds for a successor
            member.start()
            started.append(member)
        for member in started:
            member.wait_ready()
        yield EtcdServers(tuple(started), credentials, authority)


@contextmanager
def boot_etcd(binary: Path, data_dir: Path, *, name: str = "scratch", flags: Sequence[str] = ()) -> Iterator[Member]:
    """One member on a restored data directory, on ports of its own choice: peers are never asked.

    Ready, and gone with the context; the data directory stays, and its log lies beside it.
    """
    client_port, peer_port = free_ports(2)
    endpoint, peer = f"http://{LOOPBACK}:{client_port}", f"http://{LOOPBACK}:{peer_port}"
    command = [str(binary), "--name", name, "--data-dir", str(data_dir), *_urls(endpoint, peer)]
    command += ["--initial-cluster", f"{name}={peer}", *QUICK_FLAGS, *flags]
    member = Member(name, command, data_dir=data_dir, endpoint=endpoint, credentials=PLAIN)
    try:
        member.restart()
        yield member
    finally:
        member.stop()


def _urls(client: str, peer: str) -> list[str]:
    return [
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
    ]


def _security(authority: Authority | None, base: Path) -> tuple[list[str], Credentials]:
    if authority is None:
        return [], PLAIN
    server, client = authority.issue("etcd"), authority.issue("root")
    files = {"ca.crt": authority.certificate, "server.crt": server.certificate, "server.key": server.key}
    for name, body in files.items():
        with os.fdopen(os.open(base / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(body)
    flags = []
    for side in ("", "peer-"):
        flags += [f"--{side}trusted-ca-file", str(base / "ca.crt"), f"--{side}client-cert-auth"]
        flags += [f"--{side}cert-file", str(base / "server.crt"), f"--{side}key-file", str(base / "server.key")]
    return flags, Credentials(ca=authority.certificate, certificate=client.certificate, key=client.key)


def _listens(endpoint: str) -> bool:
    """Asked first: a TLS client that is refused looks for the reason, and that takes seconds."""
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname or LOOPBACK, url.port or 0), timeout=1).close()
    except OSError:  # not yet
        return False
    return True


def _has_leader(client: EtcdClient) -> bool:
    try:
        return client.status().leader_id != 0
    except EtcdUnauthorized:  # it has users, and answers
        return True
    except EtcdError:  # not yet
        return False
