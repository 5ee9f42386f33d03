"""One command on a machine: as root where asked, limited by the machine's own clock, and judged when it has ended."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock

from bbr.errors import (
    CommandFailed,
    CommandTimedOut,
    ConnectionLost,
    MachineError,
    MachineUnreachable,
    NoSpace,
    NoSudo,
    OutputTooLarge,
)
from bbr.machines import scripts
from bbr.machines.machine import OUTPUT_LIMIT_BYTES, Output
from bbr.machines.transport import Ended, Running, Transport

ASK_TIME = timedelta(seconds=30)
"""For what answers at once on a machine that is well."""

_END_TIME = timedelta(seconds=5)
"""For asking a command to end."""

_LIMIT_CODES = (124, 137)
"""What `timeout` ends with when it ended the command: by SIGTERM, by SIGKILL. Source: timeout(1)."""

_NOT_FOUND_CODE = 127
_STDERR_LINES = 5
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Begun:
    """A command that was begun, with what is needed to judge its end."""

    running: Running
    name: str
    doing: str
    limit: timedelta
    begun_s: float

    def end(self, expect: Collection[int] = (0,)) -> Ended:
        """Wait for its end. Raises `CommandTimedOut`, `NoSpace` or `CommandFailed` when it is not an expected one."""
        ended = self.running.wait()
        code, words = ended.exit_code, last_words(ended.stderr)
        if code in _LIMIT_CODES and time.monotonic() - self.begun_s >= self.limit.total_seconds():
            raise CommandTimedOut(
                f"{self.name}: {self.doing} took longer than {self.limit} and was ended",
                hint="see what holds it up on the machine, or allow more time",
            )
        if code in expect:
            return ended
        said = f": {words}" if words else ""
        if any(full in words for full in _DISK_FULL):
            raise NoSpace(
                f"{self.name}: {self.doing}: the disk is full{said}", hint="make room on the machine, then try again"
            )
        hint = "install the program on the machine, or name its path" if code == _NOT_FOUND_CODE else ""
        raise CommandFailed(
            f"{self.name}: {self.doing} ended with code {code}{said}", code=code, stderr=words, hint=hint
        )


class Commands:
    """Commands on one machine: with ``sudo`` as root, by ``sudo -n`` unless root logs in. May be used by many threads.

    Which of the two is asked at the first command; that raises `NoSudo` when a password would be needed.
    """

    def __init__(self, transport: Transport, *, sudo: bool) -> None:
        self._transport = transport
        self._prefix: tuple[str, ...] | None = None if sudo else ()
        self._asking = Lock()

    @property
    def name(self) -> str:
        """The machine, for messages."""
        return self._transport.name

    def run(
        self,
        command: Sequence[str],
        *,
        doing: str,
        limit: timedelta = ASK_TIME,
        stdin: bytes = b"",
        expect: Collection[int] = (0,),
    ) -> Output:
        """Run it to its end, with its output in memory."""
        return self._run(self._as_root(), command, doing=doing, limit=limit, stdin=stdin, expect=expect)

    @contextmanager
    def begin(self, command: Sequence[str], *, doing: str, limit: timedelta) -> Iterator[Begun]:
        """Start it, to give it input and take its output bit by bit. It is ended when an error leaves the context."""
        with self._begun(self._as_root(), command, doing, limit, None) as begun:
            yield begun

    def _run(
        self,
        prefix: Sequence[str],
        command: Sequence[str],
        *,
        doing: str,
        limit: timedelta = ASK_TIME,
        stdin: bytes = b"",
        expect: Collection[int] = (0,),
    ) -> Output:
        stdout = bytearray()
        with self._begun(prefix, command, doing, limit, stdin) as begun:
            while chunk := begun.running.read():
                stdout += chunk
                if len(stdout) > OUTPUT_LIMIT_BYTES:
                    raise OutputTooLarge(
                        f"{self.name}: {doing} printed more than {OUTPUT_LIMIT_BYTES} bytes",
                        hint="let it write to a file, and get the file",
                    )
            ended = begun.end(expect)
        return Output(ended.exit_code, bytes(stdout), ended.stderr)

    @contextmanager
    def _begun(
        self, prefix: Sequence[str], command: Sequence[str], doing: str, limit: timedelta, stdin: bytes | None
    ) -> Iterator[Begun]:
        token = scripts.new_token()
        words = [*prefix, *scripts.limited(command, limit, token)]
        begun_s = time.monotonic()
        try:
            with self._transport.start(words, doing=doing, limit=limit, stdin=stdin) as running:
                yield Begun(running, self.name, doing, limit, begun_s)
        except (CommandFailed, CommandTimedOut, NoSpace, MachineUnreachable, ConnectionLost):
            raise  # it has ended, or cannot be asked to
        except BaseException:  # also Ctrl-C, and an iterator that is closed early
            with suppress(MachineError):  # its limit ends it
                self._end(prefix, token)
            raise

    def _end(self, prefix: Sequence[str], token: str) -> None:
        """Ask a command to end that nobody waits for any more."""
        words = [*prefix, *scripts.script(scripts.END)]
        with self._transport.start(words, doing="ending a command", limit=_END_TIME, stdin=token.encode()) as running:
            running.wait()

    def _as_root(self) -> tuple[str, ...]:
        """What stands before a command so that it runs as root."""
        with self._asking:
            if self._prefix is None:
                asked = self._run((), ["id", "-u"], doing="asking who logs in")
                self._prefix = () if asked.stdout.strip() == b"0" else self._sudo()
            return self._prefix

    def _sudo(self) -> tuple[str, ...]:
        prefix = ("sudo", "-n", "--")
        tried = self._run((), [*prefix, "true"], doing="trying sudo", expect=range(256))
        if tried.exit_code == 0:
            return prefix
        what = "there is no sudo" if tried.exit_code == _NOT_FOUND_CODE else "sudo refused to run commands as root"
        raise NoSudo(
            f"{self.name}: {what}: {last_words(tried.stderr)}",
            hint="log in as root, or let this user run every command without a password: "
            "a file in /etc/sudoers.d with `USER ALL=(ALL:ALL) NOPASSWD: ALL`",
        )


def last_words(stderr: bytes) -> str:
    """The last lines that a command printed, for a message."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-_STDERR_LINES:])
