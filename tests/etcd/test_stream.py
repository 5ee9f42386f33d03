"""The blob cut out of raw messages: the same as a protobuf parser finds, and no crash on what is none."""

from __future__ import annotations

import pytest
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import EtcdError
from bbr.etcd.stream import cut


def field(number: int, body: bytes) -> bytes:
    """A length-delimited field."""
    return bytes(_VarintBytes(number << 3 | 2) + _VarintBytes(len(body)) + body)


def message(header: bytes, remaining_bytes: int, blob: bytes, version: bytes) -> bytes:
    """A SnapshotResponse as etcd writes it: fields in order, empty ones left out."""
    parts = [field(1, header) if header else b""]
    parts += [b"\x10" + _VarintBytes(remaining_bytes) if remaining_bytes else b""]
    parts += [field(3, blob) if blob else b"", field(4, version) if version else b""]
    return b"".join(parts)


@given(st.binary(max_size=200), st.integers(0, 2**63 - 1), st.binary(max_size=70_000), st.sampled_from([b"", b"3.6.0"]))
def test_blob_and_remaining_bytes_are_found(header: bytes, remaining_bytes: int, blob: bytes, version: bytes) -> None:
    found_remaining, found = cut(message(header, remaining_bytes, blob, version))
    assert found == blob
    assert found_remaining == remaining_bytes


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_cut_blob_is_refused(blob: bytes, data: st.DataObject) -> None:
    whole = message(b"header", 5, blob, b"")
    length = data.draw(st.integers(len(whole) - len(blob), len(whole) - 1))
    with pytest.raises(EtcdError):
        cut(whole[:length])


@given(st.binary(max_size=400))
def test_anything_else_is_refused_or_read(raw: bytes) -> None:
    try:
        remaining_bytes, blob = cut(raw)
    except EtcdError:
        return
    assert len(blob) <= len(raw)
    assert remaining_bytes < 2**70


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(EtcdError):
        cut(b"\x10" + b"\xff" * 1_000_000)
