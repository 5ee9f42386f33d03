"""One server process: started with its output in a file, waited for, stopped, and never left behind.

The server runs in a session of its own, so that Ctrl-C reaches us alone and we stop it in our order. It asks the
kernel to be killed when we are: nothing is left running, whatever ends us. To the kernel, "we" is the thread that
started the server: a thread that ends takes its servers with it, so start them where they are used.

It sees nothing of our environment: etcd and MinIO both take settings from there, and would obey an operator's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from bbr.errors import PreconditionFailed, ToolMissing

READY_TIME = timedelta(seconds=30)
STOP_TIME = timedelta(seconds=10)
_POLL_S = 0.02
_TAIL_LINES = 15


class Process:
    """A running server. A context manager that stops it. ``log`` holds what it prints (0600)."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        """Start it, with ``environ`` for its whole environment. Raises `ToolMissing` when there is no such program."""
        self.name, self.log = name, log
        if shutil.which(command[0]) is None:
            raise ToolMissing(f"{name}: there is no program {command[0]}")
        setpriv = shutil.which("setpriv")
        bound = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                [*bound, *command],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=environ or {},
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_ready(self, is_ready: Callable[[], bool], *, what: str, limit: timedelta = READY_TIME) -> None:
        """Poll until ``is_ready``.

        Raises `PreconditionFailed` with the end of the log when it ends, or takes too long.
        """
        deadline = time.monotonic() + limit.total_seconds()
        while not is_ready():
            if not self.is_running:
                raise PreconditionFailed(
                    f"{self.name} ended with {self._process.returncode}; its last words:\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise PreconditionFailed(f"{self.name}: waited {limit} for {what}; its last words:\n{self.tail()}")
            time.sleep(_POLL_S)

    def stop(self, *, limit: timedelta = STOP_TIME) -> None:
        """Ask it to end, wait, and kill it if it does not within ``limit``. Harmless when it has ended."""
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(limit.total_seconds())
            except subprocess.TimeoutExpired:
                self.kill()
        self._process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.is_running:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
