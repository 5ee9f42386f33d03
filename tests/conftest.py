"""What all tests share: real programs, a real etcd and a real MinIO, and the check that nothing is left running."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.errors import ToolMissing
from bbr.servers.binaries import find, search_path
from bbr.servers.etcd import EtcdServers, start_etcd
from bbr.servers.minio import MinioServer, start_minio
from tests.left_running import adopt_orphans, still_running

ETCD_VERSIONS = ("3.5.35", "3.6.16", "3.7.3")
DEFAULT_ETCD = "3.6.16"
QUICK = ("--unsafe-no-fsync",)
END_TIME = timedelta(seconds=5)
"""What is killed with its parent ends a moment after it."""


# A shell that starts the run in the background makes it ignore Ctrl-C, and every program that it starts with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def search() -> tuple[Path, ...]:
    """Folders that programs are looked for in, as the command line does."""
    return search_path(bin_dir=None, environ=os.environ)


def program(name: str, search: Sequence[Path], version: str | None = None) -> Path:
    """A program of the testbed. A test without it fails: it has shown nothing."""
    try:
        return find(name, search=search, version=version).path
    except ToolMissing as err:
        pytest.fail(f"{err} ({err.hint})")


@pytest.fixture(scope="session")
def etcd_binary(search: tuple[Path, ...]) -> Path:
    """etcd of the default version."""
    return program("etcd", search, DEFAULT_ETCD)


@pytest.fixture(scope="session")
def etcdutl_binary(search: tuple[Path, ...]) -> Path:
    """etcdutl of the default version."""
    return program("etcdutl", search, DEFAULT_ETCD)


@pytest.fixture(scope="session")
def etcdctl_binary(search: tuple[Path, ...]) -> Path:
    """etcdctl of the default version."""
    return program("etcdctl", search, DEFAULT_ETCD)


@pytest.fixture(scope="session")
def age_binary(search: tuple[Path, ...]) -> Path:
    """The stock age program."""
    return program("age", search)


@pytest.fixture(scope="session")
def zstd_binary() -> Path:
    """The stock zstd program."""
    found = shutil.which("zstd")
    if found is None:
        pytest.fail("zstd is not on this machine (`make testbed` installs it)")
    return Path(found)


@pytest.fixture
def small_etcd(etcd_binary: Path, tmp_path: Path) -> Iterator[EtcdServers]:
    """A new, empty, one-member etcd for one test."""
    with start_etcd(etcd_binary, tmp_path / "etcd", flags=QUICK) as servers:
        yield servers


@pytest.fixture(scope="module")
def module_etcd(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """A new, empty, one-member etcd for the tests of one module."""
    with start_etcd(etcd_binary, tmp_path_factory.mktemp("etcd"), flags=QUICK) as servers:
        yield servers


@pytest.fixture(scope="session")
def minio_server(search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A real MinIO for the whole run; make a bucket of your own in it."""
    with start_minio(program("minio", search), tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(autouse=True, scope="session")
def nothing_left_running() -> Iterator[None]:
    """Every process that the run started, or that one of those started, is gone when it ends."""
    adopt_orphans()
    yield
    assert still_running(limit=END_TIME) == []
