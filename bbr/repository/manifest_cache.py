"""Manifests that this host verified before: a SQLite file in the state directory, so that a listing fetches only news.

A row is used for an object of the same name and size, and only while the root that it was verified under is the newest;
under another root its signature is checked again, without fetching. Objects are never overwritten, so a name says which
content it was; checks that must see what is stored now (`verify`) load without this cache. Rows carry a hash of their
own, so a damaged file costs a fetch, no more. Losing the file is harmless; so is a full disk.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 5.0

_DAMAGE = (sqlite3.DatabaseError, ValueError)
"""What the sqlite3 module raises for a damaged file; ValueError where the damage is quoted and is no UTF-8."""

_TABLE = """
CREATE TABLE manifests (
    name TEXT PRIMARY KEY, size_bytes INTEGER, root TEXT, sha256 TEXT,
    payload BLOB, key_id TEXT, signature BLOB, whole BLOB
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A verified manifest. ``root`` is the SHA-256 of the root that it was verified under, ``sha256`` that of the
    stored envelope; payload, key id and signature are what the envelope holds."""

    name: str
    size_bytes: int
    root: str
    sha256: str
    payload: bytes
    key_id: str
    signature: bytes


class ManifestCache:
    """The cache in one file, made anew where it is damaged or of another version. Opened for each call, so nothing is
    held open and several processes may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, prefix: str) -> dict[str, Row]:
        """Every whole row whose name begins with ``prefix``, by name. A file that is no cache of ours gives none."""
        rows: dict[str, Row] = {}
        try:
            with self._opened() as connection:
                query = "SELECT * FROM manifests WHERE name >= ? AND name < ?"
                for *fields, whole in connection.execute(query, (prefix, prefix + "\U0010ffff")):
                    row = Row(*fields)
                    if isinstance(row.payload, bytes) and _whole(row) == whole:
                        rows[row.name] = row
        except (sqlite3.OperationalError, OSError):
            return rows  # busy, or a disk that fails: what was read is whole, the rest is fetched
        except _DAMAGE:
            self._path.unlink(missing_ok=True)
        return rows

    def remember(self, rows: Iterable[Row], *, forget: Iterable[str] = ()) -> str:
        """Add or replace rows, and drop those that are no longer listed. Returns why that failed, or ""."""
        try:
            with self._opened() as connection, connection:
                connection.executemany("DELETE FROM manifests WHERE name = ?", ((name,) for name in forget))
                connection.executemany(
                    "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    ((*astuple(row), _whole(row)) for row in rows),
                )
        except (sqlite3.OperationalError, OSError) as err:
            return f"the manifest cache {self._path} could not be written: {err}"
        except _DAMAGE as err:
            self._path.unlink(missing_ok=True)
            return f"the manifest cache {self._path} was damaged, and is made anew: {err}"
        return ""

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The file with its table, made if need be (0600)."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                with connection:
                    connection.execute("DROP TABLE IF EXISTS manifests")
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")
            yield connection


def _whole(row: Row) -> bytes:
    """A hash over all of a row: SQLite does not notice a flipped byte in a value."""
    digest = hashlib.sha256(row.payload)
    digest.update(f"{row.name} {row.size_bytes} {row.root} {row.sha256} {row.key_id} {row.signature!r}".encode())
    return digest.digest()
