"""How much the living etcd holds that a backup does not: counted on a real one."""

from __future__ import annotations

from bbr.etcd import write
from bbr.etcd.client import Credentials, EtcdClient
from bbr.servers.etcd import EtcdServers
from restore.counting import NEWEST, count_objects


def test_objects_are_counted_by_kind_and_the_newest_are_named(module_etcd: EtcdServers) -> None:
    with EtcdClient(module_etcd.endpoints[0], Credentials()) as client:
        for number in range(20):
            write.put(client, f"/registry/pods/shop/p{number}".encode(), b"x" * 100)
        write.put(client, b"/registry/secrets/shop/key", b"x")
        since = client.status().revision
        before = {"/registry/pods/": 20, "/registry/secrets/": 1, "/registry/leases/": 0}
        assert count_objects(client, before, since=since).newest == ()

        write.delete(client, b"/registry/secrets/shop/key")
        write.put(client, b"/registry/secrets/shop/other", b"x")  # as many as before
        for number in range(9):
            write.put(client, f"/registry/pods/shop/q{number}".encode(), b"x")
        write.put(client, b"/registry/pods/shop/p3", b"changed, not made")
        write.put(client, b"/registry/leases/kube-node-lease/m1", b"x")
        write.put(client, b"/registry/example.org/widgets/shop/w1", b"x")
        found = count_objects(client, before, since=since)
    assert found.counts == {"/registry/pods/": 29, "/registry/secrets/": 1, "/registry/leases/": 1}
    assert found.others == 1
    assert found.newest == tuple(f"/registry/pods/shop/q{number}" for number in (8, 7, 6, 5, 4))
    assert len(found.newest) == NEWEST


def test_nothing_is_counted_where_the_backup_tells_no_kinds(module_etcd: EtcdServers) -> None:
    with EtcdClient(module_etcd.endpoints[0], Credentials()) as client:
        assert count_objects(client, {}, since=1).counts == {}
