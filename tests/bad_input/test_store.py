"""A store that is missing, forbidden, wrong or slow, met by the command line: a real MinIO, and what stands before it.

Whatever happens, the backups that were there before are there after it, byte for byte, and verify.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from bbr.cli.main import run
from bbr.etcd import write
from bbr.servers.etcd import EtcdServers
from bbr.servers.minio import MinioServer
from bbr.stores.retry import Retrying
from tests.bad_input.conftest import Bbr, Ended, finished, started
from tests.bad_input.stand_ins import Answer, Asked, HungUp, Meddle, bodies, ignores_conditions, store_between

both = pytest.mark.parametrize("kind", ["minio", "s3"])
READ_TIME_S = 0.5


@dataclass(frozen=True, slots=True)
class Shop:
    """A repository in a bucket of a real MinIO, and the key files of a host."""

    server: MinioServer
    bucket: str
    folder: Path

    def where(self, kind: str = "minio", host: str = "", bucket: str = "", prefix: str = "clusters") -> list[str]:
        """The flags that lead to it, by either SDK, directly or by way of ``host``."""
        host = host or self.server.endpoint.removeprefix("http://")
        bucket = bucket or self.bucket
        address = (
            f"minio+http://{host}/{bucket}/{prefix}?region=us-east-1"
            if kind == "minio"
            else f"s3://{bucket}/{prefix}?endpoint=http://{host}&style=path&region=us-east-1"
        )
        return ["--repo", address, "--state-dir", str(self.folder / "state")]

    def backup(self, etcd: EtcdServers, where: list[str]) -> list[str]:
        """A backup's command line."""
        key = str(self.folder / "keys" / "writer-host.key")
        return ["backup", *where, "--cluster", "prod", "--endpoints", ",".join(etcd.endpoints), "--writer-key", key]

    def restore(self, where: list[str], target: Path) -> list[str]:
        """A restore's command line."""
        identity = str(self.folder / "keys" / "recovery-1.txt")
        return ["restore", "etcd", "latest", *where, "--identity", identity, "--to-snapshot", str(target)]

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket, asked past bbr and past what stands before the server."""
        return bodies(self.server, self.bucket)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once, and an answer is not waited for long."""
    monkeypatch.setattr("bbr.stores.url.Retrying", partial(Retrying, first_pause=timedelta(milliseconds=1)))
    for module in ("s3", "minio"):
        monkeypatch.setattr(f"bbr.stores.{module}.READ_TIME_S", READ_TIME_S)


