"""The seam to a machine: four methods, the same over SSH and on this machine.

A machine is Linux with a POSIX shell and coreutils (`timeout`, `sha256sum`, `stat`, `sync`, `truncate`, `mv -T`).

Whatever a call does, it ends. At its time limit the command is ended on the machine itself, by the machine's own clock
(SIGTERM to its process group, SIGKILL five seconds later), and the call raises `CommandTimedOut`, which names the
machine, the command and the limit. The limit also holds when nobody waits any more:
- a caller that is interrupted, or stops taking its output, asks the command to end before the call is left;
- a caller that is killed, or loses the connection, leaves it running until it is done or its limit is over.
So who comes back looks whether it still runs, or waits as long as its limit. No command is ever run again by itself.

Arguments of a command can be seen by every user of the machine, and stand in error messages: a secret is only ever
given by ``stdin``, or put as a file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Literal, NewType, Protocol

Digest = NewType("Digest", str)
"""SHA-256 in 64 lower-case hexadecimal digits."""

RUN_TIME = timedelta(minutes=2)
"""How long a command may take, where the caller does not say."""

TRANSFER_TIME = timedelta(hours=1)
"""How long a file may take on its way, where the caller does not say."""

OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024
"""What a command may print to stdout."""

STDERR_LIMIT_BYTES = 64 * 1024
"""What is kept of stderr: its end."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left: its code (128 + n when signal n ended it), all of stdout, the end of stderr."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Stat:
    """What lies at a path; a symbolic link is told as itself. ``modified`` is by the machine's clock (UTC)."""

    kind: Literal["file", "folder", "link", "other"]
    mode: int
    owner: str
    """``user:group``, by number where the machine has no name for it."""
    size_bytes: int
    modified: datetime


class Machine(Protocol):
    """One machine. Every method may be called from many threads.

    Paths are absolute. All methods raise `MachineUnreachable` (nothing was begun), `ConnectionLost` (something was
    begun and may still go on), `HostKeyWrong`, `LoginRefused`, `NoSudo`, `CommandTimedOut`, `CommandFailed`, and
    `UsageError` for a word or path that no machine can take. All errors begin with the machine's name.
    """

    @property
    def name(self) -> str:
        """For messages: ``master-1 (10.0.0.11)``."""
        ...

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta = RUN_TIME,
        expect: Collection[int] = (0,),
    ) -> Output:
        """Run one command, without a shell: each word arrives as it is. Returns when it has ended.

        What it left in its process group is ended with it; a program that shall stay is started by the machine's
        service manager, or by setsid with other outputs. It sees ``LC_ALL=C`` and a PATH with the sbin folders.

        Raises `CommandFailed`, with the last lines of stderr, when its code is not one of ``expect``, and
        `OutputTooLarge` past `OUTPUT_LIMIT_BYTES` of stdout.
        """
        ...

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
        """Write one file; what was at ``path`` is replaced in one step. Durable on return. Returns its SHA-256.

        Written beside it under a name with a leading dot (0600), read back and compared, given its owner (``user`` or
        ``user:group``) and mode, synced, renamed, and the folder synced: a crash leaves the old file or the new one.
        A link at ``path`` is replaced, not followed; a folder there is an error. The folder must exist.

        With ``sha256`` the body is known beforehand, and a put that was cut goes on where it broke off: blocks that
        are there and equal are not sent again. Until then the partial file stays. Without it, or when the disk was
        full, the partial file is removed, unless the machine cannot be reached.

        Raises `NoSpace` when the machine's disk is full, `TransferDamaged` when the file is not what was sent, or
        what was sent is not ``sha256``. What ``body`` raises goes through; then nothing has appeared at ``path``.
        """
        ...

    def get(self, path: PurePosixPath, *, limit_bytes: int, timeout: timedelta = TRANSFER_TIME) -> Iterator[bytes]:
        """Read one file, in chunks of at most 1 MiB, as fast as the caller takes them. Links are followed.

        Whole, or it raises: `FileMissing`, or `OutputTooLarge` past ``limit_bytes``, read no further. An iterator
        that is not read to its end must be closed.
        """
        ...

    def stat(self, path: PurePosixPath) -> Stat | None:
        """What lies at ``path``, or None when nothing does."""
        ...
