"""etcd with certificates that a test chooses, and with users."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from bbr.etcd.client import Credentials
from bbr.servers.certificates import Authority, Pair
from bbr.servers.ports import free_ports
from bbr.servers.process import Process
from tests.conftest import QUICK

Serve = Callable[[Authority, Pair], AbstractContextManager[str]]


def with_client(authority: Authority, pair: Pair, *, username: str = "", password: str = "") -> Credentials:
    """What a client needs that trusts ``authority`` and shows ``pair``."""
    return Credentials(authority.certificate, pair.certificate, pair.key, username, password)


@pytest.fixture
def serve(etcd_binary: Path, tmp_path: Path) -> Serve:
    """Starts an etcd that shows ``pair`` and wants client certificates of ``authority``. Yields its endpoint.

    Nobody asks it whether it is ready, because in these tests nobody may; its log says it.
    """

    @contextmanager
    def start(authority: Authority, pair: Pair) -> Iterator[str]:
        client, peer = free_ports(2)
        endpoint, peer_url = f"https://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        files = {"--trusted-ca-file": authority.certificate, "--cert-file": pair.certificate, "--key-file": pair.key}
        flags = ["--client-cert-auth", "--data-dir", str(tmp_path / "data"), "--initial-cluster", f"default={peer_url}"]
        flags += ["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]
        flags += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url, *QUICK]
        for flag, body in files.items():
            (tmp_path / flag.strip("-")).write_bytes(body)
            flags += [flag, str(tmp_path / flag.strip("-"))]
        with Process("etcd", [str(etcd_binary), *flags], log=tmp_path / "etcd.log") as process:
            process.wait_ready(lambda: "serving client traffic securely" in process.log.read_text(), what=endpoint)
            yield endpoint

    return start


def etcdctl(binary: Path, endpoint: str, folder: Path, credentials: Credentials, *words: str) -> None:
    """Run the real etcdctl with these credentials."""
    files = {"cacert": credentials.ca, "cert": credentials.certificate, "key": credentials.key}
    flags = []
    for flag, body in files.items():
        if body is not None:
            (folder / flag).write_bytes(body)
            flags += [f"--{flag}", str(folder / flag)]
    subprocess.run([binary, "--endpoints", endpoint, *flags, *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MiB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(folder)]
    subprocess.run(["/bin/mount", *options], check=True, timeout=20)
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", str(folder)], check=True, timeout=20)
