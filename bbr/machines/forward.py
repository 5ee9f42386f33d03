"""A rare ability of a machine beside `Machine`: to reach what listens there, through the connection that we have.

Only SSH must then be reachable from the operator: etcd and the API server of a master are asked on its own loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import Protocol, runtime_checkable

from bbr.machines.loop import Late, LoopThread

LOOPBACK = "127.0.0.1"
_BEGIN_TIME = timedelta(seconds=5)
_CHUNK_BYTES = 64 * 1024


@runtime_checkable
class Forwards(Protocol):
    """A machine, or a transport to one, whose ports can be reached."""

    def forward(self, port: int, host: str = LOOPBACK) -> AbstractContextManager[tuple[str, int]]:
        """A local address that leads to ``host:port`` as the machine sees it, for as long as the context lasts.

        Over SSH it is a port of this host's 127.0.0.1. Connections that are open when the SSH connection drops are
        reset; the next one is made through a new SSH connection. Where nobody listens at ``host:port`` (yet), a
        connection is closed at once: that is for the caller to see, and no error here.

        Raises what `Machine` raises when the machine cannot be reached, and `MachineError` when it forbids this.
        """
        ...


class Reads(Protocol):
    """The reading half of a connection."""

    async def read(self, n: int = -1, /) -> bytes:
        """What has come; empty at the end."""
        ...


class Writes(Protocol):
    """The writing half of a connection."""

    def write(self, data: bytes, /) -> None:
        """Give it to be sent."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more."""
        ...

    def write_eof(self) -> None:
        """No more comes."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Far = tuple[Reads, Writes]
"""A connection on the far side."""


@contextmanager
def listening(loop: LoopThread, far: Callable[[], Awaitable[Far]]) -> Iterator[tuple[str, int]]:
    """An address of 127.0.0.1, each connection to which is joined to a new one that ``far`` makes."""
    relay = _Relay(far)
    address = loop.call(relay.open(), _BEGIN_TIME.total_seconds())
    try:
        yield address
    finally:
        with suppress(Late, RuntimeError):  # the loop may be closed already, and all of this with it
            loop.call(relay.close(), _BEGIN_TIME.total_seconds())


class _Relay:
    """The listener, and the connections through it. All of it in one event loop."""

    def __init__(self, far: Callable[[], Awaitable[Far]]) -> None:
        self._far = far
        self._joined: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> tuple[str, int]:
        """Listen; returns where."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Listen no more, and drop what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._joined:
            task.cancel()
        await asyncio.gather(*self._joined, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._join(reader, writer))
        self._joined.add(task)
        task.add_done_callback(self._joined.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: Writes | None = None
        try:
            far_reader, far_writer = await self._far()
            await _all_or_none(_copy(reader, far_writer), _copy(far_reader, writer))
            writer.close()
        except BaseException as err:
            writer.transport.abort()
            if not isinstance(err, Exception):
                raise  # we are closed; of all else the near side sees the end, and says so in its own words
        finally:
            if far_writer is not None:
                far_writer.close()


async def _all_or_none(*works: Awaitable[None]) -> None:
    """Wait until all are done, or one has failed: then the others are cancelled, and it is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: Reads, sink: Writes) -> None:
    """All of it, and then the end."""
    while chunk := await source.read(_CHUNK_BYTES):
        sink.write(chunk)
        await sink.drain()
    sink.write_eof()
