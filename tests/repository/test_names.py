from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import UsageError
from bbr.repository import names
from bbr.stores.store import checked_name

TIMES = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda time: time.replace(microsecond=0)
)
CLUSTERS = st.from_regex(names.CLUSTER, fullmatch=True).filter(str.isascii)
HEX16 = st.text("0123456789abcdef", min_size=16, max_size=16)
SEQUENCES = st.integers(0, names.SEQUENCE_LIMIT)


@given(TIMES, HEX16, HEX16)
def test_generation_parses_to_what_it_was_built_from(opened: datetime, writer: str, nonce: str) -> None:
    built = names.generation(opened, writer, nonce)
    assert names.parse_generation(built) == names.Generation(opened, writer, nonce)
    assert str(names.parse_generation(built)) == built


@given(CLUSTERS, TIMES, HEX16, SEQUENCES, st.integers(0, names.PART_NUMBER_LIMIT))
def test_manifest_and_part_names_parse_to_what_they_were_built_from(
    cluster: str, opened: datetime, hex16: str, sequence: int, number: int
) -> None:
    generation = names.generation(opened, hex16, hex16)
    manifest = names.ManifestName(cluster, generation, sequence, hex16)
    part = names.PartName(cluster, generation, sequence, hex16, number)
    assert names.parse_manifest_name(checked_name(str(manifest))) == manifest
    assert names.parse_part_name(checked_name(str(part))) == part
    assert str(manifest).startswith(names.manifests_prefix(cluster))


@given(CLUSTERS, TIMES, st.text("0123456789abcdef", min_size=4, max_size=4))
def test_backup_id_parses_to_its_cluster_and_time(cluster: str, began: datetime, nonce: str) -> None:
    assert names.parse_backup_id(names.backup_id(cluster, began, nonce)) == (cluster, began)


def test_backup_id_of_a_cluster_called_like_a_backup_id_is_not_mistaken() -> None:
    began = datetime(2026, 1, 2, tzinfo=UTC)
    cluster = "prod-20250101t000000z-abcd"
    assert names.parse_backup_id(names.backup_id(cluster, began, "0123")) == (cluster, began)


@given(st.one_of(st.text(), st.from_regex(names.PART), st.from_regex(names.GENERATION), st.from_regex(names.BACKUP_ID)))
def test_any_text_parses_to_its_own_name_or_to_none(text: str) -> None:
    for parse in (names.parse_manifest_name, names.parse_part_name, names.parse_generation):
        parsed = parse(text)
        assert parsed is None or str(parsed) == text
    number = names.parse_root_name(text)
    assert number is None or names.root_name(number) == text
    time = names.parse_stamp(text)
    assert time is None or names.stamp(time) == text
    called = names.parse_backup_id(text)
    assert called is None or names.backup_id(*called, text[-4:]) == text


@pytest.mark.parametrize(
    "text",
    [
        "20260230T000000Z",
        "20260101T240000Z",
        "20260101T000060Z",
        "00000101T000000Z",
        "２0260101T000000Z",
        "20260101T000000Z\n",
    ],
)
def test_stamp_that_is_no_time_is_none(text: str) -> None:
    assert names.parse_stamp(text) is None


@pytest.mark.parametrize(
    "text", ["root/0.json", "root/01.json", "root/1.json\n", "root/100000.json", "root/x.json", "root/1"]
)
def test_root_name_in_another_form_is_none(text: str) -> None:
    assert names.parse_root_name(text) is None


def test_parts_of_one_run_are_numbered_from_zero() -> None:
    places = names.parts("prod", "20260102T030405Z-0123456789abcdef-0123456789abcdef", 7, "f" * 16)
    assert next(places).endswith("/000007-ffffffffffffffff-00000.age")
    assert next(places).endswith("/000007-ffffffffffffffff-00001.age")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a" * 64, "ä", "a\n"])
def test_name_that_no_cluster_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a cluster") as caught:
        names.checked_cluster(name)
    assert caught.value.exit_code == 2
    assert "letter or a digit" in caught.value.hint
