"""Parts on their way: sealed, put and read back by a few threads; fetched and opened in order by as many.

Memory is bounded by the threads, not by the size of the backup: at most `THREADS` + 1 parts are on their way at once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from threading import Lock
from typing import TypeVar

from bbr.errors import BodyTooLarge, BodyWrong, NotFound, PartDamaged
from bbr.memory import keep_freed_memory
from bbr.progress import Progress
from bbr.repository.keys import Identity
from bbr.repository.manifest import PartRef
from bbr.repository.parts import PART_RAW_BYTES, open_part, seal
from bbr.stores.store import Buffer, Store
from bbr.threads import pool

THREADS = 3
"""Two seal at full speed on two cores; the third keeps them fed while a store answers."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """A part that is in the store and was read back, and the store's time at its write."""

    ref: PartRef
    time: datetime


def pieces(stream: Iterable[Buffer], size_bytes: int = PART_RAW_BYTES) -> Iterator[bytearray]:
    """Cut a stream into pieces of ``size_bytes``; the last may be shorter, and an empty stream has none."""
    piece = bytearray()
    for buffer in stream:
        view = memoryview(buffer)
        while view:
            taken = view[: size_bytes - len(piece)]
            piece += taken
            view = view[len(taken) :]
            if len(piece) == size_bytes:
                yield piece
                piece = bytearray()
    if piece:
        yield piece


def slices(whole: memoryview, size_bytes: int = PART_RAW_BYTES) -> Iterator[memoryview]:
    """Cut what is in memory, or mapped into it, into pieces without a copy."""
    for start in range(0, len(whole), size_bytes):
        yield whole[start : start + size_bytes]


def send(
    store: Store, raw_pieces: Iterable[Buffer], *, names: Iterator[str], recipient: str, done: Callable[[int], None]
) -> list[Sent]:
    """Seal every piece, put it under the next name, read it back and compare. Tells ``done`` the raw bytes of each.

    Raises what the store raises, and `BodyWrong` where a part came back other than it was written.
    """

    def one(name: str, raw: Buffer) -> Sent:
        sealed = seal(raw, recipient)
        stored = put_and_read_back(store, name, sealed.body)
        done(sealed.raw_bytes)
        return Sent(PartRef(name, len(sealed.body), sealed.sha256, sealed.raw_bytes), stored)

    return list(_in_order(one, ((next(names), raw) for raw in raw_pieces)))


def fetch(store: Store, refs: Sequence[PartRef], identity: Identity) -> Iterator[bytes]:
    """The raw bytes of each part, in order. Raises `PartDamaged` or `KeyRefused`, naming the part."""

    def one(ref: PartRef) -> bytes:
        return open_part(read_part(store, ref), ref, identity)

    yield from _in_order(one, ((ref,) for ref in refs))


def fetch_into(
    store: Store, refs: Sequence[PartRef], identity: Identity, descriptor: int, *, done: Callable[[int], None]
) -> None:
    """Write the parts one behind the other into an open file. Each thread puts what it opened where it belongs."""
    starts = accumulate((ref.raw_bytes for ref in refs), initial=0)

    def one(ref: PartRef, start: int) -> None:
        raw = memoryview(open_part(read_part(store, ref), ref, identity))
        while raw:
            written = os.pwrite(descriptor, raw, start)
            raw, start = raw[written:], start + written
        done(ref.raw_bytes)

    for _ in _in_order(one, zip(refs, starts, strict=False)):
        pass


def read_part(store: Store, ref: PartRef) -> bytes:
    """One stored part as it is. A part that is missing or too large is damage: the manifest promised it."""
    try:
        return store.get(ref.name, limit_bytes=ref.size_bytes)
    except NotFound as err:
        raise PartDamaged(f"part {ref.name} is missing from the store") from err
    except BodyTooLarge as err:
        raise PartDamaged(f"part {ref.name} is larger than the {ref.size_bytes} bytes of its manifest") from err


def put_and_read_back(store: Store, name: str, body: bytes) -> datetime:
    """Put one object and compare what the store gives back. Returns the store's time at the write."""
    stored = store.put(name, body)
    if store.get(name, limit_bytes=len(body)) != body:
        raise BodyWrong(
            f"{name} was read back other than it was written", hint="run `bbr doctor`: this store cannot be trusted"
        )
    return stored.time


class Meter:
    """Adds up what several threads have done of a step, and tells."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self._progress, self._total, self._lock = progress, total_bytes, Lock()
        self.done_bytes = 0

    def add(self, size_bytes: int) -> None:
        """So much more is done."""
        with self._lock:
            self.done_bytes += size_bytes
            self._progress.advance(self.done_bytes, self._total)


class PartWriter:
    """Sends streams as the numbered parts of one run. ``time`` is the store's, at the last write."""

    def __init__(
        self, store: Store, names: Iterator[str], *, recipient: str, began: datetime, progress: Progress
    ) -> None:
        self._store, self._names, self._recipient, self._progress = store, names, recipient, progress
        self.time = began
        self.stored_bytes = 0
        self.raw_bytes = 0

    def send(self, raw_pieces: Iterable[Buffer], *, what: str = "", total_bytes: int = 0) -> tuple[PartRef, ...]:
        """Seal and store the pieces. ``what`` and ``total_bytes`` are for the person who waits."""
        if what:
            self._progress.step(what)
        meter = Meter(self._progress, total_bytes)
        sent = send(self._store, raw_pieces, names=self._names, recipient=self._recipient, done=meter.add)
        self.time = max([self.time, *(one.time for one in sent)])
        self.raw_bytes += meter.done_bytes
        self.stored_bytes += sum(one.ref.size_bytes for one in sent)
        return tuple(one.ref for one in sent)


def _in_order(function: Callable[..., T], calls: Iterable[tuple[object, ...]]) -> Iterator[T]:
    """Results in the order of the calls, at most `THREADS` + 1 of them under way or waiting to be taken."""
    keep_freed_memory()
    with pool(THREADS, "parts") as threads:
        under_way: deque[Future[T]] = deque()
        for arguments in calls:
            under_way.append(threads.submit(function, *arguments))
            if len(under_way) > THREADS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
