"""Progress: a line now and then where nobody watches, a live line where somebody does."""

from __future__ import annotations

import io
import os
import pty
import threading
import time
from collections.abc import Callable

import pytest

from bbr.cli.display import LineProgress, TerminalProgress, progress_line, progress_on

DEADLINE_S = 20.0


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    waiting = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        waiting.wait(0.01)


def test_a_line_tells_rate_and_remaining_time() -> None:
    assert (
        progress_line("sealing", 3.0, 600_000_000, 1_000_000_000) == "sealing: 600 MB of 1.0 GB, 200 MB/s, 2.0 s left"
    )


def test_without_a_total_there_is_a_rate_but_no_remaining_time() -> None:
    assert progress_line("streaming", 2.0, 400_000_000, 0) == "streaming: 400 MB, 200 MB/s"


def test_a_step_that_counts_nothing_tells_how_long_it_has_been_going_on() -> None:
    assert progress_line("asking members", 20.0, 0, 0) == "asking members, for 20 s"


def test_more_done_than_expected_leaves_nothing_instead_of_less() -> None:
    assert progress_line("sealing", 1.0, 2000, 1000).endswith("0 ms left")


def test_where_nobody_watches_a_line_comes_again_and_again() -> None:
    stream = io.StringIO()
    with LineProgress(stream, every_s=0.01) as progress:
        progress.step("sealing")
        progress.advance(1000, 4000)
        wait_for(lambda: stream.getvalue().count("bbr: sealing: 1.0 kB of 4.0 kB") >= 3)


def test_a_step_that_hangs_still_speaks() -> None:
    stream = io.StringIO()
    with LineProgress(stream, every_s=0.01) as progress:
        progress.step("asking members")
        wait_for(lambda: "bbr: asking members, for" in stream.getvalue())


def test_a_short_run_says_nothing_but_its_warnings() -> None:
    stream = io.StringIO()
    with progress_on(stream) as progress:
        progress.step("sealing")
        progress.advance(1, 2)
        progress.warn("a member lags")
    assert stream.getvalue() == "warning: a member lags\n"


def test_a_new_step_starts_counting_anew() -> None:
    stream = io.StringIO()
    with LineProgress(stream, every_s=0.01) as progress:
        progress.step("one")
        progress.advance(1000, 4000)
        progress.step("two")
        wait_for(lambda: "two" in stream.getvalue())
    assert "two: 1.0 kB" not in stream.getvalue()


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[TerminalProgress], None], *, keep: bool = True
) -> str:
    """What a real pseudo-terminal was sent."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    master, slave = pty.openpty()
    received = bytearray()

    def read() -> None:
        while True:
            try:
                block = os.read(master, 65536)
            except OSError:  # the other side was closed
                return
            if not block:
                return
            received.extend(block)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as stream, progress_on(stream, keep_steps=keep) as progress:
        assert isinstance(progress, TerminalProgress)
        use(progress)
    reader.join(DEADLINE_S)
    os.close(master)
    return received.decode()


def test_on_a_terminal_each_step_stays_as_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(progress: TerminalProgress) -> None:
        progress.step("reading [main]")
        progress.advance(5_000_000, 5_000_000)
        progress.step("committing")
        progress.warn("a member [m2] lags")

    text = on_a_terminal(monkeypatch, use)
    assert "reading [main]: 5.0 MB, " in text
    assert "committing: " in text
    assert "warning: a member [m2] lags" in text


def test_a_terminal_is_not_colored_where_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_a_terminal(monkeypatch, lambda progress: progress.warn("look"))
    assert "warning: look" in text
    assert "\x1b[33m" not in text


def test_steps_can_be_shown_live_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_a_terminal(monkeypatch, lambda progress: progress.step("loading"), keep=False)
    assert "loading: " not in text
