"""A client of one API server: objects by their path, over urllib3. The one module that imports it for this.

Who is asked is decided by an address and a CA, and nothing else: no proxy, kubeconfig or token from the environment.
The client's key is in memory only. Nothing is tried again by itself: an error says whether that may help.

Paths are those of the API: ``/api/v1/nodes/m1``, ``/apis/apps/v1/namespaces/x/deployments``.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import urllib3

from bbr.errors import (
    ApiServerError,
    ApiServerTls,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFoundObject,
    NotReady,
    UsageError,
)

Object = dict[str, Any]
"""An object of Kubernetes as its JSON has it."""

CONNECT_TIME = timedelta(seconds=5)
REQUEST_TIME = timedelta(seconds=60)
"""How long the server may be silent in one request; its own limit is as long."""

PAGE_OBJECTS = 500
ANSWER_LIMIT_BYTES = 256 * 1024 * 1024
"""One answer: a page of the largest objects that etcd takes by default fits."""

_NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_CHUNK_BYTES = 256 * 1024
_SAID = 500
_ERRORS: dict[int, type[ApiServerError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFoundObject,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: NotReady,
    503: NotReady,
    504: NotReady,
}
_HINTS: dict[type[ApiServerError], str] = {
    Forbidden: "the client certificate must be of this cluster's CA, and of a group with these rights (system:masters)",
    NotReady: "see whether kube-apiserver runs on the machine, and what the end of its log says",
    Conflict: "it was changed or made meanwhile: look at it again",
}


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the API server is ready; if not, ``reason`` names the checks that failed, or why it cannot be asked."""

    is_ready: bool
    reason: str


