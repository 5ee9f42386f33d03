"""Threads for as long as a context lasts: waited for when it ends well or badly, left behind when it is interrupted.

Ctrl-C is an answer that a person waits for; a thread that hangs in a network call would make them wait for its time
limit. What such a thread still does is harmless: it reads, or puts an object that nothing will name. The program then
ends without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool of at most ``threads``. What has not begun when the context ends is cancelled."""
    executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
    interrupted = False
    try:
        yield executor
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        executor.shutdown(wait=not interrupted, cancel_futures=True)
