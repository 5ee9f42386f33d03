"""The one `Machine`: files are put, got and looked at by shell scripts, over whatever `Transport` starts commands."""

from __future__ import annotations

import hashlib
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from types import TracebackType
from typing import Literal, Self

from bbr.errors import (
    CommandFailed,
    ConnectionLost,
    FileMissing,
    MachineError,
    MachineUnreachable,
    NoSpace,
    OutputTooLarge,
    TransferDamaged,
    UsageError,
)
from bbr.machines import scripts
from bbr.machines.command import Commands
from bbr.machines.forward import LOOPBACK, Forwards
from bbr.machines.machine import RUN_TIME, TRANSFER_TIME, Digest, Output, Stat
from bbr.machines.transport import Transport

_MISSING = ("No such file or directory", "Not a directory")
_KINDS: dict[int, Literal["file", "folder", "link"]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
}


class ShellMachine:
    """A `Machine` over a transport; with ``sudo`` everything is done as root. A context manager that lets go of it."""

    def __init__(self, transport: Transport, *, sudo: bool = False) -> None:
        self._transport = transport
        self._commands = Commands(transport, sudo=sudo)

    @property
    def name(self) -> str:
        """See `Machine.name`."""
        return self._transport.name

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta = RUN_TIME,
        expect: Collection[int] = (0,),
    ) -> Output:
        """See `Machine.run`."""
        if not command:
            raise UsageError(f"{self.name}: there is no command to run")
        for word in command:
            self._check(word)
        doing = f"`{scripts.shown(command)}`"
        return self._commands.run(command, doing=doing, limit=timeout, stdin=stdin, expect=expect)

    def put(
        self,
        path: PurePosixPath,
        body: Iterable[bytes],
        *,
        mode: int,
        owner: str | None = None,
        sha256: Digest | None = None,
        timeout: timedelta = TRANSFER_TIME,
    ) -> Digest:
        """See `Machine.put`."""
        self._check_path(path)
        self._check(owner or "")
        partial, doing = _partial(path, sha256), f"writing {path}"
        try:
            present = self._present(partial, doing, timeout) if sha256 else []
            digest = self._send(partial, body, present, doing=doing, timeout=timeout)
            if sha256 not in (None, digest):
                raise TransferDamaged(
                    f"{self.name}: {doing}: the content has SHA-256 {digest}, not {sha256} as was said before",
                    hint="nothing was changed on the machine; look at where this content comes from",
                )
            self._finish([partial, path, digest, f"{mode:04o}", owner or ""], doing, timeout)
        except Exception as err:
            if _leaves_waste(err, resumable=sha256 is not None):
                with suppress(MachineError):  # the first error is the one to tell
                    self._commands.run(scripts.script(scripts.REMOVE, partial), doing=doing)
            raise
        return digest

    def get(self, path: PurePosixPath, *, limit_bytes: int, timeout: timedelta = TRANSFER_TIME) -> Iterator[bytes]:
        """See `Machine.get`."""
        self._check_path(path)
        return self._read(path, limit_bytes, timeout)

    def stat(self, path: PurePosixPath) -> Stat | None:
        """See `Machine.stat`."""
        self._check_path(path)
        try:
            answer = self._commands.run(scripts.script(scripts.STAT, path), doing=f"looking at {path}")
        except CommandFailed as err:
            if err.stderr.endswith(_MISSING):
                return None
            raise
        return _parsed(answer.stdout.decode())

    def forward(self, port: int, host: str = LOOPBACK) -> AbstractContextManager[tuple[str, int]]:
        """See `Forwards.forward`."""
        self._check(host)
        if not isinstance(self._transport, Forwards):
            raise MachineError(f"{self.name}: its ports cannot be reached")
        return self._transport.forward(port, host)

    def close(self) -> None:
        """Let go of the machine."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _present(self, partial: PurePosixPath, doing: str, timeout: timedelta) -> list[str]:
        """The digests of the whole blocks that an earlier upload has left."""
        words = scripts.script(scripts.BLOCKS, partial, scripts.BLOCK_BYTES)
        answer = self._commands.run(words, doing=doing, limit=timeout)
        return [line.split()[0] for line in answer.stdout.decode().splitlines()]

    def _send(
        self, partial: PurePosixPath, body: Iterable[bytes], present: list[str], *, doing: str, timeout: timedelta
    ) -> Digest:
        """The body into the partial file, from the first block that is not there. Returns the whole body's digest."""
        digest, offset, blocks = hashlib.sha256(), 0, _in_blocks(body)
        unsent = next(blocks, b"")
        for expected in present:
            if hashlib.sha256(unsent).hexdigest() != expected:
                break
            digest.update(unsent)
            offset, unsent = offset + len(unsent), next(blocks, b"")
        receive = scripts.script(scripts.RECEIVE, partial, offset)
        with self._commands.begin(receive, doing=doing, limit=timeout) as begun:
            while unsent:
                digest.update(unsent)
                unsent = next(blocks, b"") if begun.running.write(unsent) else b""
            begun.running.end_input()
            begun.end()
        return Digest(digest.hexdigest())

    def _finish(self, arguments: Sequence[object], doing: str, timeout: timedelta) -> None:
        words = scripts.script(scripts.FINISH, *arguments)
        answer = self._commands.run(words, doing=doing, limit=timeout, expect=(0, scripts.DAMAGED_CODE))
        if answer.exit_code:
            raise TransferDamaged(
                f"{self.name}: {doing}: what arrived has another SHA-256 than what was sent",
                hint="try again; if it happens again, suspect the machine's memory or disk",
            )

    def _read(self, path: PurePosixPath, limit_bytes: int, timeout: timedelta) -> Iterator[bytes]:
        size_bytes, doing = 0, f"reading {path}"
        with self._commands.begin(scripts.script(scripts.READ, path), doing=doing, limit=timeout) as begun:
            begun.running.end_input()
            while chunk := begun.running.read():
                size_bytes += len(chunk)
                if size_bytes > limit_bytes:
                    raise OutputTooLarge(f"{self.name}: {doing}: it is larger than {limit_bytes} bytes")
                yield chunk
            try:
                begun.end()
            except CommandFailed as err:
                if err.stderr.endswith(_MISSING):
                    raise FileMissing(f"{self.name}: there is no file {path}") from err
                raise

    def _check_path(self, path: PurePosixPath) -> None:
        self._check(str(path))
        if not path.is_absolute() or not path.name:
            raise UsageError(f"{self.name}: {str(path)!r} is not the absolute path of a file")

    def _check(self, word: str) -> None:
        if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
            raise UsageError(f"{self.name}: {word[:80]!r} holds a character that cannot be sent to a machine")


