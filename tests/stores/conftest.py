"""Small HTTP servers on loopback that answer as a broken or hostile S3 would."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bbr.stores.minio import MinioStore
from bbr.stores.s3 import S3Store
from bbr.stores.store import Store

Answer = Callable[[BaseHTTPRequestHandler], None]
OK_HEADERS = {
    "Connection": "close",
    "Content-Type": "application/xml",
    "ETag": '"d41d8cd98f00b204e9800998ecf8427e"',
    "Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT",
}


class Handler(BaseHTTPRequestHandler):
    """Hands every request to the server's ``answer``."""

    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        answer: Answer = self.server.answer  # type: ignore[attr-defined]  # set by `serve`
        answer(self)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", *, length: int | None = None) -> None:
    """One answer. ``length`` may promise more than there is."""
    handler.send_response(status)
    for name, value in OK_HEADERS.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def s3_error(code: str) -> bytes:
    """The body of an S3 error."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def drop(handler: BaseHTTPRequestHandler) -> None:
    """Hang up without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@contextmanager
def serve(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server for as long as the context lasts. Yields host:port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.answer = answer  # type: ignore[attr-defined]  # read by `Handler`
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as both SDKs find them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something-secret")


def client(kind: str, host: str, *, bucket: str = "bucket", tls: bool = False, ca_file: str | None = None) -> Store:
    """A store of either SDK at ``host``."""
    if kind == "s3":
        scheme = "https" if tls else "http"
        return S3Store(bucket, endpoint=f"{scheme}://{host}", region="us-east-1", path_style=True, ca_file=ca_file)
    return MinioStore(host, bucket, secure=tls, region="us-east-1", ca_file=ca_file)