class ApiServer:
    """One API server. A context manager that closes its connections. May be used from many threads.

    ``server_name`` is the name that its certificate must hold: ``kubernetes`` is in every one, whatever the address.
    Without a client certificate it is asked as nobody; with ``token``, as whom that is of.

    All methods raise `ApiServerTls`, `NotReady` and `Forbidden`, and `ApiServerError` for what nobody expected.
    """

    def __init__(
        self,
        address: tuple[str, int],
        ca_pem: bytes,
        certificate_pem: bytes = b"",
        key_pem: bytes = b"",
        *,
        server_name: str = "kubernetes",
        token: str = "",
        limit: timedelta = REQUEST_TIME,
    ) -> None:
        """Makes no connection yet. Raises `ApiServerTls` when the PEM texts are not what they should be."""
        self._name = f"the API server at {address[0]}:{address[1]}"
        self._headers = {"User-Agent": "bbr"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = urllib3.HTTPSConnectionPool(
            address[0],
            address[1],
            timeout=urllib3.Timeout(connect=CONNECT_TIME.total_seconds(), read=limit.total_seconds()),
            maxsize=4,
            retries=False,
            ssl_context=_context(ca_pem, certificate_pem, key_pem, self._name),
            server_hostname=server_name,
            assert_hostname=server_name,
        )

    @property
    def name(self) -> str:
        """For messages."""
        return self._name

    def get(self, path: str, **query: str) -> Object:
        """One object, or one whole list. Raises `NotFoundObject`."""
        return self._asked("GET", path, query=query)

    def list(self, path: str, **query: str) -> Iterator[Object]:
        """All objects of a collection, in pages of `PAGE_OBJECTS` of one revision, without their kind.

        Raises `Gone` when that revision is compacted before the last page: begin again.
        """
        page = self.page(path, **query)
        while True:
            yield from page.get("items") or ()
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            page = self.page(path, **{**query, "continue": following})

    def names(self, path: str, **query: str) -> Iterator[Object]:
        """All objects of a collection, of each its metadata only. The server has read them whole."""
        query = {"limit": str(PAGE_OBJECTS), **query}
        while True:
            page = self._asked("GET", path, query=query, accept=_NAMES_ONLY)
            yield from page.get("items") or ()
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query = {**query, "continue": following}

    def page(self, path: str, **query: str) -> Object:
        """One page of a collection: the list object, with its ``items`` and ``metadata``."""
        return self.get(path, **{"limit": str(PAGE_OBJECTS), **query})

    def create(self, path: str, body: Mapping[str, Any]) -> Object:
        """Create an object in the collection ``path``. Raises `Conflict` when it exists, `Invalid`."""
        return self._asked("POST", path, body=body)

    def replace(self, path: str, body: Mapping[str, Any]) -> Object:
        """Write an object over the one that it was read from. Raises `Conflict` when that has changed, `Invalid`."""
        return self._asked("PUT", path, body=body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Object:
        """Merge into an object (RFC 7386: lists are replaced, null deletes). With a resourceVersion in ``body``'s
        metadata only into that very one, else raises `Conflict`; `Invalid`, `NotFoundObject`.
        """
        return self._asked("PATCH", path, body=body, kind="application/merge-patch+json")

    def delete(self, path: str, *, uid: str | None = None) -> bool:
        """Delete an object; with ``uid``, only that very one, else raises `Conflict`. False when there is none."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        options: Object = {**body, "preconditions": {"uid": uid}} if uid else {**body}
        try:
            self._asked("DELETE", path, body=options)
        except NotFoundObject:
            return False
        return True

    def first_event(self, path: str, **query: str) -> Object | None:
        """The first event of a watch; None when there was none before the server ended it. Raises `Gone`."""
        with self._answer("GET", path, query={**query, "watch": "true"}) as answer:
            line = b""
            for chunk in answer.stream(_CHUNK_BYTES, decode_content=False):
                line += chunk
                if b"\n" in line or len(line) > ANSWER_LIMIT_BYTES:
                    break
            return self._parsed(line.split(b"\n", 1)[0], path) if line.strip() else None

    def ready(self) -> Readiness:
        """Whether it is ready to serve (``/readyz``). A server that cannot be asked is not ready; raises `Forbidden`
        and `ApiServerTls`, which waiting does not help.
        """
        try:
            with self._answer("GET", "/readyz", query={"verbose": ""}) as answer:
                answer.read(_CHUNK_BYTES)
        except (Forbidden, ApiServerTls):
            raise
        except ApiServerError as err:
            return Readiness(False, _failed_checks(str(err)))
        return Readiness(True, "")

    def close(self) -> None:
        """Close its connections."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        with self._answer(method, path, query=query or {}, body=body, kind=kind, accept=accept) as answer:
            text = bytearray()
            for chunk in answer.stream(_CHUNK_BYTES, decode_content=False):
                text += chunk
                if len(text) > ANSWER_LIMIT_BYTES:
                    raise ApiServerError(f"{self._name}: {method} {path}: more than {ANSWER_LIMIT_BYTES} bytes")
        return self._parsed(bytes(text), path)

    def _parsed(self, text: bytes, path: str) -> Object:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise ApiServerError(f"{self._name}: {path}: the answer is no JSON") from err
        if not isinstance(parsed, dict):
            raise ApiServerError(f"{self._name}: {path}: the answer is no object")
        return parsed

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
        accept: str = "application/json",
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer that says yes, to be read in the context. Errors of reading it are translated too."""
        if not path.startswith("/") or any(character <= " " or character > "~" for character in path):
            raise UsageError(f"{path!r} is not a path of the API")
        what = f"{self._name}: {method} {path}"
        headers = {**self._headers, "Accept": accept}
        if body is not None:
            headers["Content-Type"] = kind
        try:
            answer = self._pool.request(
                method,
                f"{path}?{urlencode(query)}" if query else path,
                body=json.dumps(body).encode() if body is not None else None,
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                if answer.status >= 300:
                    raise _refusal(what, answer.status, answer.read(_CHUNK_BYTES, decode_content=False))
                yield answer
            finally:
                _let_go(answer)
        except urllib3.exceptions.SSLError as err:
            if "EOF" in str(err):  # nobody listens behind a forwarded port, or it has just ended: no matter of trust
                raise NotReady(f"{what}: the connection ended", hint=_HINTS[NotReady]) from err
            raise ApiServerTls(
                f"{what}: {err}", hint="its certificate must be of the CA that was given, and not be expired"
            ) from err
        except (urllib3.exceptions.HTTPError, OSError) as err:
            raise NotReady(f"{what}: {_shown(err)}", hint=_HINTS[NotReady]) from err


def path_of(collection: str, name: str, namespace: str = "") -> str:
    """The path of an object in a collection (``/api/v1/secrets``), in a namespace where it has one."""
    head, _, plural = collection.rpartition("/")
    return f"{head}/namespaces/{namespace}/{plural}/{name}" if namespace else f"{collection}/{name}"


def _context(ca_pem: bytes, certificate_pem: bytes, key_pem: bytes, name: str) -> ssl.SSLContext:
    """TLS with this CA alone. The key goes through memory: `ssl` takes it from a file only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
        if certificate_pem:
            descriptor = os.memfd_create("client")
            with os.fdopen(descriptor, "wb") as file:
                file.write(certificate_pem.rstrip() + b"\n" + key_pem)
                file.flush()
                context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, ValueError) as err:
        raise ApiServerTls(f"{name}: its CA, the client certificate or its key is not PEM, or not a pair") from err
    return context


def _let_go(answer: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back when the answer was read to its end; else drop it: a watch has none."""
    if answer.closed:
        answer.release_conn()
    else:
        answer.close()


def _refusal(what: str, status: int, body: bytes) -> ApiServerError:
    """The error for an answer that says no; its words are those of the server's Status object, where it sent one."""
    kind = _ERRORS.get(status, ApiServerError)
    said = body.decode(errors="replace")
    try:
        parsed = json.loads(said)
        said = str(parsed["message"])
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    if "/readyz" not in what:
        said = said[:_SAID]
    return kind(f"{what}: {status} {said.strip()}", hint=_HINTS.get(kind, ""))


def _failed_checks(said: str) -> str:
    """What /readyz names as failed, or all that is known."""
    failed = [line[3:].split(" ")[0] for line in said.splitlines() if line.startswith("[-]")]
    failed += [line.partition("[-]")[2].split(" ")[0] for line in said.splitlines()[:1] if "[-]" in line]
    return f"failed: {', '.join(sorted(set(failed)))}" if failed else said[:_SAID]


def _shown(err: Exception) -> str:
    """Why, without the object addresses that urllib3 puts before it."""
    return str(err).rpartition(">: ")[2] or type(err).__name__
