from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbr.errors import ManifestInvalid, UsageError
from bbr.repository import document, manifest, names
from bbr.repository.envelope import decode_envelope
from bbr.repository.keys import SigningKey
from bbr.repository.manifest import (
    ControlPlane,
    EtcdEntry,
    Manifest,
    MemberState,
    PartRef,
    decode_manifest,
    encode_manifest,
    recall_manifest,
)

KEY = SigningKey.generate()
HEX = "0123456789abcdef"
SHA256 = st.text(HEX, min_size=64, max_size=64)
HEX16 = st.text(HEX, min_size=16, max_size=16)
HEX_ID = st.text(HEX, min_size=1, max_size=16)
REVISION = st.integers(0, 2**63 - 1)
COMPACTED = st.integers(-1, 2**63 - 1)
HASH = st.integers(0, 2**32 - 1)
LINE = st.text(max_size=20).filter(str.isprintable).map(str.strip)
UTC_TIMES = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2500, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
).map(lambda time: time.replace(microsecond=0))

MEMBERS = st.builds(MemberState, HEX_ID, LINE, LINE, REVISION, st.none() | HASH, st.none() | COMPACTED, LINE)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest that a writer may sign."""
    cluster = draw(st.from_regex(names.CLUSTER, fullmatch=True).filter(str.isascii))
    opened = draw(UTC_TIMES)
    began = opened + timedelta(seconds=draw(st.integers(0, 80_000)))
    generation = names.generation(opened, KEY.key_id, draw(HEX16))
    sequence = draw(st.integers(0, names.SEQUENCE_LIMIT))
    nonce = draw(HEX16)
    places = names.parts(cluster, generation, sequence, nonce)

    def parts() -> tuple[PartRef, ...]:
        return tuple(
            PartRef(next(places), draw(st.integers(1, 2**26)), draw(SHA256), draw(st.integers(1, 2**24)))
            for _ in range(draw(st.integers(0, 3)))
        )

    def etcd(name: str) -> EtcdEntry:
        own = parts()
        parent = draw(st.integers(0, sequence - 1)) if sequence and draw(st.booleans()) else None
        size = draw(REVISION) if parent is not None else sum(part.raw_bytes for part in own)
        return EtcdEntry(
            name, draw(HEX_ID), draw(HEX_ID), draw(LINE), draw(LINE), draw(LINE),
            tuple(draw(st.lists(MEMBERS, max_size=3))), tuple(draw(st.lists(LINE, max_size=2))),
            draw(REVISION), draw(COMPACTED), draw(HASH), draw(st.booleans()), draw(LINE), draw(REVISION),
            draw(st.sampled_from([4096, 16384, 65536])), size, draw(SHA256), parent, own,
        )  # fmt: skip

    reasons = tuple(draw(st.lists(LINE.filter(bool), max_size=2)))
    return Manifest(
        repository_id=draw(SHA256),
        root_number=draw(st.integers(1, names.ROOT_NUMBER_LIMIT)),
        cluster=cluster,
        cluster_identity=draw(st.uuids().map(lambda uid: f"uid:{uid}") | HEX_ID.map(lambda text: f"etcd:{text}")),
        generation=generation,
        sequence=sequence,
        nonce=nonce,
        previous=draw(st.none() | SHA256),
        heads=tuple(draw(st.lists(SHA256, max_size=3))),
        epoch=names.epoch(opened, draw(st.text(HEX, min_size=8, max_size=8))),
        time=began + timedelta(seconds=draw(st.integers(0, 5000))),
        backup_id=names.backup_id(cluster, began, draw(st.text(HEX, min_size=4, max_size=4))),
        writer=KEY.key_id,
        status="partial" if reasons else "complete",
        reasons=reasons,
        etcds=tuple(etcd(name) for name in draw(st.sampled_from([("main",), ("main", "events")]))),
        control_plane=ControlPlane(draw(SHA256), parts()) if draw(st.booleans()) else None,
        inventory=parts(),
    )


GENERATION = f"20260102T030405Z-{KEY.key_id}-{'0' * 16}"
EXAMPLE = Manifest(
    repository_id="ab" * 32,
    root_number=1,
    cluster="prod",
    cluster_identity="etcd:cdf818194e3a8c32",
    generation=GENERATION,
    sequence=3,
    nonce="1" * 16,
    previous="cd" * 32,
    heads=(),
    epoch="20260101T000000Z-00000000",
    time=datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC),
    backup_id="prod-20260102T035900Z-0000",
    writer=KEY.key_id,
    status="complete",
    reasons=(),
    etcds=(
        EtcdEntry(
            "main", "a", "b", "m", "3.6.16", "3.6", (MemberState("b", "m", "3.6.16", 9, 7, 5, ""),), (),
            9, 5, 7, True, "", 5, 4096, 70_000, "ef" * 32, 2,
            (PartRef(f"clusters/prod/{GENERATION}/000003-{'1' * 16}-00000.age", 9, "1" * 64, 9),),
        ),
    ),
    control_plane=None,
    inventory=(),
)  # fmt: skip
ENTRY = EXAMPLE.etcds[0]
PART = ENTRY.parts[0]
STRAY = replace(PART, name=PART.name.replace("prod", "test"))


def payload(body: bytes) -> bytes:
    return decode_envelope(body, error=ManifestInvalid, what="it").payload


@settings(max_examples=200)
@given(manifests())
def test_manifest_is_read_back_as_it_was_written(written: Manifest) -> None:
    body = payload(encode_manifest(written, KEY))
    assert decode_manifest(body) == written
    assert recall_manifest(body) == written
    assert document.encode(decode_manifest(body)) == body


def test_time_is_written_in_whole_seconds() -> None:
    written = encode_manifest(replace(EXAMPLE, time=EXAMPLE.time.replace(microsecond=999_999)), KEY)
    assert decode_manifest(payload(written)).time == EXAMPLE.time


@given(st.binary())
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match=r"^the manifest"):
        decode_manifest(data)


def entry(**changes: object) -> Manifest:
    return replace(EXAMPLE, etcds=(replace(ENTRY, **changes),))  # type: ignore[arg-type]


def part(**changes: object) -> Manifest:
    return entry(parts=(replace(PART, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (replace(EXAMPLE, format=2), "format: a int is not a whole number from 1 to 1"),
        (replace(EXAMPLE, repository_id="AB" * 32), "repository_id"),
        (replace(EXAMPLE, root_number=0), "root_number"),
        (replace(EXAMPLE, cluster="../x"), "cluster"),
        (replace(EXAMPLE, cluster_identity="uid:1"), "cluster_identity"),
        (replace(EXAMPLE, generation="x"), "generation"),
        (replace(EXAMPLE, generation=EXAMPLE.generation.replace("0102T", "0230T")), "holds no time"),
        (replace(EXAMPLE, sequence=-1), "sequence"),
        (replace(EXAMPLE, sequence=True), "sequence"),
        (replace(EXAMPLE, sequence=1_000_000), "sequence"),
        (replace(EXAMPLE, previous=""), "previous"),
        (replace(EXAMPLE, heads=("x",)), "heads"),
        (replace(EXAMPLE, writer="0" * 16), "the generation belongs to writer"),
        (replace(EXAMPLE, backup_id="test-20260102T035900Z-0000"), "is of another cluster than prod"),
        (replace(EXAMPLE, backup_id="prod-20260102T035900Z-00000"), "backup_id"),
        (replace(EXAMPLE, backup_id="prod-20260102T030000Z-0000"), "its times do not follow"),
        (replace(EXAMPLE, time=EXAMPLE.time - timedelta(hours=1)), "its times do not follow"),
        (replace(EXAMPLE, reasons=("etcd events",)), "a complete backup has no reasons"),
        (replace(EXAMPLE, status="partial"), "a complete backup has no reasons, a partial one has"),
        (replace(EXAMPLE, status="good"), "status"),  # type: ignore[arg-type]
        (replace(EXAMPLE, etcds=()), "a complete backup without an etcd"),
        (replace(EXAMPLE, etcds=(ENTRY, ENTRY)), "two etcds of one name"),
        (replace(EXAMPLE, inventory=(PART,)), "one part named twice"),
        (entry(name="Main"), "etcds: name"),
        (entry(hash_kv=2**32), "etcds: hash_kv"),
        (entry(revision=2**63), "etcds: revision"),
        (entry(compared=1), "etcds: compared"),
        (entry(parent=3), "builds upon sequence 3, which is not before 3"),
        (entry(parent=None), "the parts of the base hold other than 70000 bytes"),
        (part(name="clusters/prod/x.age"), "etcds: parts: name"),
        (part(name=PART.name.replace("000003", "000002")), "is of another backup"),
        (part(name=PART.name.replace("prod", "test")), "is of another backup"),
        (part(size_bytes=2**26 + 1), "etcds: parts: size_bytes"),
        (part(raw_bytes=2**24 + 1), "etcds: parts: raw_bytes"),
        (part(raw_bytes=0), "etcds: parts: raw_bytes"),
        (
            replace(EXAMPLE, control_plane=ControlPlane("1" * 64, (STRAY,))),
            "is of another generation",
        ),
    ],
)
def test_manifest_that_breaks_a_rule_is_neither_written_nor_read(wrong: Manifest, reason: str) -> None:
    with pytest.raises(ManifestInvalid, match=reason) as caught:
        decode_manifest(document.encode(wrong))
    assert caught.value.exit_code == 4
    with pytest.raises(ManifestInvalid, match=reason):
        encode_manifest(wrong, KEY)


def test_text_of_others_is_made_to_fit_when_written_and_refused_when_read() -> None:
    member = replace(ENTRY.members[0], name="\x1b[2Jm", note="rpc error:\ndesc")
    loud = replace(ENTRY, member_name="m\n", server_version="3" * 1001, alarms=("NO\tSPACE",) * 101, members=(member,))
    wrong = replace(EXAMPLE, status="partial", reasons=("two\nlines", "\n") * 51, etcds=(loud,))
    read = decode_manifest(payload(encode_manifest(wrong, KEY)))
    assert read.reasons == ("two lines", "unknown") * 50
    assert read.etcds[0].members[0].note == "rpc error: desc"
    assert (read.etcds[0].server_version, read.etcds[0].alarms) == ("3" * 1000, ("NO SPACE",) * 100)
    for spoiled in (
        replace(EXAMPLE, status="partial", reasons=("two\nlines",)),
        entry(member_name="m\n"),
        entry(server_version="3" * 1001),
        entry(members=(member,)),
        entry(alarms=("",) * 101),
    ):
        with pytest.raises(ManifestInvalid, match=r"not one line|not a list of at most 100"):
            decode_manifest(document.encode(spoiled))


def test_control_plane_may_be_that_of_an_earlier_backup_of_the_generation() -> None:
    earlier = replace(PART, name=PART.name.replace("000003", "000001"))
    shared = replace(EXAMPLE, control_plane=ControlPlane("1" * 64, (earlier,)))
    assert decode_manifest(document.encode(shared)) == shared
    assert shared.parts == (PART, earlier)


def test_unknown_field_is_refused() -> None:
    body = document.encode(EXAMPLE).replace(b'"alarms":[]', b'"alarms":[],"also":1')
    with pytest.raises(ManifestInvalid, match="'also' is not known"):
        decode_manifest(body)


def test_every_field_is_checked() -> None:
    for record in (manifest._MANIFEST, manifest._ETCD, manifest._MEMBER, manifest._PART, manifest._CONTROL_PLANE):
        assert isinstance(record.build, type)
        assert set(record.fields) == {field.name for field in fields(record.build)}


def test_etcd_is_found_by_name_and_others_are_named() -> None:
    assert EXAMPLE.etcd("main") == ENTRY
    with pytest.raises(UsageError, match="no etcd named 'events'") as caught:
        EXAMPLE.etcd("events")
    assert caught.value.hint == "it has: main"


def test_recalling_another_shape_gives_none() -> None:
    for data in (b"", b"[]", b"{}", document.encode(EXAMPLE).replace(b'"alarms":[],', b"")):
        assert recall_manifest(data) is None
