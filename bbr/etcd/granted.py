"""The leases in a snapshot: bucket ``lease``. Source: etcd's ``server/lease/leasepb/lease.proto`` (ids and TTLs)."""

from __future__ import annotations

from bbr.errors import SnapshotDamaged
from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.mvcc import read_varint

LEASE_BUCKET = b"lease"
_FIELDS = {0x08: "id", 0x10: "ttl", 0x18: "remaining"}


def granted_leases(reader: BoltReader) -> dict[int, int]:
    """The lease ids, and for how many seconds each was granted. Raises `SnapshotDamaged`."""
    return {int.from_bytes(bytes(key)): _granted_s(value) for key, value in reader.items(LEASE_BUCKET)}


def _granted_s(value: memoryview) -> int:
    found, at = {"ttl": 0}, 0
    while at < len(value):
        field = _FIELDS.get(value[at])
        if field is None:
            raise SnapshotDamaged(f"a lease with an unknown field, tag {value[at]:#x}")
        found[field], at = read_varint(value, at + 1)
    return found["ttl"]
