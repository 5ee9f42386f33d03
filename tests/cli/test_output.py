"""Reports in both forms, and what goes to which stream."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bbr.cli.output import Facts, Output, Report, Table, print_error, table_lines, wants_color
from bbr.errors import BbrError

ROOT = Path(__file__).parents[2]
MAIN = "import sys; sys.argv[0] = 'bbr'; from bbr.cli.main import main; main()"
REPORT = Report(
    "bbr.test/1",
    {"path": Path("/a"), "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "name": "größe", "none": None},
    [Facts([("name", "value\nsecond line")]), "", Table(("ID", ">SIZE"), [("a", "1 B"), ("bbb", "12 B")])],
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(form: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    Output("json" if form == "json" else "table", stdout=out, stderr=err).report(REPORT)
    return out.getvalue(), err.getvalue()


def test_a_table_report_is_aligned_text_on_stdout() -> None:
    out, err = printed("table")
    assert out == "name  value\n      second line\n\nID   SIZE\na     1 B\nbbb  12 B\n"
    assert err == ""


def test_a_json_report_has_its_schema_and_plain_values() -> None:
    out, _ = printed("json")
    assert json.loads(out) == {
        "schema": "bbr.test/1",
        "path": "/a",
        "time": "2026-01-02T03:04:05Z",
        "name": "größe",
        "none": None,
    }


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes in a report"):
        Output("json", stdout=io.StringIO()).report(Report("bbr.test/1", {"x": b"raw"}, []))


def test_headings_are_bold_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color(Terminal())
    assert not wants_color(io.StringIO())
    assert table_lines(Table(("ID",), []), bold=True) == ["\x1b[1mID\x1b[0m"]


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_color_gets_none(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    assert not wants_color(Terminal())


def test_warnings_and_the_next_command_go_to_stderr_and_can_be_pasted() -> None:
    out, err = io.StringIO(), io.StringIO()
    output = Output(stdout=out, stderr=err)
    output.warn("look")
    output.next_command("bbr", "list", "--repo", "s3://b/p?region=x", why="see it")
    assert out.getvalue() == ""
    assert err.getvalue() == "warning: look\n\nNext, see it:\n  bbr list --repo 's3://b/p?region=x'\n"


def test_where_stdout_is_closed_the_result_is_not_dropped_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(BbrError, match="stdout is closed") as caught:
        Output().report(REPORT)
    assert "/dev/null" in caught.value.hint


def test_where_stderr_is_closed_nothing_of_it_gets_into_the_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    output = Output("json")
    output.report(REPORT)
    output.note("a note")
    output.warn("look")
    output.next_command("bbr", "list", why="see it")
    print_error("it failed", "try again")
    assert output.stderr.isatty() is False
    assert json.loads(capsys.readouterr().out)["schema"] == "bbr.test/1"


@pytest.mark.parametrize("closed", [1, 2])
def test_a_command_whose_stream_is_closed_ends_in_order(tmp_path: Path, closed: int) -> None:
    arguments = ["init", "--repo", "repository", "--keys-dir", "keys", "--state-dir", "state"]
    code = f"import os; os.close({closed}); os.execv(sys.executable, [sys.executable, '-c', {MAIN!r}, *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if closed == 1:
        assert (done.returncode, (tmp_path / "keys").exists()) == (1, False)
        assert done.stderr.splitlines()[0] == "bbr: stdout is closed, so the result would be lost"
    else:
        assert done.returncode == 0
        assert done.stdout.startswith("repository ")
        assert "Next," not in done.stdout
