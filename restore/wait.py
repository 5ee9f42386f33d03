"""Waiting: with a limit, and saying for what."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from bbr.errors import BbrError, StepTimedOut
from bbr.progress import Progress

POLL_S = 0.25


def wait_for(why_not: Callable[[], str], *, what: str, limit: timedelta, hint: str, progress: Progress) -> None:
    """Return once ``why_not`` returns ""; it says what is missing, or raises, which counts as missing.

    Raises `StepTimedOut` with the last answer at the limit.
    """
    deadline = time.monotonic() + limit.total_seconds()
    progress.step(f"waiting for {what}")
    while True:
        cause: BbrError | None = None
        try:
            missing = why_not()
        except BbrError as err:
            missing, cause = str(err), err
        if not missing:
            return
        if time.monotonic() > deadline:
            raise StepTimedOut(f"{what}: not within {limit.total_seconds():.0f} s: {missing}", hint=hint) from cause
        time.sleep(POLL_S)
