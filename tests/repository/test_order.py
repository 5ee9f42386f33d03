"""Backups of one second are listed in the order of their writer's chain, whatever their names are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from bbr.servers.etcd import EtcdServers
from bbr.stores.memory import MemoryStore
from tests.making import churn, make_site, source


def test_backups_of_one_second_are_in_the_order_of_their_chain(small_etcd: EtcdServers, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    site = make_site(MemoryStore(lambda: now), tmp_path)
    taken = []
    with small_etcd.client() as client:
        for number in range(6):
            churn(client, number)
            outcome = site.backup(source(small_etcd.endpoints), new_generation=number % 2 == 0)
            taken.append(outcome.backup.sha256)
    catalog = site.archive().catalog
    assert [backup.sha256 for backup in catalog.backups] == taken
    assert catalog.find(None, "latest").sha256 == taken[-1]
