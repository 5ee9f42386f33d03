"""A store in a directory: no server, one file an object."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bbr.errors import AlreadyExists, BodyTooLarge, BucketMissing, NotFound, StoreError
from bbr.stores.store import Buffer, Entry, Stored, checked_name


class DirectoryStore:
    """Objects under ``root``, which must exist."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        if retain_until is not None:
            raise StoreError("a directory locks nothing")
        path = self._root / checked_name(name)
        if not self._root.is_dir():
            raise BucketMissing(f"{self._root} does not exist")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.parent / f".{secrets.token_hex(8)}"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(body)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError as err:
            raise AlreadyExists(f"{name} exists") from err
        finally:
            temporary.unlink()
        return Stored(name, path.stat().st_size, datetime.now(UTC))

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        path = self._root / checked_name(name)
        try:
            with path.open("rb") as file:
                body = file.read(limit_bytes + 1)
        except FileNotFoundError as err:
            raise NotFound(f"{name} is not in the store") from err
        if len(body) > limit_bytes:
            raise BodyTooLarge(f"{name} is larger than {limit_bytes:,} bytes")
        return body

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        found = []
        for path in self._root.rglob("*"):
            name = path.relative_to(self._root).as_posix()
            if path.is_file() and not path.name.startswith(".") and name.startswith(prefix):
                stat = path.stat()
                found.append(Entry(name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)))
        return iter(sorted(found, key=lambda entry: entry.name))

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        (self._root / checked_name(name)).unlink(missing_ok=True)
