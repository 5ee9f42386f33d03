"""The difference between a chain and a snapshot, against sets and dicts that say the same in the plainest way."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.capture.cache import Live
from bbr.capture.increment import Difference, HistoryDiffers, difference

History = dict[int, int]


def keys_of(history: History) -> bytes:
    return b"".join(main.to_bytes(8) + b"_" + bytes(8) for main in sorted(history))


def digests_of(history: History) -> array[int]:
    return array("Q", [history[main] for main in sorted(history)])


def live(history: History) -> Live:
    return Live("main", "c1", max(history, default=0), 0, 7, keys_of(history), digests_of(history))


def compare(old: History, new: History) -> Difference | HistoryDiffers:
    return difference(live(old), keys_of(new), digests_of(new))


@given(
    common=st.dictionaries(st.integers(1, 3000), st.integers(0, 2**64 - 1), max_size=600),
    gone=st.sets(st.integers(1, 3000), max_size=200),
    fresh=st.sets(st.integers(1, 4000), max_size=200),
)
def test_difference_is_what_sets_say(common: History, gone: set[int], fresh: set[int]) -> None:
    old = common | dict.fromkeys(gone - common.keys(), 1)
    new = common | dict.fromkeys(fresh - old.keys(), 2)

    result = compare(old, new)

    assert isinstance(result, Difference)
    places = sorted(new)
    assert [int.from_bytes(key[:8]) for key in result.removed] == sorted(old.keys() - new.keys())
    assert [places[at] for at in result.added] == sorted(new.keys() - old.keys())


@pytest.mark.parametrize("revision", [1, 2, 127, 128, 129, 1000])
def test_other_content_under_one_revision_is_another_history(revision: int) -> None:
    old = {main: main for main in range(1, 1001)}
    assert compare(old, old | {revision: 0}) == HistoryDiffers(revision)


def test_nothing_changed_is_an_empty_difference() -> None:
    history = {main: main for main in range(1, 1001)}
    assert compare(history, history) == Difference([], [])


def test_an_empty_chain_lacks_everything() -> None:
    assert compare({}, {5: 1, 9: 1}) == Difference([], [0, 1])
