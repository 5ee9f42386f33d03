"""The uid in a stored Kubernetes object, read from its protobuf or JSON value without knowing its kind.

Built-in kinds are stored as ``k8s\\0`` and a runtime.Unknown (field 2 is the object); field 1 of nearly every object is
its ObjectMeta, and field 5 of that its uid. Custom resources are JSON. Encrypted values begin with ``k8s:enc:``.
Source: k8s.io/apimachinery runtime/generated.proto and meta/v1/generated.proto.
"""

from __future__ import annotations

import json

_PROTOBUF = b"k8s\x00"
_RAW, _METADATA, _UID = 2, 1, 5


def object_uid(value: bytes) -> str | None:
    """``metadata.uid``; None when the value is encrypted, has none, or is not an object. Never raises."""
    if value.startswith(_PROTOBUF):
        inner: bytes | None = value[len(_PROTOBUF) :]
        for number in (_RAW, _METADATA, _UID):
            inner = _field(inner, number) if inner is not None else None
        return _text(inner)
    try:
        found = json.loads(value)
    except ValueError:
        return None
    metadata = found.get("metadata") if isinstance(found, dict) else None
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    return uid if isinstance(uid, str) and uid else None


def _field(message: bytes, wanted: int) -> bytes | None:
    """The first length-delimited field of that number; None when it is absent or the message is malformed."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                return None
            if tag >> 3 == wanted:
                return message[at : at + size]
            at += size
        else:
            return None
    return None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends). Past the end of the message when it is cut."""
    number = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    return 0, len(message)


def _text(field: bytes | None) -> str | None:
    try:
        return field.decode() or None if field is not None else None
    except UnicodeDecodeError:
        return None