def _partial(path: PurePosixPath, sha256: Digest | None) -> PurePosixPath:
    """Where a file lies until it is whole. Two files of one content may be put into one folder at a time."""
    target = hashlib.sha256(path.name.encode()).hexdigest()[:8]
    return path.with_name(f".bbr-{sha256 or secrets.token_hex(32)}-{target}")


def _leaves_waste(err: Exception, *, resumable: bool) -> bool:
    """Whether the partial file is of no use to a next try, and the machine can be told so."""
    if isinstance(err, MachineUnreachable | ConnectionLost):
        return False
    return not resumable or isinstance(err, NoSpace | TransferDamaged | CommandFailed)


def _in_blocks(body: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of `scripts.BLOCK_BYTES`; the last is shorter, none is empty."""
    held = bytearray()
    for chunk in body:
        held += chunk
        while len(held) >= scripts.BLOCK_BYTES:
            yield bytes(memoryview(held)[: scripts.BLOCK_BYTES])
            del held[: scripts.BLOCK_BYTES]
    if held:
        yield bytes(held)


def _parsed(answer: str) -> Stat:
    """What `scripts.STAT` printed."""
    mode, size, modified, names, numbers = answer.split()
    parts = [
        number if name == "UNKNOWN" else name for name, number in zip(names.split(":"), numbers.split(":"), strict=True)
    ]
    number = int(mode, 16)
    return Stat(
        kind=_KINDS.get(stat.S_IFMT(number), "other"),
        mode=stat.S_IMODE(number),
        owner=":".join(parts),
        size_bytes=int(size),
        modified=datetime.fromtimestamp(int(modified), UTC),
    )
