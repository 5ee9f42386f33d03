"""A real kube-apiserver on a real etcd, with certificates that kubeadm made, for the run."""

from __future__ import annotations

import base64
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bbr.apiserver.client import REQUEST_TIME, ApiServer
from bbr.errors import NotFoundObject
from bbr.servers.etcd import start_etcd
from bbr.servers.ports import LOOPBACK, free_ports
from bbr.servers.process import Process
from tests.conftest import QUICK, program

_CONFIGURATION = """
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 10.77.0.11, bindPort: 6443}
nodeRegistration: {name: m1}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.37.2
"""

_ENCRYPTION = """
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {{keys: [{{name: {name}, secret: {secret}}}]}}
  - identity: {{}}
"""


NO_WEBHOOKS = ("--disable-admission-plugins=ValidatingAdmissionWebhook,MutatingAdmissionWebhook",)
DEADLINE_S = 30


@dataclass(frozen=True, slots=True)
class Pki:
    """What kubeadm made for a master."""

    folder: Path

    def pem(self, name: str) -> bytes:
        """A file of it."""
        return (self.folder / name).read_bytes()

    def client(self, port: int, *, server_name: str = "kubernetes", limit: timedelta = REQUEST_TIME) -> ApiServer:
        """A client with the rights of system:masters."""
        certificate, key = self.pem("admin.crt"), self.pem("admin.key")
        address = (LOOPBACK, port)
        return ApiServer(address, self.pem("ca.crt"), certificate, key, server_name=server_name, limit=limit)


@pytest.fixture(scope="session")
def kube_apiserver(search: tuple[Path, ...]) -> Path:
    """The program."""
    return program("kube-apiserver", search)


@pytest.fixture(scope="session")
def pki(search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates as kubeadm makes them, and an administrator of the group system:masters."""
    root = tmp_path_factory.mktemp("pki")
    (root / "kubeadm.yaml").write_text(_CONFIGURATION)
    kubeadm = program("kubeadm", search)
    words = [str(kubeadm), "--rootfs", str(root), "init", "phase", "certs", "all", "--config", "/kubeadm.yaml"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return _with_admin(Pki(root / "etc/kubernetes/pki"))


def _with_admin(made: Pki) -> Pki:
    ca = x509.load_pem_x509_certificate(made.pem("ca.crt"))
    ca_key = serialization.load_pem_private_key(made.pem("ca.key"), None)
    key = ec.generate_private_key(ec.SECP256R1())
    who = [(NameOID.ORGANIZATION_NAME, "system:masters"), (NameOID.COMMON_NAME, "bbr-test")]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(kind, value) for kind, value in who]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]  # kubeadm's is RSA
    )
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (made.folder / "admin.crt").write_bytes(certificate.public_bytes(pem))
    (made.folder / "admin.key").write_bytes(key.private_bytes(pem, pkcs8, plain))
    return made


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def wait_until_there(api: ApiServer, path: str) -> None:
    """Poll until an object exists that the API server makes by itself, a moment after it is ready."""

    def is_there() -> bool:
        try:
            return bool(api.get(path))
        except NotFoundObject:
            return False

    wait_until(is_there, path)


@contextmanager
def start_apiserver(
    program: Path, pki: Pki, etcd: str, folder: Path, *, flags: Sequence[str] = NO_WEBHOOKS, wait: bool = True
) -> Iterator[tuple[int, Process]]:
    """An API server, by default without webhooks as the recovery one; its port, once it is ready.

    With ``wait`` false, at once.
    """
    (port,) = free_ports(1)
    words = [
        str(program),
        f"--etcd-servers={etcd}",
        *("--bind-address=127.0.0.1", f"--secure-port={port}", "--endpoint-reconciler-type=none"),
        *("--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/12"),
        f"--client-ca-file={pki.folder}/ca.crt",
        f"--tls-cert-file={pki.folder}/apiserver.crt",
        f"--tls-private-key-file={pki.folder}/apiserver.key",
        f"--service-account-key-file={pki.folder}/sa.pub",
        f"--service-account-signing-key-file={pki.folder}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        *flags,
    ]
    with Process("kube-apiserver", words, log=folder / "kube-apiserver.log") as process:
        if wait:
            with pki.client(port) as api:
                process.wait_ready(lambda: api.ready().is_ready, what="/readyz")
        yield port, process
        process.kill()  # in order it would take its time, and nothing of it is kept


@pytest.fixture(scope="session")
def api_port(
    etcd_binary: Path, kube_apiserver: Path, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of an API server that all tests share: each makes objects of names of its own."""
    folder = tmp_path_factory.mktemp("api")
    with (
        start_etcd(etcd_binary, folder / "etcd", flags=QUICK) as etcd,
        start_apiserver(kube_apiserver, pki, etcd.endpoints[0], folder) as (port, _),
    ):
        yield port


@pytest.fixture
def api(api_port: int, pki: Pki) -> Iterator[ApiServer]:
    """An administrator's client of it."""
    with pki.client(api_port) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A name that no other object has."""
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def namespace(api: ApiServer, name: str) -> str:
    """A namespace of that name."""
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def encryption(path: Path, name: str) -> Path:
    """An EncryptionConfiguration with one new key."""
    path.write_text(_ENCRYPTION.format(name=name, secret=base64.b64encode(os.urandom(32)).decode()))
    path.chmod(0o600)
    return path
