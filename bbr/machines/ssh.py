"""A machine over SSH, by asyncssh, whose event loop runs in a thread of its own here. (`sshkeys` reads its keys.)

Who is on the other side is decided before anything is said: the host key is given, or stands in a known_hosts file;
there is no trust on first use. Nothing else is read: no ~/.ssh/config, no default keys, no agent, no password.

One connection carries up to 8 commands at once (sshd's MaxSessions is 10 unless set); others wait their turn. A
connection that dropped between two calls is made anew, once. One that drops while a command runs is an error: the
command may have been done, and is never run again by itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import shlex
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import asyncssh

from bbr.errors import (
    CommandTimedOut,
    ConnectionLost,
    HostKeyWrong,
    LoginRefused,
    MachineError,
    MachineUnreachable,
    UsageError,
)
from bbr.machines import door
from bbr.machines.forward import LOOPBACK, Far, listening
from bbr.machines.host import SshHost
from bbr.machines.loop import Late, LoopThread
from bbr.machines.machine import STDERR_LIMIT_BYTES
from bbr.machines.shell import ShellMachine
from bbr.machines.sshkeys import host_keys, identity
from bbr.machines.transport import CHUNK_BYTES, GRACE, Deadline, Ended

SESSIONS = 8
CONNECT_TIME = timedelta(seconds=10)
"""For TCP, and as much again for the handshake and the login."""

KEEPALIVE_TIME = timedelta(seconds=5)
KEEPALIVES_MISSED = 3
"""A machine that is silent for `KEEPALIVE_TIME` x (this + 1) is lost."""

SESSION_TIME = timedelta(seconds=30)
"""How long we wait for sshd to let one more session in."""

_SESSION_PAUSE_S = 0.02
CLOSE_TIME = timedelta(seconds=3)

_HOST_KEY_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512", "rsa-sha2-256")
_FAST_FIRST = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""Measured: an upload at 114 MB/s, where asyncssh's own first choice (chacha20) makes 65."""

_CONNECT_FAILED = 2  # SSH_OPEN_CONNECT_FAILED, RFC 4254 section 5.1
_PROHIBITED = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
_LOOK_AT_NETWORK = "check that the machine is up, its address and port, and what filters packets on the way"

T = TypeVar("T")
_Process = asyncssh.SSHClientProcess[bytes]


def ssh_machine(host: SshHost, *, sudo: bool = False) -> ShellMachine:
    """A machine over SSH; with ``sudo``, all is done as root, by ``sudo -n`` unless root logs in.

    Files are read at once: raises `UsageError`, `KeyRefused` for an identity file, `HostKeyWrong` when no host key is
    known. The machine is connected to at its first call.
    """
    return ShellMachine(SshTransport(host), sudo=sudo)


