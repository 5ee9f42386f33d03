"""The journal: durable lines, of which a crash may cut the last."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.errors import PlanInvalid
from restore.incident import render
from restore.journal import Journal, past_of
from restore.plan import PlannedStep
from tests.restore.plans import make_plan


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    written = [
        journal.write("begun", "upload", "not there: \u00e4\n\u2028"),
        journal.write("done", "upload", seconds=1.25),
    ]
    assert list(journal.read()) == written
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kept_bytes", [1, 20, 60])
def test_a_line_that_a_crash_cut_is_dropped(kept_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    first = journal.write("begun", "upload")
    whole = path.read_bytes()
    journal.write("done", "upload")
    path.write_bytes(path.read_bytes()[: len(whole) + kept_bytes])
    assert journal.read() == (first,)
    second = journal.write("begun", "stop")
    assert journal.read() == (first, second)


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write("begun", "upload")
    path.write_bytes(b"{half\n" + path.read_bytes())
    with pytest.raises(PlanInvalid, match="line 1"):
        journal.read()


def test_what_was_undone_is_neither_begun_nor_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for step in ("upload", "stop"):
        journal.write("begun", step)
        journal.write("done", step)
    journal.write("undoing")
    journal.write("undone", "stop")
    past = past_of(journal.read())
    assert past.begun == past.done == {"upload"}
    assert past.is_undoing
    assert not past.is_undone


def test_the_incident_log_tells_what_happened(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.write("begun", "upload", "not yet on m1")
    journal.write("failed", "upload", "m1: the disk is full", seconds=2)
    plan = make_plan(steps=(PlannedStep("upload", "upload the snapshot", "remove it", False),))
    text = render(plan, journal.read())
    assert "upload the snapshot: FAILED (2.0 s) - m1: the disk is full" in text
    assert "everything since" in text
