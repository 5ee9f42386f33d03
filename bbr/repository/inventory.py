"""What a backup holds, counted: sealed like a part, since names of resources are nobody's business.

JSON: ``{"schema": "bbr.inventory/1", "objects": {etcd: {prefix: live objects}}}``. Prefixes are text; bytes that are
no UTF-8 are written with backslash escapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from bbr.errors import PartDamaged

SCHEMA = "bbr.inventory/1"


@dataclass(frozen=True, slots=True)
class Inventory:
    """``objects``: for each etcd by name, how many live objects lie under each key prefix."""

    objects: Mapping[str, Mapping[str, int]]


def encode_inventory(objects: Mapping[str, Mapping[bytes, int]]) -> bytes:
    """The JSON, as bytes, keys sorted: equal counts give equal bytes."""
    text = {
        etcd: {prefix.decode(errors="backslashreplace"): count for prefix, count in prefixes.items()}
        for etcd, prefixes in objects.items()
    }
    return json.dumps({"schema": SCHEMA, "objects": text}, sort_keys=True).encode()


def decode_inventory(body: bytes) -> Inventory:
    """Raises `PartDamaged` where the JSON is not an inventory."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise PartDamaged("the inventory is not JSON") from err
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise PartDamaged("the inventory is of an unknown schema")
    objects = document.get("objects")
    if not isinstance(objects, dict) or not all(_is_counts(prefixes) for prefixes in objects.values()):
        raise PartDamaged("the inventory holds something other than counts")
    return Inventory(objects)


def _is_counts(prefixes: object) -> bool:
    return isinstance(prefixes, dict) and all(type(count) is int and count >= 0 for count in prefixes.values())
