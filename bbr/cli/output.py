"""All that the command line prints. Rules of the house:

- Data goes to stdout, everything else (warnings, progress, summaries, errors) to stderr.
- Every report is a table for a person or JSON for a program (``-o json``); JSON has a field ``schema``, "bbr.list/1".
- Tables are plain columns that grep and awk can cut; bold headings only on a terminal, and never with NO_COLOR.
- An error is one line, ``bbr: <what failed, on what>``, and one that says what to do next. No tracebacks.
- A command ends with one line that names the command that comes next.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

from bbr.errors import BbrError

Format = Literal["table", "json"]

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text. Columns whose heading begins with ``>`` are aligned to the right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they are, one a line: ``repository  s3://...``. A value of several lines is indented."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Report:
    """One result in both forms. ``schema`` is "bbr.<command>/<version>"; ``text`` is what a person reads."""

    schema: str
    data: Mapping[str, object]
    text: Sequence[str | Table | Facts]


class Output:
    """Where a command's result goes, in the form that was asked for."""

    def __init__(self, form: Format = "table", *, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.form: Format = form
        self._stdout = stdout
        self._stderr = stderr

    @property
    def stdout(self) -> TextIO:
        """Where data goes. Raises `BbrError` where it was closed: a command looks before it does anything."""
        if self._stdout is None and _is_closed(sys.stdout):
            raise BbrError("stdout is closed, so the result would be lost", hint="send it to a file, or to /dev/null")
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """Where everything goes that is no data."""
        return self._stderr or _stderr()

    def report(self, report: Report) -> None:
        """Print a result to stdout."""
        if self.form == "json":
            document = {"schema": report.schema, **report.data}
            # Indented for eyes only: for a program, ten thousand backups in one line take half a second less.
            indent = 2 if self.stdout.isatty() else None
            self.data(json.dumps(document, indent=indent, default=_plain, ensure_ascii=False))
            return
        bold = wants_color(self.stdout)
        for block in report.text:
            if isinstance(block, Table):
                lines = table_lines(block, bold=bold)
            elif isinstance(block, Facts):
                lines = _fact_lines(block)
            else:
                lines = [block]
            self.data("\n".join(lines))

    def data(self, text: str) -> None:
        """Print text to stdout as it is, at once, so that what follows on stderr follows in a log of both."""
        print(text, file=self.stdout, flush=True)

    def note(self, text: str) -> None:
        """Print a line to stderr."""
        print(text, file=self.stderr)

    def warn(self, text: str) -> None:
        """Print a warning to stderr."""
        print(f"warning: {text}", file=self.stderr)

    def next_command(self, *words: str, why: str) -> None:
        """Name the command that comes next, to be copied as it stands."""
        print(f"\nNext, {why}:\n  {shlex.join(words)}", file=self.stderr)


def print_error(message: str, hint: str = "") -> None:
    """Say what failed, and what to do next."""
    print(f"bbr: {message}", file=_stderr())
    if hint:
        print(f"  hint: {hint}", file=_stderr())


def wants_color(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose user did not say no (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table_lines(table: Table, *, bold: bool = False) -> list[str]:
    """The lines of a table, headings first, no trailing blanks."""
    headings = [column.lstrip(">") for column in table.columns]
    right = [column.startswith(">") for column in table.columns]
    widths = [
        max(len(heading), *(len(row[place]) for row in table.rows)) if table.rows else len(heading)
        for place, heading in enumerate(headings)
    ]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return _GAP.join(aligned).rstrip()

    heading = line(headings)
    return [f"{_BOLD}{heading}{_PLAIN}" if bold else heading, *(line(row) for row in table.rows)]


def _is_closed(stream: TextIO | None) -> bool:
    """Python has None for a standard stream that was closed before it began."""
    return stream is None


def _stderr() -> TextIO:
    """Standard error, or nowhere where it was closed: ``print`` would take stdout for None."""
    return io.StringIO() if _is_closed(sys.stderr) else sys.stderr


def _fact_lines(facts: Facts) -> list[str]:
    width = max((len(name) for name, _ in facts.pairs), default=0)
    lines = []
    for name, value in facts.pairs:
        first, *rest = value.splitlines() or [""]
        lines.append(f"{name.ljust(width)}{_GAP}{first}".rstrip())
        lines += [f"{' ' * width}{_GAP}{line}" for line in rest]
    return lines


def _plain(value: object) -> str:
    """What JSON has no word for: a path, and a time in UTC."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    raise TypeError(f"{type(value).__name__} in a report")
