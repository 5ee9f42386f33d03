"""A store that is missing, forbidden, of another time, or none at all."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from bbr.servers.etcd import EtcdServers
from bbr.servers.minio import MinioServer
from tests.bad_input.conftest import Bbr
from tests.bad_input.stand_ins import Answer, Asked, store_between
from tests.bad_input.store.conftest import Shop, both, check_every_command, unchanged


@both
def test_missing_bucket_is_exit_1(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    where = shop.where(kind, bucket="no-such-bucket")
    with unchanged(shop):
        check_every_command(bbr, shop, etcd, where, 1, "bucket no-such-bucket does not exist")


@both
def test_wrong_secret_is_exit_1(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unchanged(shop), monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        ended = check_every_command(bbr, shop, etcd, shop.where(kind), 1, "the server answers SignatureDoesNotMatch")
        assert "hint: check the credentials, and what they may do in this bucket" in ended.err
        assert "not-the-secret" not in ended.err


def user_who_may(server: MinioServer, *actions: str) -> tuple[str, str]:
    """A user of the real server, by its own administration, and what is allowed to it."""
    admin = MinioAdmin(
        endpoint=server.endpoint.removeprefix("http://"),
        credentials=StaticProvider(server.access_key, server.secret_key),
        secure=False,
    )
    name, secret = f"u{secrets.token_hex(4)}", secrets.token_hex(16)
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": ["arn:aws:s3:::*"]}
    admin.policy_add(name, policy={"Version": "2012-10-17", "Statement": [statement]})
    admin.user_add(name, secret)
    admin.attach_policy([name], user=name)
    return name, secret


@both
def test_no_permission_to_write_is_exit_1(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real server refuses a user who may read only: a backup and a new repository fail, a listing does not."""
    name, secret = user_who_may(shop.server, "s3:GetObject", "s3:ListBucket")
    before = shop.objects()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", name)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        where = shop.where(kind)
        assert bbr("list", *where).code == 0
        ended = bbr(*shop.backup(etcd, where))
        assert ended.code == 1
        assert "bbr: writing runs/prod/" in ended.err
        assert ": the server answers AccessDenied" in ended.err
        assert "hint: check the credentials, and what they may do in this bucket" in ended.err
        fresh = bbr("init", *shop.where(kind, prefix="fresh"), "--keys-dir", shop.folder / "fresh-keys")
        assert fresh.code == 1
        assert ": the server answers AccessDenied" in fresh.err
        looked = bbr("doctor", *where)
        assert looked.code == 5
        assert "the server answers AccessDenied" in looked.out
    assert not (shop.folder / "fresh-keys").exists()
    assert shop.objects() == before


@both
def test_no_permission_to_read_is_exit_1(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, secret = user_who_may(shop.server, "s3:PutObject")
    with unchanged(shop), monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", name)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        check_every_command(bbr, shop, etcd, shop.where(kind), 1, "the server answers AccessDenied")


@both
def test_clock_that_the_store_refuses_is_exit_5(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This host signs its requests with a time of an hour ago; the real server refuses them."""
    late = datetime.now(UTC) - timedelta(hours=1)
    with unchanged(shop), monkeypatch.context() as patch:
        patch.setattr("minio.api.time.utcnow", lambda: late)
        patch.setattr("botocore.auth.get_current_datetime", lambda **_: late.replace(tzinfo=None))
        ended = check_every_command(
            bbr, shop, etcd, shop.where(kind), 5, "the server refuses this host's clock (The difference between"
        )
        assert "hint: set this host's clock (timedatectl)" in ended.err


@both
def test_clock_that_differs_from_the_stores_is_exit_5(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    """The store takes the request, and dates its answer half an hour ahead."""

    def ahead(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        date = format_datetime(datetime.now(UTC) + timedelta(minutes=30), usegmt=True)
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "date"} | {"Date": date}
        return Answer(answer.status, headers, answer.body, answer.promised)

    with unchanged(shop), store_between(shop.server, ahead) as host:
        ended = bbr(*shop.backup(etcd, shop.where(kind, host)))
        looked = bbr("doctor", *shop.where(kind, host))
    assert ended.code == 5
    assert "bbr: this host's clock and the store's differ by 0:" in ended.err
    assert "hint: set this host's clock (timedatectl), then run the backup again" in ended.err
    assert looked.code == 5
    assert "checks failed: clock\n" in looked.err


class _Website(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<html><body>Welcome to nginx!</body></html>"
        self.send_response(self.server.status)  # type: ignore[attr-defined]  # set by `website`
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextmanager
def website(status: int) -> Iterator[str]:
    """A web server (host:port) that answers everything with one page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Website)
    server.status = status  # type: ignore[attr-defined]  # read by the handler
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@both
@pytest.mark.parametrize("status", [200, 404, 405])
def test_endpoint_that_is_no_s3_is_exit_1(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str, status: int) -> None:
    says, doctor_says = f"listing root/: the server answers {status}", f"the server answers {status}"
    if status == 200:
        doctor_says = "the answer has no ETag, as S3's has"
        no_list = {"minio": "the answer is not S3's: XML element <Name> not found", "s3": "the answer is no listing"}
        says = f"listing root/: {no_list[kind]}"
    with unchanged(shop), website(status) as host:
        ended = check_every_command(bbr, shop, etcd, shop.where(kind, host), 1, says, doctor_says=doctor_says)
    assert "check the URL" in ended.err
