"""Sizes, times and counts as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from bbr.cli import figures


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_900, "99.9 kB"),
        (99_999, "100 kB"),
        (999_600, "1.0 MB"),
        (157_300_000, "157 MB"),
        (1_020_000_000, "1.0 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_a_size_has_at_most_three_digits_and_the_unit_that_fits(count_bytes: int, text: str) -> None:
    assert figures.size(count_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.04, "40 ms"),
        (0.0999, "0.1 s"),
        (9.949, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_a_duration_is_as_exact_as_it_is_short(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def test_a_moment_is_utc_and_can_be_given_back_as_a_backups_id() -> None:
    east = datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    text = figures.moment(east)
    assert text == "2026-01-02 03:04:05Z"
    assert datetime.fromisoformat(text) == east.astimezone(UTC)


def test_one_of_a_thing_has_no_s() -> None:
    assert [figures.plural(count, "part") for count in (0, 1, 12_000)] == ["0 parts", "1 part", "12,000 parts"]
