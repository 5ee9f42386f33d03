from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import KeyRefused, PartDamaged
from bbr.repository import parts
from bbr.repository.keys import Identity, seal_to
from bbr.repository.manifest import PART_RAW_BYTES, PartRef
from bbr.repository.parts import open_part, seal

EPOCH = Identity.generate()
NAME = "clusters/prod/20260102T030405Z-0123456789abcdef-0123456789abcdef/000000-0123456789abcdef-00000.age"


def ref_of(body: bytes, raw_bytes: int) -> PartRef:
    return PartRef(NAME, len(body), hashlib.sha256(body).hexdigest(), raw_bytes)


def sealed(raw: bytes) -> tuple[bytes, PartRef]:
    part = seal(raw, EPOCH.recipient)
    return part.body, PartRef(NAME, len(part.body), part.sha256, part.raw_bytes)


@given(st.binary(min_size=1, max_size=5000), st.sampled_from([bytes, bytearray, memoryview]))
def test_part_opens_with_what_was_sealed(raw: bytes, kind: type[bytes | bytearray | memoryview]) -> None:
    part = seal(kind(raw), EPOCH.recipient)
    assert open_part(part.body, ref_of(part.body, len(raw)), EPOCH) == raw
    assert part.raw_bytes == len(raw)
    assert part.sha256 == hashlib.sha256(part.body).hexdigest()


def test_largest_part_opens_with_what_was_sealed() -> None:
    raw = bytes(range(256)) * (PART_RAW_BYTES // 256)
    body, ref = sealed(raw)
    assert open_part(body, ref, EPOCH) == raw


@pytest.mark.parametrize("size", [0, PART_RAW_BYTES + 1])
def test_part_that_is_empty_or_too_large_is_not_sealed(size: int) -> None:
    with pytest.raises(PartDamaged, match="a part holds 1 to"):
        seal(bytes(size), EPOCH.recipient)


def test_part_is_one_zstd_frame_with_its_size_and_checksum() -> None:
    frame = EPOCH.opens(sealed(b"content" * 100)[0])
    about = zstandard.get_frame_parameters(frame)
    assert about.content_size == 700
    assert about.has_checksum


def test_identity_of_another_epoch_is_refused() -> None:
    body, ref = sealed(b"content")
    with pytest.raises(KeyRefused, match=f"part {NAME} is sealed to others") as caught:
        open_part(body, ref, Identity.generate())
    assert caught.value.exit_code == 12


def test_every_changed_byte_is_refused() -> None:
    body, ref = sealed(b"content")
    for place in range(len(body)):
        changed = body[:place] + bytes([body[place] ^ 0x20]) + body[place + 1 :]
        with pytest.raises(PartDamaged, match="its SHA-256 differs"):
            open_part(changed, ref, EPOCH)


def test_truncated_part_is_refused() -> None:
    body, ref = sealed(b"content")
    with pytest.raises(PartDamaged, match="its manifest says") as caught:
        open_part(body[:-1], ref, EPOCH)
    assert caught.value.exit_code == 4


def test_swapped_part_is_refused() -> None:
    _, ref = sealed(b"content")
    other, _ = sealed(b"CONTENT")
    with pytest.raises(PartDamaged, match=r"part .* (is not what its manifest names|has .* bytes)"):
        open_part(other, ref, EPOCH)


def hostile(frame: bytes, raw_bytes: int) -> tuple[bytes, PartRef]:
    """A part that a writer signed for, but did not make as it should."""
    body = seal_to([EPOCH.recipient], frame)
    return body, ref_of(body, raw_bytes)


def test_bomb_is_refused_before_it_grows() -> None:
    frame = zstandard.compress(bytes(1024 * 1024 * 1024))
    body, ref = hostile(frame, 1000)
    assert len(body) < 200_000
    with pytest.raises(PartDamaged, match="decompresses to 1,073,741,824 bytes; its manifest says 1,000"):
        open_part(body, ref, EPOCH)


def test_bomb_that_its_manifest_announces_is_refused_too() -> None:
    body, ref = hostile(zstandard.compress(bytes(PART_RAW_BYTES + 1)), PART_RAW_BYTES + 1)
    with pytest.raises(PartDamaged, match="decompresses to"):
        open_part(body, ref, EPOCH)


def test_bomb_that_hides_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1024 * 1024))
    with pytest.raises(PartDamaged, match="decompresses to -1 bytes"):
        open_part(*hostile(frame, 1000), EPOCH)


def test_bomb_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(zstandard.compress(bytes(100_000)))
    at = frame.index((100_000).to_bytes(4, "little"))
    frame[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(PartDamaged, match="not a whole zstd frame"):
        open_part(*hostile(bytes(frame), 1000), EPOCH)


@pytest.mark.parametrize(
    "frame",
    [b"", b"no zstd", zstandard.compress(b"content")[:-1], zstandard.compress(b"content") + b"x"],
    ids=["empty", "no zstd", "cut", "more behind"],
)
def test_content_that_is_no_whole_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(PartDamaged, match="not a whole zstd frame"):
        open_part(*hostile(frame, 7), EPOCH)


def test_second_frame_is_refused() -> None:
    frame = zstandard.compress(b"content")
    with pytest.raises(PartDamaged, match="not a whole zstd frame"):
        open_part(*hostile(frame + frame, 7), EPOCH)


def test_part_that_is_no_age_file_is_refused() -> None:
    body = b"not sealed at all"
    with pytest.raises(PartDamaged, match="not a whole age file"):
        open_part(body, ref_of(body, 7), EPOCH)


def test_other_size_than_the_manifest_says_is_refused() -> None:
    body, ref = sealed(b"content")
    with pytest.raises(PartDamaged, match="decompresses to 7 bytes; its manifest says 8"):
        open_part(body, replace(ref, raw_bytes=8), EPOCH)


def test_library_that_writes_what_it_cannot_read_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def compress(self, raw: bytes) -> bytes:
            return zstandard.compress(bytes(len(raw)))

    monkeypatch.setattr(parts._TOOLS, "compressor", Broken())
    with pytest.raises(PartDamaged, match="opens with another content right after it was sealed") as caught:
        seal(b"content", EPOCH.recipient)
    assert "memory" in caught.value.hint
