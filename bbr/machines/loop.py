"""An event loop in a thread of its own, for a library that knows nothing else. Every call from outside has a limit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class Late(Exception):  # not for a person: who calls knows what was late
    """A call was not over by its limit; it was cancelled."""


class LoopThread:
    """An event loop whose thread begins with the first call. Close it; a daemon, it holds up no exit."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start some work in the loop, and return at once."""
        with self._starting:
            if self._closed:
                work.close()
                raise RuntimeError(f"{self._name} is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Do some work in the loop and wait for it. Raises what it raises, or `Late`."""
        future = self.begin(work)
        try:
            concurrent.futures.wait([future], limit_s)
            if not future.done():
                raise Late
            return future.result()
        finally:
            future.cancel()  # also when we are interrupted; nothing where it is done

    def close(self, limit: timedelta) -> None:
        """Cancel what still runs, and end the thread."""
        with self._starting:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        last = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        concurrent.futures.wait([last], limit.total_seconds())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(limit.total_seconds())
        if not thread.is_alive():
            loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()  # it looks up names, in threads of its own
