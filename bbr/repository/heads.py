"""The newest manifest of each writer that this host has seen: what a store can then no longer drop unseen.

A chain tells of a manifest that is gone from its middle, since the next one names it. Its end can be cut off, or all of
it taken away, and what is left looks whole. So every host that reads the catalog remembers the ends that it saw. One
that is gone is reported until a later manifest names it: a backup names what its own host remembers, and from then on
the chain tells everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbr.durable import replace_file
from bbr.errors import RootInvalid
from bbr.repository import document, names
from bbr.repository.backups import Backup, Finding
from bbr.repository.document import Record, integer, many, matching

FORMAT = 1
_LIMIT_BYTES = 16 << 20
_LIMIT_HEADS = 50_000


@dataclass(frozen=True, slots=True)
class Head:
    """The end of one writer's chain of one cluster: the hash of its manifest as stored, and the object that held it."""

    cluster: str
    writer: str
    sha256: str
    object_name: str


@dataclass(frozen=True, slots=True)
class _Heads:
    format: int
    heads: tuple[Head, ...]


_HEAD = Record(
    Head,
    {
        "cluster": matching(names.CLUSTER),
        "writer": matching(names.KEY_ID),
        "sha256": matching(names.SHA256),
        "object_name": matching(names.MANIFEST),
    },
)
_HEADS = Record(_Heads, {"format": integer(FORMAT, FORMAT), "heads": many(_HEAD, _LIMIT_HEADS)})


class HeadsFile:
    """The remembered heads of one repository, in one file of the state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Head, ...]:
        """What is remembered. Raises `RootInvalid` for a damaged file: it is not passed over."""
        try:
            with self._path.open("rb") as file:
                body = file.read(_LIMIT_BYTES)
        except FileNotFoundError:
            return ()
        try:
            return document.decode(body, _HEADS, error=RootInvalid, what=str(self._path)).heads
        except RootInvalid as err:
            raise RootInvalid(
                f"what this host remembers of the backups is damaged: {err}",
                hint=f"look at `bbr list` from another host, then remove {self._path}",
            ) from err

    def remember(self, heads: Iterable[Head]) -> str:
        """Put these in the place of what was remembered. Durable on return. Returns why that failed, or ""."""
        wanted = tuple(sorted(heads, key=lambda head: (head.cluster, head.writer)))
        if wanted == self.load():
            return ""
        try:
            replace_file(self._path, document.encode(_Heads(FORMAT, wanted)))
        except OSError as err:
            return f"{self._path} could not be written, so a loss of the newest backups may go unseen: {err.strerror}"
        return ""

    def advance(self, head: Head) -> str:
        """Put one head in the place of its writer's one before. Durable on return. Returns why that failed, or ""."""
        place = (head.cluster, head.writer)
        return self.remember([*(one for one in self.load() if (one.cluster, one.writer) != place), head])


def head_of(backup: Backup) -> Head:
    """A backup as the end of its writer's chain."""
    manifest = backup.manifest
    return Head(manifest.cluster, manifest.writer, backup.sha256, backup.object_name)


def lost_heads(remembered: Iterable[Head], backups: Sequence[Backup], refused: Iterable[str]) -> list[Head]:
    """Those of ``remembered`` that are not stored any more, and that no manifest tells of.

    ``refused``: objects that are there, and are not believed; they have findings of their own.
    """
    there = {backup.sha256 for backup in backups}
    told = {sha256 for backup in backups for sha256 in (backup.manifest.previous, *backup.manifest.heads)}
    refused = set(refused)
    return [head for head in remembered if head.sha256 not in there | told and head.object_name not in refused]


def renewed(
    remembered: Iterable[Head], lost: Iterable[Head], newest: Mapping[tuple[str, str], Backup], cluster: str | None
) -> list[Head]:
    """What to remember after a catalog of ``cluster``, or of all, was read: the newest, but a lost one stays.

    ``newest`` are the heads of the catalog, by cluster and writer.
    """
    elsewhere = [head for head in remembered if cluster not in (None, head.cluster)]
    gone = {(head.cluster, head.writer): head for head in lost}
    seen = {place: head_of(backup) for place, backup in newest.items()}
    return [*elsewhere, *(seen | gone).values()]


def lost_finding(head: Head) -> Finding:
    """What a lost head means."""
    return Finding(
        "error",
        "lost",
        head.cluster,
        head.object_name,
        f"was the newest backup of writer {head.writer} when this host last looked, and is gone from the store",
    )
