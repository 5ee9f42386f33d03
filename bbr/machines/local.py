"""This machine, by subprocesses."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from bbr.errors import CommandTimedOut, MachineError
from bbr.machines.forward import LOOPBACK
from bbr.machines.machine import STDERR_LIMIT_BYTES
from bbr.machines.shell import ShellMachine
from bbr.machines.transport import CHUNK_BYTES, GRACE, KILL_AFTER, Deadline, Ended

_LAST_TIME = timedelta(seconds=2)
"""Between a command's SIGKILL and its end."""


def local_machine(*, sudo: bool = False) -> ShellMachine:
    """The machine that bbr runs on. With ``sudo``, all is done as root, by ``sudo -n`` unless we are root."""
    return ShellMachine(LocalTransport(), sudo=sudo)


class LocalTransport:
    """A `Transport` to this machine."""

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return f"this machine ({socket.gethostname()})"

    @contextmanager
    def start(
        self, command: Sequence[str], *, doing: str, limit: timedelta, stdin: bytes | None
    ) -> Iterator[_LocalRunning]:
        """See `Transport.start`. A command that has not ended when the context is left is asked to."""
        given = subprocess.PIPE if stdin is None else _in_memory(stdin)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
                start_new_session=True,  # Ctrl-C reaches us alone
            )
        except OSError as err:
            raise MachineError(f"{self.name}: {doing} could not be started: {err.strerror}") from err
        finally:
            if stdin is not None:
                os.close(given)
        running = _LocalRunning(process, f"{self.name}: {doing}", limit)
        try:
            yield running
        finally:
            running.forget()

    @contextmanager
    def forward(self, port: int, host: str = LOOPBACK) -> Iterator[tuple[str, int]]:
        """See `Forwards.forward`: it is reached as it is."""
        yield host, port

    def close(self) -> None:
        """Nothing is held."""


def _in_memory(body: bytes) -> int:
    """A descriptor to read the body from: it needs nobody who writes, and lies on no disk."""
    descriptor = os.memfd_create("stdin")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(body)
        file.seek(0)
    return descriptor


class _LocalRunning:
    """A `Running` on this machine. Pipes are polled, so that no call outlasts the deadline."""

    def __init__(self, process: subprocess.Popen[bytes], what: str, limit: timedelta) -> None:
        self._process, self._what, self._limit = process, what, limit
        self._pipes = [pipe for pipe in (process.stdout, process.stderr, process.stdin) if pipe is not None]
        self._stdout, self._stderr, *given = [pipe.fileno() for pipe in self._pipes]
        self._deadline = Deadline(limit + GRACE)
        self._tail = b""
        self._tail_ended = False
        self._stdin = given[0] if given else -1
        if given:
            os.set_blocking(self._stdin, False)

    def write(self, chunk: bytes) -> bool:
        """See `Running.write`."""
        left = memoryview(chunk)
        while left:
            self._await(self._stdin, select.POLLOUT)
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True

    def end_input(self) -> None:
        """See `Running.end_input`."""
        self._pipes.pop().close()

    def read(self) -> bytes:
        """See `Running.read`."""
        self._await(self._stdout, select.POLLIN)
        return os.read(self._stdout, CHUNK_BYTES)

    def wait(self) -> Ended:
        """See `Running.wait`."""
        while self.read():
            pass
        while not self._tail_ended:
            self._await(self._stderr, select.POLLIN)
        try:
            code = self._process.wait(self._deadline.left_s())
        except subprocess.TimeoutExpired as err:
            raise self._too_late() from err
        return Ended(code if code >= 0 else 128 - code, self._tail)

    def forget(self) -> None:
        """Close our ends, and ask a command that has not ended to do so. It is waited for while it can be asked."""
        for pipe in self._pipes:
            pipe.close()
        if self._process.poll() is None:
            with suppress(PermissionError, subprocess.TimeoutExpired):  # root's, by sudo: it ends at its limit
                self._process.terminate()
                self._process.wait((KILL_AFTER + _LAST_TIME).total_seconds())

    def _await(self, descriptor: int, event: int) -> None:
        """Return when the descriptor is ready. Meanwhile stderr is taken, so that nobody waits for us to do it."""
        while True:
            poll = select.poll()
            if not self._tail_ended:
                poll.register(self._stderr, select.POLLIN)
            poll.register(descriptor, event)
            ready = dict(poll.poll(self._deadline.left_s() * 1000))
            if not ready:
                raise self._too_late()
            if not self._tail_ended and self._stderr in ready:
                said = os.read(self._stderr, CHUNK_BYTES)
                self._tail, self._tail_ended = (self._tail + said)[-STDERR_LIMIT_BYTES:], not said
            if descriptor in ready:
                return

    def _too_late(self) -> CommandTimedOut:
        return CommandTimedOut(
            f"{self._what} was over its limit of {self._limit} and could not be ended",
            hint="it, or a process that it started, still holds its outputs: see what it is and end it",
        )
