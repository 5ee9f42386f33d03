"""Objects made from a seed: the same each time, such as Kubernetes would store, and known to the last key."""

from __future__ import annotations

import json
import statistics

import zstandard

from bbr.demo.keyspace import TXN_OPERATIONS, Change, Keyspace, apply_changes, grant_lease
from bbr.demo.objects import stored_object
from bbr.objects.keys import kubernetes_prefix
from bbr.objects.uid import object_uid
from bbr.servers.etcd import EtcdServers

SAMPLE = [stored_object(1, number) for number in range(3000)]


def test_an_object_is_a_function_of_seed_number_and_version() -> None:
    assert stored_object(7, 500, 3) == stored_object(7, 500, 3)
    assert stored_object(7, 500, 3).value != stored_object(8, 500, 3).value


def test_an_update_changes_a_few_bytes_and_not_the_key() -> None:
    before, after = stored_object(1, 100, 1), stored_object(1, 100, 2)
    assert before.key == after.key
    assert before.value != after.value
    compressor = zstandard.ZstdCompressor(3)
    alone, both = len(compressor.compress(before.value)), len(compressor.compress(before.value + after.value))
    assert both < 1.5 * alone


def test_keys_are_unique_and_of_many_kinds() -> None:
    assert len({one.key for one in SAMPLE}) == len(SAMPLE)
    prefixes = {kubernetes_prefix(one.key) for one in SAMPLE}
    assert b"/registry/cert-manager.io/certificates/" in prefixes
    assert len(prefixes) >= 8


def test_every_object_has_a_uid_and_kube_system_is_the_first() -> None:
    assert SAMPLE[0].key == b"/registry/namespaces/kube-system"
    uids = {object_uid(one.value) for one in SAMPLE}
    assert None not in uids
    assert len(uids) == len(SAMPLE)


def test_custom_resources_are_json_and_the_others_protobuf() -> None:
    for one in SAMPLE:
        if b"cert-manager.io" in one.key:
            assert json.loads(one.value)["kind"] == "Certificate"
        else:
            assert one.value.startswith(b"k8s\x00")


def test_only_events_hang_on_a_lease() -> None:
    assert {kubernetes_prefix(one.key) for one in SAMPLE if one.leased} == {b"/registry/events/"}


def test_sizes_and_compression_are_those_of_a_cluster() -> None:
    assert 2_500 < statistics.mean(len(one.value) for one in SAMPLE) < 3_500
    whole = b"".join(one.key + one.value for one in SAMPLE)
    assert 4.5 < len(whole) / len(zstandard.ZstdCompressor(3).compress(whole)) < 6.5


def test_the_contents_are_what_the_changes_add_up_to() -> None:
    keyspace = Keyspace(seed=3)
    model: dict[bytes, bytes] = {}

    def follow(change: Change) -> None:
        if change.is_delete:
            del model[change.written.key]
        else:
            model[change.written.key] = change.written.value

    for change in keyspace.create(500):
        follow(change)
    kinds = set()
    for _ in range(5):
        for change in keyspace.churn(100):
            kinds.add("delete" if change.is_delete else "update" if change.written.key in model else "create")
            follow(change)
    assert kinds == {"create", "update", "delete"}
    assert {one.key: one.value for one in keyspace.contents()} == model
    assert len(keyspace) == len(model)


def test_churn_names_no_key_twice_in_a_row_of_changes() -> None:
    keyspace = Keyspace(seed=4)
    list(keyspace.create(2 * TXN_OPERATIONS))
    keys = [change.written.key for change in keyspace.churn(2 * TXN_OPERATIONS)]
    assert len(set(keys)) == len(keys)


def test_changes_arrive_in_etcd_in_transactions_with_events_on_the_lease(small_etcd: EtcdServers) -> None:
    keyspace = Keyspace(seed=5)
    with small_etcd.client() as client:
        before = client.status().revision
        lease = grant_lease(client)
        after = apply_changes(client, keyspace.create(450), lease=lease)
        assert after - before < 450 / TXN_OPERATIONS + 5
        apply_changes(client, keyspace.churn(100), lease=lease)
        there = {pair.key: (pair.value, pair.lease) for pair in client.range(b"\0", b"\0").kvs}
    assert there == {one.key: (one.value, lease if one.leased else 0) for one in keyspace.contents()}


def test_no_changes_are_no_revision(small_etcd: EtcdServers) -> None:
    with small_etcd.client() as client:
        assert apply_changes(client, []) == 0
