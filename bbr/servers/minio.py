"""A real S3 server on loopback: MinIO, with keys made for it."""

from __future__ import annotations

import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from minio import Minio

from bbr.servers.ports import LOOPBACK, free_ports
from bbr.servers.process import Process


@dataclass(frozen=True, slots=True)
class MinioServer:
    """A running MinIO. ``endpoint`` is its URL; the keys live as long as it does."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    def create_bucket(self, name: str, *, lock: bool = False) -> None:
        """Make a bucket; with ``lock``, objects in it can be locked."""
        host = self.endpoint.removeprefix("http://")
        Minio(host, access_key=self.access_key, secret_key=self.secret_key, secure=False).make_bucket(
            name, object_lock=lock
        )


@contextmanager
def start_minio(binary: Path, base: Path) -> Iterator[MinioServer]:
    """MinIO on a folder under ``base``, ready, and gone with the context."""
    base.mkdir(parents=True, exist_ok=True)
    port, console = free_ports(2)
    endpoint = f"http://{LOOPBACK}:{port}"
    server = MinioServer(endpoint, "bbr", secrets.token_urlsafe(24))
    environ = {
        "HOME": str(base),  # A person's own home may hold certificates, and MinIO would serve TLS.
        "MINIO_ROOT_USER": server.access_key,
        "MINIO_ROOT_PASSWORD": server.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    command = [str(binary), "server", "--quiet", "--address", f"{LOOPBACK}:{port}"]
    command += ["--console-address", f"{LOOPBACK}:{console}", str(base / "data")]
    with Process("minio", command, log=base / "minio.log", environ=environ) as process:
        process.wait_ready(lambda: _is_ready(endpoint), what=endpoint)
        yield server


def _is_ready(endpoint: str) -> bool:
    # /live and /ready answer 200 before there is anything to serve: one bucket in fifteen then took a minute to make.
    try:
        with urllib.request.urlopen(f"{endpoint}/minio/health/cluster", timeout=2) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):  # not yet
        return False
