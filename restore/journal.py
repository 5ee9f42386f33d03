"""The journal of a run: one line of JSON for each thing that begins or ends, on the disk before it is done.

It says what was tried, for a resume, for `undo` and for the post-mortem. It is never the only witness: a resume looks
at the machines again. A line that was cut by a crash is the last one, and is dropped.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bbr.durable import sync_folder
from bbr.errors import PlanInvalid

JOURNAL_NAME = "journal.jsonl"
DETAIL_LENGTH = 4000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

Event = Literal[
    "apply", "begun", "found", "done", "failed", "undoing", "undone", "finished", "cleaned", "warned", "noted"
]


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened. ``step`` is "" for what concerns the whole run; ``seconds`` how long it took."""

    time: datetime
    event: str
    step: str
    detail: str
    seconds: float = 0.0


class Journal:
    """The journal in a file. Every `write` is durable on return."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Entry, ...]:
        """All entries. Raises `PlanInvalid` for a line in the middle that is none."""
        return parse(self.body(), what=str(self._path))

    def body(self) -> bytes:
        """The file, for a copy; empty while there is none."""
        return self._path.read_bytes() if self._path.exists() else b""

    def write(self, event: Event, step: str = "", detail: str = "", *, seconds: float = 0.0) -> Entry:
        """Add an entry. A line that a crash cut is ended first, so that it stays one broken line."""
        entry = Entry(datetime.now(UTC), event, step, _plain(detail[:DETAIL_LENGTH]), seconds)
        self.add((entry,))
        return entry

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries that were written elsewhere, or now. Durable on return."""
        lines = b"".join(map(to_line, entries))
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._drop_cut_line(descriptor)
            os.write(descriptor, lines)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self._path.parent)

    def _drop_cut_line(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            body = os.pread(descriptor, size, 0)
            os.ftruncate(descriptor, body.rfind(b"\n") + 1)


def parse(body: bytes, *, what: str) -> tuple[Entry, ...]:
    """The entries of a journal's file. A cut last line is dropped. Raises `PlanInvalid` for one that is none."""
    lines = body.split(b"\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entries.append(_from_line(line))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as err:
            if number == len(lines):
                break
            raise PlanInvalid(
                f"{what}, line {number}: not a journal's", hint="somebody changed it; look at the machines"
            ) from err
    return tuple(entries)


def to_line(entry: Entry) -> bytes:
    """An entry as a line."""
    body = {
        "time": f"{entry.time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        "event": entry.event,
        "step": entry.step,
        "detail": entry.detail,
        "seconds": round(entry.seconds, 3),
    }
    return f"{json.dumps(body, ensure_ascii=False)}\n".encode()


def _from_line(line: bytes) -> Entry:
    body = json.loads(line)
    moment, seconds = datetime.fromisoformat(body["time"]).astimezone(UTC), float(body["seconds"])
    if not math.isfinite(seconds):
        raise ValueError("not a number of seconds")
    event, step, detail = (_plain(str(body[key])) for key in ("event", "step", "detail"))
    return Entry(moment, event, step, detail, seconds)


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor, or cannot be written: a journal is printed."""
    return _CONTROLS.sub("?", text)


@dataclass(frozen=True, slots=True)
class Past:
    """What a journal says, taken together."""

    begun: frozenset[str]
    done: frozenset[str]
    is_finished: bool
    is_undone: bool
    is_undoing: bool


def past_of(entries: Iterable[Entry]) -> Past:
    """What was begun and done. A step that failed stays begun; what was undone is neither."""
    begun: set[str] = set()
    completed: set[str] = set()
    is_finished = is_undone = is_undoing = False
    for entry in entries:
        match entry.event:
            case "begun":
                begun.add(entry.step)
                completed.discard(entry.step)
            case "done" | "found":
                begun.add(entry.step)
                completed.add(entry.step)
            case "undoing":
                is_undoing = True
            case "undone" if entry.step:
                begun.discard(entry.step)
                completed.discard(entry.step)
            case "undone":
                is_undone = True
            case "finished":
                is_finished = True
    return Past(frozenset(begun), frozenset(completed), is_finished, is_undone, is_undoing)
