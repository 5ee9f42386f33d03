"""The uid of a namespace as kube-apiserver stores it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.objects.uid import object_uid

UID = "0f9c1a1e-9c0b-4d64-8b66-2a1b7d1f4a55"


def field(number: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([number << 3 | 2, len(body)]) + body


def stored(metadata: bytes) -> bytes:
    """A namespace in the storage form of built-in kinds; the type comes before, the status after the metadata."""
    namespace = field(1, metadata) + field(2, field(1, b"kubernetes")) + field(3, field(1, b"Active"))
    assert len(namespace) < 128
    return b"k8s\0" + field(1, field(1, b"v1") + field(2, b"Namespace")) + field(2, namespace) + field(3, b"")


def test_uid_of_a_protobuf_namespace() -> None:
    metadata = field(1, b"kube-system") + field(2, b"") + field(3, b"") + b"\x38\x07" + field(5, UID.encode())
    assert object_uid(stored(metadata)) == UID


def test_uid_of_a_json_object() -> None:
    assert object_uid(json.dumps({"kind": "Namespace", "metadata": {"uid": UID}}).encode()) == UID


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"k8s:enc:aescbc:v1:key1:\x00\x01\x02",
        b"k8s\0",
        stored(field(1, b"kube-system")),
        stored(field(5, b"")),
        stored(field(5, b"\xff\xfe")),
        b"[]",
        b"{}",
        b'{"metadata": []}',
        b'{"metadata": {"uid": 7}}',
        b"\xff\xff",
    ],
)
def test_none_where_there_is_no_uid(value: bytes) -> None:
    assert object_uid(value) is None


@given(st.binary(max_size=200))
def test_no_value_is_too_strange(value: bytes) -> None:
    for candidate in (value, b"k8s\0" + value):
        found = object_uid(candidate)
        assert found is None or found
