"""The seam to object storage: four methods, and the abilities that only some stores have.

A store holds named, immutable objects under one prefix. Names are ``/``-separated and relative, of the characters
``A-Za-z0-9._-``, at most 512 characters long, with no segment that is empty or begins with a dot; `checked_name`
refuses others before they reach a disk or a server. Retry, faults and counting are wrappers around a store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

from bbr.errors import StoreError

Buffer: TypeAlias = bytes | bytearray | memoryview

NAME_LIMIT_CHARACTERS = 512
"""Longest name of an object, in characters: S3 allows 1,024 bytes, and the store's prefix comes on top."""

OBJECT_LIMIT_BYTES = 64 * 1024 * 1024
"""Largest object that every store must take, in bytes: objects are written by a single PUT."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a put left behind. ``time`` is the store's own clock at the write (UTC), never this host's."""

    name: str
    size_bytes: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in a listing. ``time`` is when the store says that it was written (UTC)."""

    name: str
    size_bytes: int
    time: datetime


class Store(Protocol):
    """Object storage under one prefix. Every method may be called from many threads.

    All raise `AccessDenied`, `BucketMissing`, `NotAStore` or `StoreUnavailable` (only the last may be tried again).
    """

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """Write one object: atomic, durable on return.

        Raises `AlreadyExists` and leaves the object as it is when the name is taken. A store that cannot promise
        that says so in `bbr doctor`; callers use names that never repeat. ``retain_until`` needs `Retention`.
        """
        ...

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """Read one object. Raises `NotFound`; `BodyTooLarge` past ``limit_bytes``, read no further; `BodyWrong`."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object whose name begins with ``prefix`` ("" for all), ordered by name: complete, or it raises."""
        ...

    def delete(self, name: str) -> None:
        """Remove one object; a missing name is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version of an object, newest first in a listing."""

    name: str
    version_id: str
    size_bytes: int
    time: datetime
    is_delete_marker: bool


@runtime_checkable
class Versions(Protocol):
    """A store that keeps what was overwritten or deleted."""

    def versions(self, name: str) -> tuple[Version, ...]:
        """The versions of one object, newest first; empty when versioning is off."""
        ...

    def get_version(self, name: str, version_id: str, *, limit_bytes: int) -> bytes:
        """Read one version; raises as `Store.get` does."""
        ...


@runtime_checkable
class Retention(Protocol):
    """A store that can lock objects against deletion."""

    def retention_enabled(self) -> bool:
        """Whether objects can be locked here (the bucket was made with object lock)."""
        ...

    def retained_until(self, name: str) -> datetime | None:
        """Until when an object is locked, or None."""
        ...

    def extend_retention(self, name: str, until: datetime) -> None:
        """Lock for longer. Shortening is refused by the store (`AccessDenied`)."""
        ...


@runtime_checkable
class Lifecycle(Protocol):
    """A store with rules that delete or move objects by themselves."""

    def expiry_rules(self) -> tuple[str, ...]:
        """One line for each rule that would remove or move objects under this prefix; empty when there is none."""
        ...


def is_name(name: str) -> bool:
    """Whether every store can hold an object of this name."""
    return len(name) <= NAME_LIMIT_CHARACTERS and _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """The name itself. Raises `StoreError` when it is not one that every store can hold."""
    if not is_name(name):
        raise StoreError(f"not a name for an object: {name[:80]!r}")
    return name
