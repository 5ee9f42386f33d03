"""The run's hold on a machine: one restore at a time, and of one restore one operator at a time.

`/var/lib/bbr/restore.holder` says which run holds the machine, and which `apply` of it, by a random token. Each
command of a restore runs under an exclusive lock (flock) and only while the token is still ours. So:
- a command that a killed `apply` left running is waited for by the next one's first command, up to a limit;
- an `apply` whose machine was taken over by a later `apply` of the same plan stops at its next command;
- another plan is refused until this one is finished, undone or cleaned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Protocol

from bbr.errors import CommandFailed, FileMissing, HeldByAnotherRun, PreconditionFailed
from bbr.machines import scripts
from bbr.machines.forward import Forwards
from bbr.machines.machine import RUN_TIME, TRANSFER_TIME, Digest, Machine, Output, Stat

HOME = PurePosixPath("/var/lib/bbr")
RUNS = HOME / "runs"

WAIT_TIME = timedelta(minutes=10)
"""How long a command of a killed `apply` is waited for: more than any of ours takes, but etcdutl on a slow disk."""

_BUSY, _TAKEN, _FOREIGN = 75, 76, 77

_TAKE = f"""\
set -eu
umask 077
mkdir -p -m 0700 -- "$3"
exec 9>>"$1.lock"
flock -w "$5" 9 || exit {_BUSY}
if [ -s "$1" ]; then
  read -r run token < "$1"
  if [ "$run" != "$2" ]; then
    echo "$run"
    exit {_FOREIGN}
  fi
fi
printf '%s %s\\n' "$2" "$4" > "$1.new"
sync -- "$1.new"
mv -T -f -- "$1.new" "$1"
sync -- "${{1%/*}}/"
"""
"""holder, run, the run's folder, token, seconds: take the machine for a run, or for a later apply of the same run."""

_HELD = f"""\
exec 9>>"$1.lock"
flock -w "$4" 9 || exit {_BUSY}
read -r run token < "$1" || exit {_TAKEN}
[ "$run $token" = "$2 $3" ] || exit {_TAKEN}
shift 4
"$@" 9>&-
"""
"""holder, run, token, seconds, command: run it while the machine is ours. What it starts does not hold the lock."""

_LEAVE = """\
set -eu
exec 9>>"$1.lock"
flock -w "$3" 9
[ -s "$1" ] || exit 0
read -r run token < "$1"
[ "$run" = "$2" ] || exit 0
rm -f -- "$1"
sync -- "${1%/*}/"
"""
"""holder, run, seconds: the machine is free for other plans."""

_HOLDER = HOME / "restore.holder"
_HOLDER_BYTES = 4096


class Reachable(Machine, Forwards, Protocol):
    """A machine whose ports can be reached."""


class GuardedMachine:
    """A `Machine` that does only what the run is still allowed to do."""

    def __init__(self, machine: Reachable, run: str, token: str) -> None:
        self._machine, self._run, self._token = machine, run, token

    @property
    def name(self) -> str:
        """See `Machine.name`."""
        return self._machine.name

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: timedelta = RUN_TIME,
        expect: Collection[int] = (0,),
    ) -> Output:
        """See `Machine.run`. Raises `HeldByAnotherRun` when a later `apply` took the machine over."""
        wait = str(int(WAIT_TIME.total_seconds()))
        words = ["sh", "-c", _HELD, "bbr", str(_HOLDER), self._run, self._token, wait, *command]
        codes = {*expect, _BUSY, _TAKEN}
        try:
            output = self._machine.run(words, stdin=stdin, timeout=timeout + WAIT_TIME, expect=codes)
        except CommandFailed as err:
            # A person wants to read what failed, not the lock around it.
            message = str(err).replace(scripts.shown(words), scripts.shown(command))
            raise CommandFailed(message, code=err.code, stderr=err.stderr, hint=err.hint) from err
        if output.exit_code == _TAKEN and _TAKEN not in expect:
            raise HeldByAnotherRun(
                f"{self.name}: a later `bbr restore apply` of this plan, or a clean, took this machine over",
                hint="let that one finish, or run apply again here to take it back",
            )
        if output.exit_code == _BUSY and _BUSY not in expect:
            raise HeldByAnotherRun(
                f"{self.name}: an earlier command of a restore still runs there after {WAIT_TIME}",
                hint="see what it is (its command line begins with sh -c and names /var/lib/bbr), and end it",
            )
        return output

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
        return self._machine.put(path, body, mode=mode, owner=owner, sha256=sha256, timeout=timeout)

    def get(self, path: PurePosixPath, *, limit_bytes: int, timeout: timedelta = TRANSFER_TIME) -> Iterator[bytes]:
        """See `Machine.get`."""
        return self._machine.get(path, limit_bytes=limit_bytes, timeout=timeout)

    def stat(self, path: PurePosixPath) -> Stat | None:
        """See `Machine.stat`."""
        return self._machine.stat(path)

    def forward(self, port: int, host: str = "127.0.0.1") -> AbstractContextManager[tuple[str, int]]:
        """See `Forwards.forward`."""
        return self._machine.forward(port, host)


def take(machine: Reachable, run: str, token: str) -> GuardedMachine:
    """Take a machine for a run, and make the run's folder. Waits for a command that a killed `apply` left there.

    Raises `HeldByAnotherRun` when another run holds it.
    """
    wait = str(int(WAIT_TIME.total_seconds()))
    words = ["sh", "-c", _TAKE, "bbr", str(_HOLDER), run, str(RUNS / run), token, wait]
    try:
        output = machine.run(words, timeout=RUN_TIME + WAIT_TIME, expect=(0, _BUSY, _FOREIGN))
    except CommandFailed as err:
        raise PreconditionFailed(f"{err}", hint=f"bbr needs root, flock and a writable {HOME} there") from err
    if output.exit_code == _BUSY:
        raise HeldByAnotherRun(f"{machine.name}: a command of another restore still runs there after {WAIT_TIME}")
    if output.exit_code == _FOREIGN:
        raise _held(machine, output.stdout.decode(errors="replace"))
    return GuardedMachine(machine, run, token)


def check_free(machine: Machine, run: str) -> None:
    """Raises `HeldByAnotherRun` when another run holds the machine. Changes nothing, and holds nothing."""
    try:
        body = b"".join(machine.get(_HOLDER, limit_bytes=_HOLDER_BYTES))
    except FileMissing:
        return
    holder = body.decode(errors="replace").split()
    if holder and holder[0] != run:
        raise _held(machine, holder[0])


def leave(machine: Machine, run: str) -> None:
    """Free a machine for other plans. What the run left on it stays. Harmless when another run holds it."""
    words = ["sh", "-c", _LEAVE, "bbr", str(_HOLDER), run, str(int(WAIT_TIME.total_seconds()))]
    machine.run(words, timeout=RUN_TIME + WAIT_TIME)


def _held(machine: Machine, other: str) -> HeldByAnotherRun:
    return HeldByAnotherRun(
        f"{machine.name} is held by the restore {''.join(filter(str.isprintable, other.strip()))[:100]}",
        hint="finish it, `bbr restore undo` it, or give the machine free: `bbr restore clean` with its plan",
    )
