"""Servers that stand between bbr and the real ones: all is passed on, but for what a test makes of it on the way."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, NoReturn, Protocol, cast
from urllib.parse import unquote, urlsplit

import grpc
from minio import Minio

from bbr.etcd.stream import cut
from bbr.servers.minio import MinioServer

Blobs = Iterator[tuple[int, bytes]]
"""A snapshot stream: how many bytes are still to come after each piece, and the piece."""

_MESSAGE_LIMIT = (("grpc.max_receive_message_length", 256 << 20), ("grpc.max_send_message_length", 256 << 20))
_OF_ONE_HOP = {"connection", "expect", "transfer-encoding", "content-length", "keep-alive", "server"}


def as_it_is(blobs: Blobs) -> Blobs:
    """A stream that nobody touches."""
    return blobs


class _Call(Protocol):
    """A stream that is under way."""

    def __iter__(self) -> Iterator[bytes]: ...

    def cancel(self) -> object: ...


class _EtcdBetween(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Hands every call on as the bytes that it is."""

    def __init__(self, channel: grpc.Channel, before: Callable[[str], None], meddle: Callable[[Blobs], Blobs]) -> None:
        self._channel, self._before, self._meddle = channel, before, meddle

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(handler_call_details.method)
        if method.endswith("/Snapshot"):
            return grpc.unary_stream_rpc_method_handler(lambda request, context: self._stream(method, request, context))
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._call(method, request, context))

    def _call(self, method: str, request: bytes, context: Any) -> bytes:
        self._before(method.rpartition("/")[2])
        try:
            return bytes(self._channel.unary_unary(method, None, None)(request, timeout=20))
        except grpc.RpcError as err:
            _pass_on(err, context)

    def _stream(self, method: str, request: bytes, context: Any) -> Iterator[bytes]:
        self._before(method.rpartition("/")[2])
        messages = cast(_Call, self._channel.unary_stream(method, None, None)(request))
        try:
            for remaining, blob in self._meddle((left, bytes(piece)) for left, piece in map(cut, messages)):
                yield b"\x10" + _varint(remaining) + b"\x1a" + _varint(len(blob)) + blob
        except grpc.RpcError as err:
            _pass_on(err, context)
        finally:
            messages.cancel()


def _pass_on(err: grpc.RpcError, context: Any) -> NoReturn:
    context.abort(err.code(), err.details())
    raise AssertionError("abort raises")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@contextmanager
def etcd_between(
    endpoint: str, *, before: Callable[[str], None] = lambda _: None, meddle: Callable[[Blobs], Blobs] = as_it_is
) -> Iterator[str]:
    """An endpoint that passes every call on to ``endpoint``.

    ``before`` is told each method first ("HashKV"), ``meddle`` makes of the snapshot stream what it likes.
    """
    with (
        grpc.insecure_channel(endpoint.removeprefix("http://"), _MESSAGE_LIMIT) as channel,
        ThreadPoolExecutor(16, thread_name_prefix="between") as threads,
    ):
        server = grpc.server(threads, options=_MESSAGE_LIMIT)
        server.add_generic_rpc_handlers((_EtcdBetween(channel, before, meddle),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait(10)


@dataclass(frozen=True, slots=True)
class Gate:
    """Holds a stream after its first pieces until it is opened, as a slow server would."""

    after_bytes: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def stream(self, blobs: Blobs) -> Blobs:
        """The stream, held once ``after_bytes`` have gone through, the first time that it is asked for."""
        done = 0
        for remaining, blob in blobs:
            yield remaining, blob
            done += len(blob)
            if done > self.after_bytes and not self.reached.is_set():
                self.hold()

    def hold(self) -> None:
        """Say that this point is reached, and wait here."""
        self.reached.set()
        self.opened.wait(60)


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request to a store. ``target`` is the path with its query."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """The object's key in its bucket; empty for what is about the bucket."""
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. ``promised`` is what its header says of its length, where that is not the truth."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    promised: int | None = None


class HungUp(Exception):
    """Raised by who meddles: the connection is dropped without an answer."""


Meddle = Callable[[Asked, Callable[[], Answer]], Answer]


class _StoreBetween(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        try:
            answer: Answer = self.server.meddle(asked, lambda: pass_on(self.server.real, asked))  # type: ignore[attr-defined]  # set by `store_between`
            self._reply(answer)
        except (HungUp, BrokenPipeError, ConnectionResetError):  # dropped by us, or by whom we killed
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def _reply(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _OF_ONE_HOP:
                self.send_header(name, value)
        length = len(answer.body) if answer.promised is None else answer.promised
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(answer.body)
        if answer.promised is not None and answer.promised != len(answer.body):
            raise HungUp

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def pass_on(real: str, asked: Asked) -> Answer:
    """What the real server at ``real`` (host:port) says. Its signature covers the Host header, which stays."""
    connection = http.client.HTTPConnection(real, timeout=20)
    try:
        connection.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
        for name, value in asked.headers.items():
            if name.lower() not in _OF_ONE_HOP:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(asked.body)))
        connection.endheaders(asked.body)
        said = connection.getresponse()
        body = said.read()
        promised = int(said.headers.get("Content-Length") or 0) if asked.method == "HEAD" else None
        return Answer(said.status, dict(said.headers.items()), body, promised)
    finally:
        connection.close()


@contextmanager
def store_between(real: MinioServer, meddle: Meddle) -> Iterator[str]:
    """A store (host:port) that passes requests on to a real one; ``meddle`` may answer in its place."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StoreBetween)
    server.real = real.endpoint.removeprefix("http://")  # type: ignore[attr-defined]  # read by the handler
    server.meddle = meddle  # type: ignore[attr-defined]  # read by the handler
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ignores_conditions(real: MinioServer) -> Meddle:
    """A store that takes every PUT, whatever condition it has: the real one is asked without any."""
    client = client_of(real)

    def meddle(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        if asked.method != "PUT" or "if-none-match" not in {name.lower() for name in asked.headers}:
            return forward()
        bucket = urlsplit(asked.target).path.lstrip("/").partition("/")[0]
        headers = client._execute("PUT", bucket, asked.key, body=asked.body).headers
        return Answer(200, dict(headers.items()), b"")

    return meddle


def client_of(real: MinioServer) -> Minio:
    """The SDK's own client, to look behind bbr's back."""
    host = real.endpoint.removeprefix("http://")
    return Minio(host, access_key=real.access_key, secret_key=real.secret_key, secure=False, region="us-east-1")


def bodies(real: MinioServer, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Every object in a bucket of a real MinIO."""
    client = client_of(real)
    found = {}
    for one in client.list_objects(bucket, prefix=prefix, recursive=True):
        answer = client.get_object(bucket, one.object_name)
        found[str(one.object_name)] = bytes(answer.read())
        answer.close()
        answer.release_conn()
    return found


def joined(blobs: Iterable[tuple[int, bytes]]) -> bytes:
    """A whole snapshot, in memory."""
    whole = BytesIO()
    for _, blob in blobs:
        whole.write(blob)
    return whole.getvalue()


def pieces_of(whole: bytes, size_bytes: int = 32 << 10) -> Blobs:
    """A snapshot as a server sends it, that is sure of its end."""
    for start in range(0, len(whole), size_bytes):
        yield max(0, len(whole) - start - size_bytes), whole[start : start + size_bytes]