class SshTransport:
    """A `Transport` over one SSH connection, made when it is first needed."""

    def __init__(self, host: SshHost) -> None:
        self._host = host
        self._logins = [_Login(one) for one in host.route()]
        self._loop = LoopThread(f"ssh {host.name}")
        self._sessions = threading.BoundedSemaphore(SESSIONS)
        self._connecting = threading.Lock()
        self._connections: list[asyncssh.SSHClientConnection] = []

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return self._host.label

    @contextmanager
    def start(
        self, command: Sequence[str], *, doing: str, limit: timedelta, stdin: bytes | None
    ) -> Iterator[_SshRunning]:
        """See `Transport.start`."""
        if not self._sessions.acquire(timeout=limit.total_seconds()):
            raise CommandTimedOut(
                f"{self.name}: {doing} did not begin within {limit}: {SESSIONS} other commands run there",
                hint="wait for them, or end them",
            )
        try:
            running = self._begin(shlex.join(command), f"{self.name}: {doing}", limit)
            try:
                if stdin is not None:
                    running.give(stdin)
                yield running
            finally:
                running.forget()
        finally:
            self._sessions.release()

    @contextmanager
    def forward(self, port: int, host: str = LOOPBACK) -> Iterator[tuple[str, int]]:
        """See `Forwards.forward`. Tried once at the beginning, so that an sshd that forbids it says so."""
        self._connected()
        try:
            self._loop.call(self._try_far(host, port), (2 * CONNECT_TIME).total_seconds())
        except asyncssh.ChannelOpenError as err:
            if err.code == _PROHIBITED:
                raise MachineError(
                    f"{self.name}: its sshd forwards no connection to {host}:{port}: {err.reason}",
                    hint="see AllowTcpForwarding, PermitOpen and DisableForwarding in its sshd_config",
                ) from err
            if err.code != _CONNECT_FAILED:
                raise MachineUnreachable(f"{self.name}: {_reason(err)}", hint=_LOOK_AT_NETWORK) from err
        except (asyncssh.Error, OSError, Late) as err:
            raise MachineUnreachable(f"{self.name}: no way to its {host}:{port}: {err}", hint=_LOOK_AT_NETWORK) from err
        with listening(self._loop, lambda: self._far(host, port)) as address:
            yield address

    def close(self) -> None:
        """See `Transport.close`."""
        with self._connecting:
            self._abort()
            self._loop.close(CLOSE_TIME)

    async def _far(self, host: str, port: int) -> Far:
        """A connection from the machine to host:port, on a new SSH connection where this one has dropped.

        Raises `MachineError`, asyncssh's own errors, and OSError.
        """
        connected = asyncio.get_running_loop().run_in_executor
        connection = await connected(None, self._connected)
        try:
            return await connection.open_connection(host, port, encoding=None)
        except asyncssh.Error:
            if not connection.is_closed():
                raise
        return await (await connected(None, self._connected)).open_connection(host, port, encoding=None)

    async def _try_far(self, host: str, port: int) -> None:
        _, writer = await self._far(host, port)
        writer.close()

    def _begin(self, command: str, what: str, limit: timedelta) -> _SshRunning:
        """Start it on a connection that lives: on a new one when, before anything was sent, this one turns out not to.

        sshd may have as many sessions as it allows: ours that it has not cleared away yet, where it allows fewer.
        """
        patience, has_dropped = Deadline(min(limit, SESSION_TIME)), False
        while True:
            connection = self._connected()
            try:
                return self._open(connection, command, what, limit)
            except asyncssh.ChannelOpenError as err:
                if err.code != _CONNECT_FAILED:  # the channel was open, and the request got no "yes"
                    raise _lost(what, err) from err
                if connection.is_closed() and has_dropped:
                    raise MachineUnreachable(
                        f"{what}: the connection dropped before it began, twice", hint=_LOOK_AT_NETWORK
                    ) from err
                if not connection.is_closed() and not patience.left_s():
                    raise MachineError(
                        f"{what}: sshd starts no more sessions: {err.reason}", hint="see MaxSessions in its sshd_config"
                    ) from err
                has_dropped = has_dropped or connection.is_closed()
            time.sleep(_SESSION_PAUSE_S)

    def _open(self, connection: asyncssh.SSHClientConnection, command: str, what: str, limit: timedelta) -> _SshRunning:
        try:
            process = self._loop.call(_started(connection, command), CONNECT_TIME.total_seconds())
        except asyncssh.ChannelOpenError:
            raise
        except (asyncssh.Error, OSError, Late) as err:
            raise _lost(what, err) from err
        return _SshRunning(self._loop, connection, process, what, limit)

    def _connected(self) -> asyncssh.SSHClientConnection:
        """A connection that nobody knows to be closed."""
        with self._connecting:
            if not self._connections or any(one.is_closed() for one in self._connections):
                self._abort()
                for login in self._logins:
                    self._connections.append(self._log_in(login))
                self._check_silent(self._connections[-1])
            return self._connections[-1]

    def _log_in(self, login: _Login) -> asyncssh.SSHClientConnection:
        """Log in to one host of the route, through the one before."""
        tunnel = self._connections[-1] if self._connections else None
        try:
            return self._loop.call(login.connect(tunnel), (2 * CONNECT_TIME).total_seconds())
        except (asyncssh.Error, OSError, Late) as err:
            self._abort()
            raise login.error(err) from err

    def _check_silent(self, connection: asyncssh.SSHClientConnection) -> None:
        """A shell that prints at login would put its words into every output, and at the head of every file."""
        try:
            answer = self._loop.call(_run_nothing(connection), CONNECT_TIME.total_seconds())
        except (asyncssh.Error, OSError, Late) as err:
            self._abort()
            raise MachineUnreachable(f"{self.name} let us in and runs nothing: {_reason(err)}") from err
        if answer:
            self._abort()
            raise MachineError(
                f"{self.name}: the shell of {self._host.user} prints {answer[:60]!r} at every login",
                hint="let its start-up files print on terminals only: `[ -t 1 ] || return` at their head",
            )

    def _abort(self) -> None:
        """Drop what is left of the connections."""
        for connection in reversed(self._connections):
            with suppress(Late):
                self._loop.call(_aborted(connection), CLOSE_TIME.total_seconds())
        self._connections.clear()


