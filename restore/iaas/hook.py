"""A hook: a program of the operator's that does what bbr does not know how to. JSON on its standard input, no shell.

It ends with 0 when what was asked is done and sure, with 75 (EX_TEMPFAIL, sysexits.h) when trying again may help, and
with anything else when it failed. It inherits the environment: that is where its own credentials may be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from bbr.errors import IaasError, IaasUnavailable

HOOK_TIME = timedelta(minutes=5)
TRY_AGAIN_CODE = 75
_LAST_BYTES = 2000
_LAST_LINES = 5


def run_hook(
    program: Sequence[str], request: Mapping[str, object], *, doing: str, limit: timedelta = HOOK_TIME
) -> None:
    """Run one, and return when it has ended well. Raises `IaasError`, or `IaasUnavailable` when a retry may help.

    At its limit it is ended, with what it started.
    """
    try:
        process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as err:
        raise IaasError(f"{doing}: {program[0]} was not run: {err.strerror}", hint="check its path and mode") from err
    try:
        said, _ = process.communicate(json.dumps(request).encode(), timeout=limit.total_seconds())
    except subprocess.TimeoutExpired as err:
        raise IaasUnavailable(
            f"{doing}: {program[0]} took longer than {limit} and was ended", hint="see what it waits for"
        ) from err
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        kind = IaasUnavailable if process.returncode == TRY_AGAIN_CODE else IaasError
        raise kind(f"{doing}: {program[0]} ended with code {process.returncode}{_last_words(said)}")


def _last_words(said: bytes) -> str:
    lines = said[-_LAST_BYTES:].decode(errors="replace").strip().splitlines()
    return ": " + "\n".join(lines[-_LAST_LINES:]) if lines else ""
