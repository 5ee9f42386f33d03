"""Stores that do wrong: each is told apart, by both SDKs, and only what may pass by itself is tried again."""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bbr.errors import (
    AccessDenied,
    AlreadyExists,
    BbrError,
    BucketMissing,
    ClockSkew,
    NotAStore,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from bbr.servers.certificates import Authority
from bbr.servers.minio import MinioServer
from bbr.stores.memory import MemoryStore
from bbr.stores.probe import probe
from bbr.stores.retry import Retrying
from bbr.stores.store import Buffer, Stored
from tests.stores.conftest import client, drop, reply, s3_error, serve

pytestmark = pytest.mark.usefixtures("credentials")
both = pytest.mark.parametrize("kind", ["s3", "minio"])
QUICKLY = timedelta(milliseconds=1)


def answering(status: int, body: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: reply(handler, status, body)


@both
@pytest.mark.parametrize(
    ("status", "code", "error", "exit_code", "says"),
    [
        (404, "NoSuchBucket", BucketMissing, 1, "bucket bucket does not exist"),
        (404, "NoSuchKey", NotFound, 1, "not in the store"),
        (403, "AccessDenied", AccessDenied, 1, "AccessDenied"),
        (403, "InvalidAccessKeyId", AccessDenied, 1, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch", AccessDenied, 1, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed", ClockSkew, 5, "clock"),
        (412, "PreconditionFailed", AlreadyExists, 1, "exists already"),
        (503, "SlowDown", StoreUnavailable, 1, "SlowDown"),
        (500, "InternalError", StoreUnavailable, 1, "InternalError"),
        (400, "EntityTooLarge", StoreError, 1, "EntityTooLarge"),
    ],
)
def test_error_code_is_told_apart(
    kind: str, status: int, code: str, error: type[BbrError], exit_code: int, says: str
) -> None:
    with serve(answering(status, s3_error(code))) as host:
        store = client(kind, host)
        calls: list[Callable[[], object]] = [lambda: store.put("a", b"x"), lambda: store.get("a", limit_bytes=1)]
        for call in calls:
            with pytest.raises(error, match=says) as raised:
                call()
            assert type(raised.value) is error
            assert raised.value.exit_code == exit_code


@both
@pytest.mark.parametrize("status", [200, 404, 405])
def test_endpoint_that_is_no_s3_is_named_as_such(kind: str, status: int) -> None:
    with serve(answering(status, b"<html><body>Welcome to nginx!</body></html>")) as host:
        with pytest.raises(StoreError) as raised:
            list(client(kind, host).list(""))
        assert isinstance(raised.value, NotAStore | NotFound) or "S3" in str(raised.value) + raised.value.hint
        assert raised.value.exit_code == 1
        assert "URL" in raised.value.hint


@both
def test_dropped_connection_may_be_tried_again(kind: str) -> None:
    with serve(drop) as host, pytest.raises(StoreUnavailable) as raised:
        client(kind, host).put("a", b"x")
    assert raised.value.retry_may_help


@both
def test_refused_connection_names_what_to_check(kind: str) -> None:
    with serve(drop) as host:
        pass
    with pytest.raises(StoreUnavailable) as raised:
        client(kind, host).get("a", limit_bytes=1)
    assert "reachable" in raised.value.hint


@both
def test_cut_body_is_never_returned(kind: str) -> None:
    with serve(lambda handler: reply(handler, 200, b"half", length=8)) as host, pytest.raises(StoreUnavailable):
        client(kind, host).get("a", limit_bytes=100)


@both
def test_slow_answers_are_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"bbr.stores.{kind}"
    monkeypatch.setattr(f"{module}.READ_TIME_S", 0.2)
    released = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        released.wait(20)
        reply(handler, 200, b"late")

    with serve(slow) as host:
        with pytest.raises(StoreUnavailable):
            client(kind, host).get("a", limit_bytes=100)
        released.set()


@both
def test_busy_store_is_tried_again_until_it_answers(kind: str) -> None:
    asked: list[str] = []

    def busy_twice(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        if len(asked) <= 2:
            reply(handler, 503, s3_error("SlowDown"))
        else:
            reply(handler, 200, b"body")

    with serve(busy_twice) as host:
        assert Retrying(client(kind, host), first_pause=QUICKLY).get("a", limit_bytes=10) == b"body"
    assert len(asked) == 3


@both
def test_denied_store_is_asked_once(kind: str) -> None:
    asked: list[str] = []

    def denied(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        reply(handler, 403, s3_error("AccessDenied"))

    with serve(denied) as host, pytest.raises(AccessDenied):
        Retrying(client(kind, host), first_pause=QUICKLY).get("a", limit_bytes=10)
    assert len(asked) == 1


@both
def test_missing_credentials_are_named(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(answering(403, s3_error("AccessDenied"))) as host, pytest.raises(AccessDenied) as raised:
        client(kind, host).put("a", b"x")
    assert raised.value.hint


@both
def test_unknown_authority_is_refused_and_its_file_accepted(kind: str, tmp_path: Path) -> None:
    authority = Authority("store authority")
    pair = authority.issue("store")
    files = {"ca.crt": authority.certificate, "server.crt": pair.certificate, "server.key": pair.key}
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with serve(answering(200, b"body"), context) as host:
        with pytest.raises(StoreError, match="TLS") as raised:
            client(kind, host, tls=True).get("a", limit_bytes=10)
        assert "ca_file" in raised.value.hint
        assert client(kind, host, tls=True, ca_file=str(tmp_path / "ca.crt")).get("a", limit_bytes=10) == b"body"


def test_lost_answer_of_a_put_that_was_done_is_success() -> None:
    class LosesFirstAnswer(MemoryStore):
        """Stores, and does not say so, once."""

        lost = False

        def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
            stored = super().put(name, body, retain_until=retain_until)
            if not self.lost:
                self.lost = True
                raise StoreUnavailable("the answer was lost")
            return stored

    store = Retrying(LosesFirstAnswer(), first_pause=QUICKLY)
    assert store.put("a", b"body").size_bytes == 4
    with pytest.raises(AlreadyExists):
        store.put("a", b"body")


def test_lost_answer_and_another_body_is_a_conflict() -> None:
    class Stolen(MemoryStore):
        """Another writer takes the name while the first answer is lost."""

        def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
            if not list(self.list(name)):
                super().put(name, b"another")
                raise StoreUnavailable("the answer was lost")
            return super().put(name, body, retain_until=retain_until)

    with pytest.raises(AlreadyExists):
        Retrying(Stolen(), first_pause=QUICKLY).put("a", b"body")


@both
def test_probe_of_a_real_server_finds_its_abilities(
    kind: str, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
    bucket = f"b{secrets.token_hex(6)}"
    minio_server.create_bucket(bucket, lock=True)
    store = client(kind, minio_server.endpoint.removeprefix("http://"), bucket=bucket)
    abilities = probe(store)
    assert abilities.conditional_create
    assert abilities.race_winners == 1
    assert abilities.retention
    assert abilities.versions
    assert abilities.may_delete
    assert abs(abilities.clock_difference_s) < 5
    assert abilities.lacks == ()
    assert list(store.list("")) == []


def test_probe_of_a_store_that_ignores_conditions_says_so() -> None:
    class Overwrites(MemoryStore):
        """Takes every put."""

        def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
            self.delete(name)
            return super().put(name, body, retain_until=retain_until)

    abilities = probe(Overwrites())
    assert not abilities.conditional_create
    assert "conditional create is ignored" in abilities.lacks[0]


class Slow(MemoryStore):
    """Takes a while for each answer, and gives the first ``silent`` of them up."""

    def __init__(self, takes_s: float, silent: int) -> None:
        super().__init__()
        self.asked = 0
        self._takes_s = takes_s
        self._silent = silent

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        self.asked += 1
        threading.Event().wait(self._takes_s)
        if self.asked <= self._silent:
            raise StoreUnavailable("no answer", hint="check it")
        return super().get(name, limit_bytes=limit_bytes)


def test_first_contact_ends_before_a_try_that_would_end_past_its_limit() -> None:
    slow = Slow(0.1, silent=100)
    store = Retrying(slow, first_pause=QUICKLY, first_contact_limit=timedelta(seconds=0.15))
    with pytest.raises(StoreUnavailable, match=r"no answer \(tried once, for \d+ s\)") as raised:
        store.get("a", limit_bytes=1)
    assert (slow.asked, raised.value.hint) == (1, "check it")


def test_first_contact_with_a_quick_refusal_is_tried_as_often_as_ever() -> None:
    slow = Slow(0, silent=100)
    with pytest.raises(StoreUnavailable, match=r"\(tried 5 times, for \d+ s\)"):
        Retrying(slow, first_pause=QUICKLY).get("a", limit_bytes=1)


@pytest.mark.parametrize("answer", ["a body", "not found"])
def test_store_that_has_answered_once_is_waited_for_with_patience(answer: str) -> None:
    slow = Slow(0.1, silent=0)
    store = Retrying(slow, first_pause=QUICKLY, first_contact_limit=timedelta(seconds=0.15))
    if answer == "a body":
        store.put("a", b"body")
        assert store.get("a", limit_bytes=4) == b"body"
    else:
        with pytest.raises(NotFound):
            store.get("a", limit_bytes=4)
    slow.asked, slow._silent = 0, 100
    with pytest.raises(StoreUnavailable, match=r"\(tried 5 times, for \d+ s\)"):
        store.get("a", limit_bytes=4)
