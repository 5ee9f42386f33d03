"""Records and revision keys as etcd writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import SnapshotDamaged
from bbr.etcd import rpc_pb2 as rpc
from bbr.etcd.mvcc import KeyValue, RevisionKey, record_key

numbers = st.integers(0, 2**63 - 1)


@given(main=numbers, sub=numbers, tombstone=st.booleans())
def test_revision_key_comes_back(main: int, sub: int, tombstone: bool) -> None:
    key = RevisionKey(main, sub, tombstone)
    assert len(key.encode()) == (18 if tombstone else 17)
    assert RevisionKey.decode(key.encode()) == key


@pytest.mark.parametrize("key", [b"", b"x" * 17, b"x" * 16, RevisionKey(1, 1).encode() + b"u", bytes(19)])
def test_what_is_no_revision_key_is_refused(key: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        RevisionKey.decode(key)


records = st.builds(
    KeyValue,
    key=st.binary(max_size=30),
    create_revision=numbers,
    mod_revision=numbers,
    version=numbers,
    value=st.binary(max_size=300),
    lease=st.integers(0, 2**63 - 1),
)


@given(record=records)
def test_record_is_what_protobuf_makes_of_it(record: KeyValue) -> None:
    message = rpc.KeyValue(
        key=record.key,
        create_revision=record.create_revision,
        mod_revision=record.mod_revision,
        version=record.version,
        value=record.value,
        lease=record.lease,
    )
    assert record.encode() == message.SerializeToString()
    assert KeyValue.decode(record.encode()) == record
    if record.key:
        assert record_key(record.encode()) == record.key


@given(data=st.binary(max_size=60))
def test_hostile_record_is_refused_or_read(data: bytes) -> None:
    for read in (KeyValue.decode, record_key):
        try:
            read(data)
        except SnapshotDamaged as err:
            assert "record" in str(err)
