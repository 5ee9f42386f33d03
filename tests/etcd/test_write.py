"""Changes to a real etcd, read back from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.errors import EtcdError
from bbr.etcd import write
from bbr.etcd.client import Alarm, EtcdClient
from bbr.servers.etcd import EtcdServers, start_etcd
from tests.conftest import ETCD_VERSIONS, QUICK, program


def test_a_transaction_is_one_revision(module_etcd: EtcdServers) -> None:
    with module_etcd.client() as client:
        write.put(client, b"/txn/gone", b"")
        revision = write.txn(client, {b"/txn/a": b"1", b"/txn/b": b"2"}, [b"/txn/gone"])
        found = client.range(b"/txn/", b"/txn0")
        assert [(one.key, one.value, one.mod_revision) for one in found.kvs] == [
            (b"/txn/a", b"1", revision),
            (b"/txn/b", b"2", revision),
        ]
        assert write.delete(client, b"/txn/", b"/txn0") == revision + 1
        assert client.range(b"/txn/", b"/txn0").count == 0


def test_a_lease_holds_the_key_that_hangs_on_it(module_etcd: EtcdServers) -> None:
    with module_etcd.client() as client:
        lease = write.lease_grant(client, 600, lease=77)
        assert lease == 77
        write.put(client, b"leased", b"value", lease=lease)
        assert [one.lease for one in client.range(b"leased").kvs] == [77]
        with pytest.raises(EtcdError):
            write.lease_grant(client, 600, lease=77)


def test_compaction_and_defragmentation_give_space_back(small_etcd: EtcdServers) -> None:
    with small_etcd.client() as client:
        for _ in range(40):
            newest = write.put(client, b"key", bytes(500_000))
        before = client.status().db_size_bytes
        write.compact(client, newest)
        write.defragment(client)
        assert client.status().db_size_bytes < before / 4


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_alarms_are_raised_and_disarmed(version: str, search: tuple[Path, ...], tmp_path: Path) -> None:
    with (
        start_etcd(program("etcd", search, version), tmp_path / "etcd", flags=QUICK) as servers,
        servers.client() as client,
    ):
        member = client.status().member_id
        write.raise_alarm(client, member, "CORRUPT")
        assert client.alarms() == (Alarm(member, "CORRUPT"),)
        write.disarm(client, member, "CORRUPT")
        assert client.alarms() == ()


def test_a_full_quota_raises_nospace_by_itself(etcd_binary: Path, tmp_path: Path) -> None:
    with (
        start_etcd(etcd_binary, tmp_path / "etcd", flags=[*QUICK, "--quota-backend-bytes", "2000000"]) as servers,
        servers.client() as client,
    ):
        with pytest.raises(EtcdError, match="space exceeded"):
            fill(client)
        assert [alarm.kind for alarm in client.alarms()] == ["NOSPACE"]
        assert client.hash_kv(0).hash


def fill(client: EtcdClient) -> None:
    for number in range(100):
        write.put(client, b"/fill/%d" % number, bytes(500_000))