class _Login:
    """What it takes to log in to one host: read and checked before anything is sent."""

    def __init__(self, host: SshHost) -> None:
        self._host = host
        if not host.identity_files:
            raise UsageError(f"{host.label}: no identity file is named", hint="bbr takes no key that it was not given")
        if host.door is not None and host.jump is not None:
            raise UsageError(f"{host.label}: it is reached by a door or by a jump host, not by both")
        self._identities = [identity(path) for path in host.identity_files]
        self._trusted, self._authorities, self._revoked = host_keys(host)
        self._shown: asyncssh.SSHKey | None = None

    async def connect(self, tunnel: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
        """Log in. Raises asyncssh's own errors, and OSError."""
        self._shown = None
        inside = None
        if self._host.door is not None:
            enter = asyncio.get_running_loop().run_in_executor
            inside = await enter(None, door.enter, self._host.door, CONNECT_TIME)
        return await asyncssh.connect(
            self._host.address,
            self._host.port,
            sock=inside,
            tunnel=tunnel or (),
            client_factory=lambda: _Client(self),
            config=None,
            username=self._host.user,
            known_hosts=(self._trusted, self._authorities, self._revoked),
            server_host_key_algs=self._kinds(),
            x509_trusted_certs=None,
            client_keys=self._identities,
            agent_path=None,
            preferred_auth="publickey",
            connect_timeout=CONNECT_TIME.total_seconds(),
            login_timeout=CONNECT_TIME.total_seconds(),
            keepalive_interval=KEEPALIVE_TIME.total_seconds(),
            keepalive_count_max=KEEPALIVES_MISSED,
            encryption_algs=_FAST_FIRST,
            compression_algs=None,
        )

    def _kinds(self) -> Sequence[str]:
        """Host key algorithms to ask for: those of the pinned keys, then others, so that a changed key shows itself."""
        if self._authorities:
            return ()  # asyncssh's own choice has those of certificates
        pinned = [kind.decode() for key in self._trusted for kind in key.sig_algorithms if kind != b"ssh-rsa"]  # SHA-1
        return [*pinned, *(kind for kind in _HOST_KEY_KINDS if kind not in pinned)]

    def note_wrong_key(self, key: asyncssh.SSHKey) -> None:
        """The host showed a key that is not trusted."""
        self._shown = key

    def error(self, err: Exception) -> MachineError:
        """What an error of `connect` means."""
        label = self._host.label
        if isinstance(err, asyncssh.HostKeyNotVerifiable):
            return self._wrong_key(str(err))
        if isinstance(err, asyncssh.KeyExchangeFailed) and "host key" in str(err):
            return self._wrong_key("it has no key of the pinned kind")
        if isinstance(err, asyncssh.PermissionDenied):
            files = ", ".join(str(path) for path in self._host.identity_files)
            return LoginRefused(
                f"{label} refused to let {self._host.user} in with {files}",
                hint=f"the public key must stand in {self._host.user}'s authorized_keys there; check user and file",
            )
        if isinstance(err, Late | TimeoutError) or "timed out" in str(err).lower():
            return MachineUnreachable(f"{label} did not answer in {CONNECT_TIME}", hint=_LOOK_AT_NETWORK)
        return MachineUnreachable(f"{label} cannot be reached: {_reason(err)}", hint=_LOOK_AT_NETWORK)

    def _wrong_key(self, why: str) -> HostKeyWrong:
        host = self._host
        shown = f"showed {_print(self._shown)}" if self._shown else f"cannot be trusted: {why}"
        pinned = ", ".join(dict.fromkeys(_print(key) for key in self._trusted)) or "an authority for host keys"
        source = f"in {host.known_hosts}" if host.known_hosts else "given"
        return HostKeyWrong(
            f"{host.label} {shown}; {source}: {pinned}",
            hint="nothing was sent. If the machine was installed anew, read its new key at its console and pin that; "
            "if not, somebody stands between",
        )


class _Client(asyncssh.SSHClient):
    """Asked by asyncssh about a host key that is not trusted: remembers it for the message, and never trusts it."""

    def __init__(self, login: _Login) -> None:
        self._login = login

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002 - asyncssh's
        self._login.note_wrong_key(key)
        return False


class _SshRunning:
    """A `Running` on one channel of the connection."""

    def __init__(
        self,
        loop: LoopThread,
        connection: asyncssh.SSHClientConnection,
        process: _Process,
        what: str,
        limit: timedelta,
    ) -> None:
        self._loop, self._connection, self._process = loop, connection, process
        self._what, self._limit = what, limit
        self._deadline = Deadline(limit + GRACE)
        self._tail = loop.begin(_tail(process))

    def give(self, stdin: bytes) -> None:
        """All of its input, from memory."""
        self._call(_give(self._process, stdin))

    def write(self, chunk: bytes) -> bool:
        """See `Running.write`."""
        return self._call(_write(self._process, chunk))

    def end_input(self) -> None:
        """See `Running.end_input`."""
        self._call(_give(self._process, b""))

    def read(self) -> bytes:
        """See `Running.read`."""
        return self._call(self._process.stdout.read(CHUNK_BYTES))

    def wait(self) -> Ended:
        """See `Running.wait`."""
        while self.read():
            pass
        tail = self._call(_ended(self._process, self._tail))
        # Of a connection that dropped, neither the code nor the output is known to be the last word.
        if self._process.returncode is None or self._connection.is_closed():
            raise _lost(self._what, None)
        code = self._process.returncode
        return Ended(code if code >= 0 else 128 - code, tail)

    def forget(self) -> None:
        """Close the channel."""
        with suppress(Late, asyncssh.Error, OSError):  # the connection is gone, and the channel with it
            self._loop.call(_closed(self._process), CLOSE_TIME.total_seconds())
        self._tail.cancel()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.call(work, self._deadline.left_s())
        except Late as err:
            raise CommandTimedOut(
                f"{self._what} was over its limit of {self._limit} and could not be ended",
                hint="it, or a process that it started, still holds its outputs: see what it is and end it",
            ) from err
        except (asyncssh.Error, OSError) as err:
            raise _lost(self._what, err) from err


async def _started(connection: asyncssh.SSHClientConnection, command: str) -> _Process:
    return await connection.create_process(command, encoding=None)


async def _run_nothing(connection: asyncssh.SSHClientConnection) -> bytes:
    """What is printed when nothing is to be."""
    ended = await connection.run("true", stdin=asyncssh.DEVNULL, stderr=asyncssh.DEVNULL, encoding=None)
    return ended.stdout if isinstance(ended.stdout, bytes) else b""


async def _write(process: _Process, chunk: bytes) -> bool:
    try:
        process.stdin.write(chunk)
        await process.stdin.drain()
    except BrokenPipeError:
        return False
    return True


async def _give(process: _Process, last: bytes) -> None:
    with suppress(BrokenPipeError):  # it has ended already: its code says why
        if last:
            process.stdin.write(last)
        process.stdin.write_eof()


async def _tail(process: _Process) -> bytes:
    """The end of stderr. Taken while the command runs, so that it does not wait for us to do it."""
    tail = b""
    while chunk := await process.stderr.read(CHUNK_BYTES):
        tail = (tail + chunk)[-STDERR_LIMIT_BYTES:]
    return tail


async def _ended(process: _Process, tail: concurrent.futures.Future[bytes]) -> bytes:
    await process.wait_closed()
    return await asyncio.wrap_future(tail)


async def _closed(process: _Process) -> None:
    process.close()
    if process.returncode is not None:  # else sshd waits for a command that nobody has asked to end yet
        await process.wait_closed()


async def _aborted(connection: asyncssh.SSHClientConnection) -> None:
    connection.abort()
    await connection.wait_closed()


def _reason(err: Exception) -> str:
    """Why, in the words of the system where it has some: asyncio's are of its own calls."""
    if isinstance(err, OSError) and err.errno is not None and err.errno > 0:
        return os.strerror(err.errno)
    return err.reason if isinstance(err, asyncssh.Error) else str(err)


def _print(key: asyncssh.SSHKey) -> str:
    """A key as ssh-keygen -l shows it."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _lost(what: str, err: Exception | None) -> ConnectionLost:
    because = f" ({err})" if err is not None and str(err) else ""
    return ConnectionLost(
        f"{what}: the connection was lost{because}",
        hint="it may have been done, and may go on there until its limit: look at the machine before you try again",
    )