@pytest.fixture(autouse=True)
def credentials(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own, as both SDKs find them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture(scope="module")
def stocked(etcd: EtcdServers, minio_server: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A bucket with a base and an increment. The tests share it: each shows that it took nothing away."""
    shop = Shop(minio_server, f"b{secrets.token_hex(6)}", tmp_path_factory.mktemp("shop"))
    minio_server.create_bucket(shop.bucket)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
        assert run(["init", *shop.where(), "--keys-dir", str(shop.folder / "keys"), "--writer", "host"]) == 0
        for number in range(2):
            with etcd.client() as client:
                write.put(client, b"/registry/pods/default/s", b"%d" % number)
            assert run(shop.backup(etcd, shop.where())) == 0
    yield shop


@pytest.fixture
def shop(stocked: Shop, bbr: Bbr, credentials: None) -> Iterator[Shop]:
    """The stocked bucket. Afterwards everything is still there as it was, is listed and verifies."""
    before, listed = stocked.objects(), backup_ids(bbr, stocked)
    yield stocked
    after = stocked.objects()
    assert {name: after.get(name) for name in before} == before
    verified = bbr("verify", *stocked.where())
    assert verified.code == 0, verified.out
    assert backup_ids(bbr, stocked)[: len(listed)] == listed


def backup_ids(bbr: Bbr, shop: Shop) -> list[str]:
    """The backups, as a host lists them that remembers nothing."""
    ended = bbr("list", *shop.where(), "-o", "json")
    assert ended.code == 0, ended.err
    return [str(one["id"]) for one in json.loads(ended.out)["backups"]]


def committed(shop: Shop) -> set[str]:
    """The manifests in the bucket."""
    return {name for name in shop.objects() if "/manifests/" in name}


@contextmanager
def unchanged(shop: Shop, *, manifests: int = 0) -> Iterator[None]:
    """So many backups more are committed afterwards; without any, nothing is new but empty records and lost parts."""
    before = committed(shop)
    yield
    assert len(committed(shop) - before) == manifests


def check_every_command(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, where: list[str], code: int, says: str, *, doctor_says: str = ""
) -> Ended:
    """`bbr list`, `init` and `backup` say it and end with that code; `bbr doctor` finds that it is what failed."""
    new_keys = shop.folder / f"keys-{secrets.token_hex(4)}"
    commands = (["list", *where], ["init", *where, "--keys-dir", str(new_keys)], shop.backup(etcd, where))
    for command in commands:
        ended = bbr(*command)
        assert ended.code == code, ended.err
        assert says in ended.err
        assert ended.err.count("bbr: ") == 1
        assert "  hint: " in ended.err
    assert not new_keys.exists()
    looked = bbr("doctor", *where)
    assert looked.code == 5
    assert (doctor_says or says) in looked.out
    assert re.match(r"bbr: \d of \d+ checks failed: store\b", looked.err)
    assert "  hint: " in looked.err
    return ended


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


@both
def test_store_that_ignores_conditions_is_said_by_init_and_doctor(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str
) -> None:
    """It is no reason to refuse: names never repeat. But it is said, and a backup works."""
    prefix = f"loose-{kind}"
    with store_between(shop.server, ignores_conditions(shop.server)) as host:
        where = shop.where(kind, host, prefix=prefix)
        keys = shop.folder / f"keys-{prefix}"
        made = bbr("init", *where, "--keys-dir", keys, "--writer", "host")
        assert made.code == 0, made.err
        lack = "conditional create is ignored (8 of 8 writers won one name)"
        assert f"warning: this store: {lack}: backups stay safe, since names never repeat" in made.err
        told = bbr("doctor", *where, "-o", "json")
        assert told.code == 0, told.err
        (check,) = [one for one in json.loads(told.out)["checks"] if one["name"] == "store: conditional create"]
        assert check["result"] == "warning"
        assert check["detail"] == "ignored: 8 of 8 writers won one name; backups stay safe, names never repeat"
        command = shop.backup(etcd, where)
        command[command.index("--writer-key") + 1] = str(keys / "writer-host.key")
        assert bbr(*command).code == 0
        again = bbr("init", *where, "--keys-dir", shop.folder / f"again-{prefix}")
        assert again.code == 5
        assert "there is a repository at " in again.err
        assert bbr("verify", *where).code == 0


def killed_at(shop: Shop, where: str, victim: Callable[[], None], puts: list[tuple[str, bytes]]) -> Meddle:
    """A store that ignores conditions; once, after it has stored an object of ``where``, ``victim`` is ended."""
    loose = ignores_conditions(shop.server)
    over = threading.Event()

    def meddle(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        answer = loose(asked, forward)
        if asked.method == "PUT":
            puts.append((asked.key, asked.body))
            if f"/{where}/" in asked.key and not over.is_set():
                over.set()
                victim()
                raise HungUp
        return answer

    return meddle


@pytest.mark.parametrize("where", ["runs", "clusters", "manifests"])
def test_crash_and_retry_on_a_store_that_ignores_conditions(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, where: str
) -> None:
    """kill -9 of a real run right after the store took an object, then the same command again."""
    puts: list[tuple[str, bytes]] = []
    running: list[subprocess.Popen[str]] = []
    before = len(backup_ids(bbr, shop))
    with store_between(shop.server, killed_at(shop, where, lambda: running[0].kill(), puts)) as host:
        command = shop.backup(etcd, shop.where("minio", host))
        with started(*command) as process:
            running.append(process)
            assert finished(process).code == -9
        crashed = len(puts)
        assert crashed
        with started(*command) as retried:
            done = finished(retried)
        assert done.code == 0, done.err
    assert len(puts) > crashed
    names = [name for name, _ in puts]
    assert len(set(names)) == len(names)
    stored = shop.objects()
    assert all(stored[name] == body for name, body in puts)
    assert len(backup_ids(bbr, shop)) == before + (2 if where == "manifests" else 1)


@both
def test_answer_lost_on_a_store_that_ignores_conditions_changes_nothing(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str
) -> None:
    """The store took the part, the connection broke: the next try writes the same bytes."""
    puts: list[tuple[str, bytes]] = []
    with store_between(shop.server, killed_at(shop, "clusters", lambda: None, puts)) as host:
        done = bbr(*shop.backup(etcd, shop.where(kind, host)))
    assert done.code == 0, done.err
    twice = [name for name, _ in puts if [other for other, _ in puts].count(name) == 2]
    assert len(set(twice)) == 1
    assert len({body for name, body in puts if name == twice[0]}) == 1


CUT = {
    "minio": r"^bbr: reading clusters/prod/.*\b\d+ bytes read, \d+ more expected",
    "s3": r"^bbr: reading clusters/prod/\S+: it came cut, \d+ of [\d,]+ bytes\b",
}
"""How each SDK says that a body broke off."""


def reading(folder: str, change: Callable[[Answer], Answer]) -> Meddle:
    """A store that gives objects of ``folder`` back as ``change`` makes them."""

    def meddle(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        is_read = asked.method == "GET" and f"/{folder}/" in asked.key and answer.status == 200
        return change(answer) if is_read else answer

    return meddle


def wrong(answer: Answer) -> Answer:
    """Another body of the same length."""
    return Answer(answer.status, answer.headers, bytes([answer.body[0] ^ 1]) + answer.body[1:])


def shorter(answer: Answer) -> Answer:
    """Half of the body, and a header that agrees with it."""
    return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2])


def cut(answer: Answer) -> Answer:
    """Half of the body; the header promises all."""
    return Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2], promised=len(answer.body))


@both
@pytest.mark.parametrize(
    ("folder", "change"),
    [("clusters", wrong), ("clusters", shorter), ("manifests", wrong)],
    ids=["wrong-part", "shorter-part", "wrong-manifest"],
)
def test_wrong_body_at_the_read_back_is_exit_1(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str, folder: str, change: Callable[[Answer], Answer]
) -> None:
    """Only what this run writes comes back wrong. A manifest was put by then, and is whole: it is listed, and good."""
    known = set(shop.objects())

    def meddle(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        return forward() if asked.key in known else reading(folder, change)(asked, forward)

    manifests = 1 if folder == "manifests" else 0
    with unchanged(shop, manifests=manifests), store_between(shop.server, meddle) as host:
        ended = bbr(*shop.backup(etcd, shop.where(kind, host)))
    assert ended.code == 1, ended.err
    assert f"bbr: {folder}/prod/" in ended.err
    assert " was read back other than it was written\n" in ended.err
    assert "  hint: run `bbr doctor`: this store cannot be trusted\n" in ended.err


@both
def test_cut_body_at_the_read_back_is_exit_1(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    with unchanged(shop), store_between(shop.server, reading("clusters", cut)) as host:
        ended = bbr(*shop.backup(etcd, shop.where(kind, host)))
    assert ended.code == 1
    assert re.search(CUT[kind], ended.err, re.MULTILINE)


@both
@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (wrong, 4, " is not what its manifest names: its SHA-256 differs\n"),
        (shorter, 4, " bytes; its manifest says "),
        (cut, 1, ""),
    ],
    ids=["wrong", "shorter", "cut"],
)
def test_wrong_or_cut_part_is_never_restored(
    bbr: Bbr, shop: Shop, kind: str, change: Callable[[Answer], Answer], code: int, says: str, tmp_path: Path
) -> None:
    target = tmp_path / "to" / "etcd.db"
    target.parent.mkdir()
    with store_between(shop.server, reading("clusters", change)) as host:
        ended = bbr(*shop.restore(shop.where(kind, host), target))
    assert ended.code == code
    assert re.search(CUT[kind], ended.err, re.MULTILINE) if change is cut else says in ended.err
    assert list(target.parent.iterdir()) == []
    assert bbr(*shop.restore(shop.where(kind), target)).code == 0


@both
def test_slow_store_is_waited_for(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    def slowly(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        threading.Event().wait(READ_TIME_S / 5)
        return forward()

    with unchanged(shop, manifests=1), store_between(shop.server, slowly) as host:
        done = bbr(*shop.backup(etcd, shop.where(kind, host)))
    assert done.code == 0, done.err


@both
def test_store_that_does_not_answer_in_time_is_exit_1(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    """Parts are taken and never acknowledged: given up after the tries, and nothing is committed."""
    over = threading.Event()

    def never(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        if asked.method == "PUT" and "/clusters/" in asked.key:
            over.wait(30)
            raise HungUp
        return forward()

    with unchanged(shop), store_between(shop.server, never) as host:
        ended = bbr(*shop.backup(etcd, shop.where(kind, host)))
        over.set()
    assert ended.code == 1
    assert "bbr: writing clusters/prod/" in ended.err
    assert "timed out" in ended.err.lower() or "timeout" in ended.err.lower()
    assert "  hint: check that the store is reachable\n" in ended.err


def dropping(times: int) -> Meddle:
    """A store that hangs up so many times whenever an object or a listing is asked for."""
    seen: dict[str, int] = {}
    lock = threading.Lock()

    def meddle(asked: Asked, forward: Callable[[], Answer]) -> Answer:
        with lock:
            seen[asked.method + asked.target] = count = seen.get(asked.method + asked.target, 0) + 1
        if count <= times:
            raise HungUp
        return forward()

    return meddle


@both
def test_connections_dropped_twice_each_are_tried_again(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    with unchanged(shop, manifests=1), store_between(shop.server, dropping(2)) as host:
        done = bbr(*shop.backup(etcd, shop.where(kind, host)))
    assert done.code == 0, done.err


@both
def test_connections_dropped_for_ever_are_exit_1(bbr: Bbr, shop: Shop, etcd: EtcdServers, kind: str) -> None:
    with unchanged(shop), store_between(shop.server, dropping(1000)) as host:
        ended = check_every_command(
            bbr, shop, etcd, shop.where(kind, host), 1, "listing root/: ", doctor_says="writing probe/"
        )
    assert "  hint: check that the store is reachable\n" in ended.err
