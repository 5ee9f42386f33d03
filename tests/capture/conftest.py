"""Clusters that are not as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bbr.etcd.client import EtcdClient, connect
from bbr.servers.etcd import EtcdServers, start_etcd
from tests.conftest import QUICK
from tests.etcd.conftest import small_disk as small_disk


@pytest.fixture
def trio(etcd_binary: Path, tmp_path: Path) -> Iterator[EtcdServers]:
    """Three members of a test's own, with certificates."""
    with start_etcd(etcd_binary, tmp_path / "trio", members=3, tls=True, flags=QUICK) as servers:
        yield servers


@pytest.fixture
def clients(trio: EtcdServers) -> Iterator[tuple[EtcdClient, ...]]:
    """A client of each."""
    with ExitStack() as opened:
        yield tuple(opened.enter_context(client) for client in connect(trio.endpoints, trio.credentials))
