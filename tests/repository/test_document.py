from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import ManifestInvalid, RootInvalid
from bbr.repository import document


@dataclass(frozen=True, slots=True)
class Stop:
    place: str
    at: datetime
    seats: int | None


@dataclass(frozen=True, slots=True)
class Tour:
    name: str
    stops: tuple[Stop, ...]
    paid: bool


STOP = document.Record(
    Stop,
    {"place": document.matching("[a-z]+"), "at": document.time, "seats": document.optional(document.integer(0, 9))},
)
TOUR = document.Record(Tour, {"name": document.text(20), "stops": document.many(STOP, 3), "paid": document.boolean})

EXAMPLE = Tour("grüße", (Stop("here", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None),), True)
BYTES = '{"name":"grüße","paid":true,"stops":[{"at":"2026-01-02T03:04:05Z","place":"here","seats":null}]}'.encode()

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def decode(data: bytes) -> Tour:
    return document.decode(data, TOUR, error=RootInvalid, what="the tour")


def test_record_is_written_in_its_one_form_and_read_back() -> None:
    assert document.encode(EXAMPLE) == BYTES
    assert decode(BYTES) == EXAMPLE


def test_what_was_checked_before_is_read_back_the_same_without_checks() -> None:
    assert TOUR.believed(json.loads(BYTES)) == EXAMPLE


@given(JSON_VALUES)
def test_canonical_json_parses_to_the_same_value(value: object) -> None:
    try:
        data = document.canonical(value)
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return
    assert document.parse(data, error=ManifestInvalid, what="it") == value


@given(st.one_of(st.binary(), JSON_VALUES.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with pytest.raises(RootInvalid, match=r"^the tour"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        BYTES.replace(b'"paid":true', b'"paid":false,"paid":true'),
        BYTES.replace(b'"paid":true', b'"paid": true'),
        BYTES + b"\n",
        BYTES.replace("ü".encode(), b"\\u00fc"),
        BYTES.replace(b"null", b"-0"),
        BYTES.replace(b"null", b"1e0"),
    ],
    ids=["duplicate key", "space", "line end", "escape", "minus zero", "exponent"],
)
def test_other_text_for_the_same_value_is_refused(data: bytes) -> None:
    with pytest.raises(RootInvalid) as caught:
        decode(data)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b"1" * 5000, b"NaN", b"1.5", b'"\\ud800"', b"\xff", b""],
    ids=["nested", "digits", "nan", "fraction", "surrogate", "no utf-8", "empty"],
)
def test_json_made_to_break_a_parser_is_refused(data: bytes) -> None:
    with pytest.raises(RootInvalid, match="the tour is not a JSON document"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "a list is not an object"),
        (BYTES.replace(b'"paid":true,', b""), "paid is missing"),
        (BYTES.replace(b'"paid"', b'"p":0,"paid"'), "'p' is not known"),
        (BYTES.replace(b"true", b"1"), "paid: a int is neither true nor false"),
        (BYTES.replace(b"null", b"10"), "stops: seats: a int is not a whole number from 0 to 9"),
        (BYTES.replace(b"null", b"true"), "stops: seats: a bool is not a whole number"),
        (BYTES.replace(b"here", b"Here"), "stops: place: 'Here' does not have the form"),
        (BYTES.replace(b"-01-02", b"-02-30"), "stops: at: '2026-02-30T03:04:05Z' is not a time"),
        (BYTES.replace(b"T03", b"T24"), "is not a time"),
        (BYTES.replace(b"gr", b"\\u001b"), "name: .* is not one line"),
    ],
)
def test_field_that_breaks_a_rule_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(RootInvalid, match=reason):
        decode(data)


def test_list_that_is_too_long_is_refused() -> None:
    stop = EXAMPLE.stops[0]
    with pytest.raises(RootInvalid, match="stops: not a list of at most 3"):
        decode(document.encode(Tour("long", (stop,) * 4, False)))


def test_one_line_makes_any_text_fit() -> None:
    assert document.one_line("rpc error:\n\x1b[31mdesc\t", 100) == "rpc error:  [31mdesc"
    assert document.one_line("x" * 200, 100) == "x" * 100
