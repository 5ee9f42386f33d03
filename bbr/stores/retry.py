"""A store that is asked again where its error says that this may help.

A put whose answer was lost may have been done. Names never repeat, so when the next try says `AlreadyExists`, what is
there is compared with what was to be written: equal is success, with the time of the listing.

A store that has answered once is waited for with patience. One that never did may not be there at all, so the first
contact ends sooner, and a person learns of a wrong address while still looking at it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TypeVar

import stamina
import stamina.instrumentation

from bbr.errors import AlreadyExists, BbrError, BodyTooLarge, StoreUnavailable
from bbr.stores.store import Buffer, Entry, Store, Stored

TRIES = 5
TIME_LIMIT = timedelta(minutes=2)
FIRST_CONTACT_LIMIT = timedelta(seconds=40)
"""As long as a store has answered nothing, no further try begins that would end later than this, should it take as
long as the one before."""

FIRST_PAUSE = timedelta(milliseconds=200)
LONGEST_PAUSE = timedelta(seconds=10)

T = TypeVar("T")

# stamina would log each retry to stdout, in the middle of somebody's JSON. What fails for good is said by its error.
stamina.instrumentation.set_on_retry_hooks(())


class Retrying:
    """A `Store` around another. ``inner`` is open to those who need its rare abilities."""

    def __init__(
        self,
        inner: Store,
        *,
        tries: int = TRIES,
        first_pause: timedelta = FIRST_PAUSE,
        limit: timedelta = TIME_LIMIT,
        first_contact_limit: timedelta = FIRST_CONTACT_LIMIT,
    ) -> None:
        self.inner = inner
        self._first_contact_limit_s = first_contact_limit.total_seconds()
        self._has_answered = False
        self._caller = stamina.RetryingCaller(
            attempts=tries,
            timeout=limit,
            wait_initial=first_pause,
            wait_max=LONGEST_PAUSE,
            wait_jitter=first_pause,
        )

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        attempts = 0

        def once() -> Stored:
            nonlocal attempts
            attempts += 1
            try:
                return self.inner.put(name, body, retain_until=retain_until)
            except AlreadyExists:
                if attempts == 1 or not self._holds(name, body):
                    raise
                found = [entry for entry in self.inner.list(name) if entry.name == name]
                if not found:  # read a moment ago, and not listed: not a store to guess about
                    raise
                return Stored(name, found[0].size_bytes, found[0].time)

        return self._again(once)

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        """See `Store.get`."""
        return self._again(lambda: self.inner.get(name, limit_bytes=limit_bytes))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`. A listing that breaks off is begun again: complete, or it raises."""
        return iter(self._again(lambda: list_all(self.inner, prefix)))

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        self._again(lambda: self.inner.delete(name))

    def _holds(self, name: str, body: Buffer) -> bool:
        try:
            return self.inner.get(name, limit_bytes=len(body)) == bytes(body)
        except BodyTooLarge:
            return False

    def _again(self, call: Callable[[], T]) -> T:
        began = begun = time.monotonic()
        tries = 0

        def once() -> T:
            nonlocal begun, tries
            begun, tries = time.monotonic(), tries + 1
            answer = call()
            self._has_answered = True
            return answer

        def may_help(err: Exception) -> bool:
            if not isinstance(err, BbrError) or not err.retry_may_help:
                self._has_answered = True
                return False
            now = time.monotonic()
            return self._has_answered or now - began + (now - begun) <= self._first_contact_limit_s

        try:
            return self._caller(may_help, once)
        except StoreUnavailable as err:
            often = "once" if tries == 1 else f"{tries} times"
            spent_s = time.monotonic() - began
            raise StoreUnavailable(f"{err} (tried {often}, for {spent_s:.0f} s)", hint=err.hint) from err


def list_all(store: Store, prefix: str) -> list[Entry]:
    """A whole listing in memory."""
    return [*store.list(prefix)]
