"""What etcd writes into its buckets: revision keys, key-value records, and the fields of ``meta`` that matter here.

Sources: etcd's ``server/storage/mvcc/revision.go`` (keys), ``api/mvccpb/kv.proto`` (records), ``server/storage/schema``
(meta). Records are protobuf messages; seven fields do not need a library, and the scan of a gigabyte cannot afford one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bbr.errors import SnapshotDamaged

KEY_BUCKET = b"key"
META_BUCKET = b"meta"
LEASE_BUCKET = b"lease"
ALARM_BUCKET = b"alarm"

REVISION_BYTES = 17
TOMBSTONE_MARK = b"t"

_REVISION = struct.Struct(">QcQ")
_KEY_TAG, _CREATE, _MOD, _VERSION, _VALUE_TAG, _LEASE = 0x0A, 0x10, 0x18, 0x20, 0x2A, 0x30
_INTEGERS = {_CREATE: "create_revision", _MOD: "mod_revision", _VERSION: "version", _LEASE: "lease"}


@dataclass(frozen=True, slots=True, order=True)
class RevisionKey:
    """The key of a record: ``sub`` counts the changes of one transaction from 0; a tombstone records a deletion."""

    main: int
    sub: int
    tombstone: bool = False

    def encode(self) -> bytes:
        """17 bytes, or 18 with the mark of a tombstone."""
        return _REVISION.pack(self.main, b"_", self.sub) + (TOMBSTONE_MARK if self.tombstone else b"")

    @classmethod
    def decode(cls, key: bytes | memoryview) -> RevisionKey:
        """Raises `SnapshotDamaged` for what is no revision key."""
        size = len(key)
        if size not in (REVISION_BYTES, REVISION_BYTES + 1) or key[8] != 0x5F:
            raise SnapshotDamaged(f"not a revision key: {bytes(key[:32]).hex()}")
        if size > REVISION_BYTES and key[REVISION_BYTES:] != TOMBSTONE_MARK:
            raise SnapshotDamaged(f"a revision key with an unknown mark: {bytes(key).hex()}")
        main, _, sub = _REVISION.unpack_from(key)
        return cls(main, sub, size > REVISION_BYTES)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One version of one key. ``lease`` is 0 for none; a tombstone has only ``key``."""

    key: bytes
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    value: bytes = b""
    lease: int = 0

    def encode(self) -> bytes:
        """As etcd writes it: fields in order, those that are zero or empty left out."""
        out = bytearray()
        if self.key:
            out += bytes((_KEY_TAG,)) + _varint(len(self.key)) + self.key
        for tag, number in ((_CREATE, self.create_revision), (_MOD, self.mod_revision), (_VERSION, self.version)):
            if number:
                out += bytes((tag,)) + _varint(number)
        if self.value:
            out += bytes((_VALUE_TAG,)) + _varint(len(self.value)) + self.value
        if self.lease:
            out += bytes((_LEASE,)) + _varint(self.lease)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> KeyValue:
        """Raises `SnapshotDamaged` for what is no record."""
        view = memoryview(data)
        numbers: dict[str, int] = {}
        texts = {_KEY_TAG: b"", _VALUE_TAG: b""}
        at = 0
        while at < len(view):
            tag = view[at]
            number, at = read_varint(view, at + 1)
            if tag in texts:
                if at + number > len(view):
                    raise SnapshotDamaged("a record is cut")
                texts[tag] = bytes(view[at : at + number])
                at += number
            elif tag in _INTEGERS:
                numbers[_INTEGERS[tag]] = number
            else:
                raise SnapshotDamaged(f"a record with an unknown field, tag {tag:#x}")
        return cls(key=texts[_KEY_TAG], value=texts[_VALUE_TAG], **numbers)


def record_key(value: bytes | memoryview) -> bytes:
    """The key in a record, without a look at the rest: it is the first field."""
    if len(value) == 0:  # what `etcdutl snapshot restore --bump-revision` puts on top
        return b""
    if value[0] != _KEY_TAG:
        raise SnapshotDamaged("a record does not begin with its key")
    if len(value) > 1 and value[1] < 0x80:  # nearly every key: shorter than 128 bytes
        size, at = value[1], 2
    else:
        size, at = read_varint(value, 1)
    if at + size > len(value):
        raise SnapshotDamaged("a record is cut")
    return bytes(value[at : at + size])


def _varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF  # protobuf writes a negative int64 as its two's complement
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(view: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of protobuf's, and where it ends. Raises `SnapshotDamaged` where there is none."""
    number = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise SnapshotDamaged("a record is cut, or a number in it is too long")
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
