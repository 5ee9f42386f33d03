"""A store in memory: for tests, and for whatever does not outlive its process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from bbr.errors import AlreadyExists, BodyTooLarge, NotFound, StoreError
from bbr.stores.store import Buffer, Entry, Stored, checked_name


def _now() -> datetime:
    return datetime.now(UTC)


class MemoryStore:
    """Holds objects in a dict. ``clock`` is the store's own time."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        checked_name(name)
        if retain_until is not None:
            raise StoreError("a store in memory locks nothing")
        time = self._clock()
        with self._lock:
            if name in self._objects:
                raise AlreadyExists(f"{name} exists")
            self._objects[name] = (bytes(body), time)
        return Stored(name, len(self._objects[name][0]), time)

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        checked_name(name)
        with self._lock:
            found = self._objects.get(name)
        if found is None:
            raise NotFound(f"{name} is not in the store")
        if len(found[0]) > limit_bytes:
            raise BodyTooLarge(f"{name} has {len(found[0]):,} bytes, more than the {limit_bytes:,} expected")
        return found[0]

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        with self._lock:
            found = sorted((name, *held) for name, held in self._objects.items() if name.startswith(prefix))
        return (Entry(name, len(body), time) for name, body, time in found)

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        checked_name(name)
        with self._lock:
            self._objects.pop(name, None)
