"""The journal of a run: one line of JSON for each thing that begins or ends, on the disk before it is done.

It says what was tried, for a resume, for `undo` and for the post-mortem. It is never the only witness: a resume looks
at the machines again. A line that was cut by a crash is the last one, and is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bbr.durable import sync_folder
from bbr.errors import PlanInvalid

JOURNAL_NAME = "journal.jsonl"

Event = Literal["apply", "begun", "found", "done", "failed", "undoing", "undone", "finished", "cleaned", "warned"]


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
        if not self._path.exists():
            return ()
        lines = self._path.read_bytes().split(b"\n")
        entries = []
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                entries.append(_from_line(line))
            except (ValueError, KeyError, TypeError) as err:
                if number == len(lines):
                    break
                raise PlanInvalid(
                    f"{self._path}, line {number}: not a journal's", hint="somebody changed it; look at the machines"
                ) from err
        return tuple(entries)

    def write(self, event: Event, step: str = "", detail: str = "", *, seconds: float = 0.0) -> Entry:
        """Add an entry. A line that a crash cut is ended first, so that it stays one broken line."""
        entry = Entry(datetime.now(UTC), event, step, detail, seconds)
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._drop_cut_line(descriptor)
            os.write(descriptor, to_line(entry))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self._path.parent)
        return entry

    def _drop_cut_line(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            body = os.pread(descriptor, size, 0)
            os.ftruncate(descriptor, body.rfind(b"\n") + 1)


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
    moment = datetime.fromisoformat(body["time"])
    return Entry(moment, str(body["event"]), str(body["step"]), str(body["detail"]), float(body["seconds"]))


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
