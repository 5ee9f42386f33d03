"""The few pieces of protobuf's wire format that a made-up object needs: text, messages, numbers, times."""

from __future__ import annotations


def text(field: int, words: str) -> bytes:
    """A string field."""
    return message(field, words.encode())


def message(field: int, body: bytes) -> bytes:
    """A field with a message or bytes in it."""
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def number(field: int, value: int) -> bytes:
    """An integer field; not negative."""
    return _varint(field << 3) + _varint(value)


def time(field: int, seconds: int) -> bytes:
    """A field with a metav1.Time: a message whose field 1 is seconds since 1970."""
    return message(field, number(1, seconds))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
