"""A snapshot stream's messages: the blob cut out by hand, and a guard against a stream that stands still.

``SnapshotResponse``: header 1, remaining_bytes 2, blob 3, version 4 (since etcd 3.6). A gigabyte is 32,000 of them; to
parse them as protobuf would copy every byte once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Self

from bbr.errors import EtcdError

_LENGTH_DELIMITED = 2
_REMAINING_BYTES = 2 << 3
_BLOB = 3 << 3 | _LENGTH_DELIMITED


def cut(message: bytes) -> tuple[int, memoryview]:
    """(remaining_bytes, blob) of a raw SnapshotResponse. Raises `EtcdError` when it is none."""
    remaining_bytes, blob = 0, memoryview(b"")
    at, end = 0, len(message)
    try:
        while at < end:
            tag = message[at]
            at += 1
            number = shift = 0
            while True:
                byte = message[at]
                at += 1
                number |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 63:
                    raise EtcdError("the server sent a snapshot message that is none")
            if tag == _REMAINING_BYTES:
                remaining_bytes = number
                continue
            if tag & 7 != _LENGTH_DELIMITED or at + number > end:
                raise EtcdError("the server sent a snapshot message that is none")
            if tag == _BLOB:
                blob = memoryview(message)[at : at + number]
            at += number
    except IndexError as err:
        raise EtcdError("the server sent a snapshot message that is cut") from err
    return remaining_bytes, blob


class StallGuard:
    """Cancels a stream that keeps its reader waiting. A slow reader is not the stream's fault and is left alone."""

    def __init__(self, cancel: Callable[[], object], limit: timedelta) -> None:
        self.stalled = False
        self._cancel, self._limit = cancel, limit
        self._waiting = False
        self._messages = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="snapshot-stall", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking, and end the stream if its reader has left it."""
        self._over.set()
        self._cancel()
        self._thread.join()

    def watch(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """The same messages; notes when one is waited for."""
        self._waiting = True
        for message in messages:
            self._waiting = False
            self._messages += 1
            yield message
            self._waiting = True

    def _look(self) -> None:
        seen = -1
        while not self._over.wait(self._limit.total_seconds()):
            if self._waiting and self._messages == seen:
                self.stalled = True
                self._cancel()
                return
            seen = self._messages
