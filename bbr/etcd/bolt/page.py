"""Layout of a bolt page: numbers, structs, and what each field means.

Little-endian throughout. Source: bbolt's ``internal/common/page.go``, ``meta.go``, ``bucket.go``, ``inode.go``.
"""

from __future__ import annotations

import struct

MAGIC = 0xED0CDAED
VERSION = 2

BRANCH_PAGE = 0x01
LEAF_PAGE = 0x02
META_PAGE = 0x04
FREELIST_PAGE = 0x10

BUCKET_ELEMENT = 0x01
"""Flag of a leaf element whose value is a bucket."""

NO_FREELIST = 0xFFFFFFFFFFFFFFFF
"""In a meta: no free list is kept; free is what the root does not reach."""

PAGE_HEADER = struct.Struct("<QHHI")
"""Page id, flags, count of elements, overflow: so many pages more belong to this one."""

META = struct.Struct("<IIIIQQQQQQ")
"""Magic, version, page size, flags, root page, root sequence, free list page, high water, transaction, checksum."""

BRANCH_ELEMENT = struct.Struct("<IIQ")
"""Position of the key relative to this element, key size, child page id."""

LEAF_ELEMENT = struct.Struct("<IIII")
"""Flags, position of the key relative to this element, key size, value size; the value follows the key."""

BUCKET_HEADER = struct.Struct("<QQ")
"""Root page of a bucket (0: the page follows inline), sequence."""

HEADER_BYTES = PAGE_HEADER.size
ELEMENT_BYTES = LEAF_ELEMENT.size
META_CHECKED_BYTES = META.size - 8
PAGE_SIZES = tuple(1024 << shift for shift in range(15))
KEY_LIMIT_BYTES = 32768

_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3


def fnv1a(data: bytes | memoryview) -> int:
    """FNV-1a, 64 bits: the checksum of a meta."""
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return value
