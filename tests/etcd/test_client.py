"""The client against real etcd: what it asks, what it streams, and what it makes of every way to fail."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from bbr.errors import EtcdCompacted, EtcdError, EtcdUnauthorized, EtcdUnavailable, UsageError
from bbr.etcd import write
from bbr.etcd.client import Credentials, EtcdClient, connect
from bbr.servers.certificates import Authority
from bbr.servers.etcd import PLAIN, EtcdServers, start_etcd
from bbr.servers.ports import free_ports
from tests.conftest import ETCD_VERSIONS, QUICK, program
from tests.etcd.conftest import Serve, etcdctl, with_client

SHORT = timedelta(seconds=1)


@pytest.fixture(scope="module")
def client(module_etcd: EtcdServers) -> Iterator[EtcdClient]:
    with module_etcd.client() as client:
        yield client


@pytest.fixture(scope="module")
def trio(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """Three members that show certificates and want them."""
    with start_etcd(etcd_binary, tmp_path_factory.mktemp("trio"), members=3, tls=True, flags=QUICK) as servers:
        yield servers


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_every_version_answers_every_question(version: str, search: tuple[Path, ...], tmp_path: Path) -> None:
    with (
        start_etcd(program("etcd", search, version), tmp_path / "etcd", flags=QUICK) as servers,
        servers.client() as client,
    ):
        write.put(client, b"key", b"old")
        write.compact(client, 2)
        write.put(client, b"key", b"value")
        status = client.status()
        assert status.version == version
        assert status.revision == 3
        assert status.leader_id == status.member_id
        assert status.db_size_bytes >= status.db_in_use_bytes > 0
        # A new member raises its storage version a moment after it begins to serve.
        storage = "" if version.startswith("3.5") else f"{version[:3]}.0"
        wait_for(lambda: client.status().storage_version == storage)
        (member,) = client.members()
        assert (member.id, member.name, member.client_urls) == (status.member_id, "m0", servers.endpoints)
        assert client.alarms() == ()
        answer = client.hash_kv(3)
        assert (answer.compact_revision, answer.revision) == (2, 3)
        assert [(one.key, one.value, one.version) for one in client.range(b"key").kvs] == [(b"key", b"value", 2)]
        check_is_snapshot(b"".join(client.snapshot()))


def check_is_snapshot(whole: bytes) -> None:
    assert len(whole) % 512 == 32
    assert hashlib.sha256(whole[:-32]).digest() == whole[-32:]


def test_members_behind_tls_agree_and_name_each_other(trio: EtcdServers) -> None:
    with trio.client() as first:
        revision = write.put(first, b"key", b"value")
    clients = connect(trio.endpoints, trio.credentials)
    hashes = set()
    for client in clients:
        with client:
            wait_for(partial(has_reached, client, revision))
            hashes.add(client.hash_kv(revision).hash)
            assert {url for member in client.members() for url in member.client_urls} == set(trio.endpoints)
            check_is_snapshot(b"".join(client.snapshot()))
    assert len(hashes) == 1


def has_reached(client: EtcdClient, revision: int) -> bool:
    return client.status().revision >= revision


def wait_for(is_so: Callable[[], bool], *, limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_pages_of_a_range_are_in_order_and_read_at_one_revision(client: EtcdClient) -> None:
    revision = write.txn(client, {b"/page/%d" % number: b"old" for number in range(10)})
    write.put(client, b"/page/3", b"new")
    page = client.range(b"/page/", b"/page0", revision=revision, limit=4)
    assert [one.key for one in page.kvs] == [b"/page/0", b"/page/1", b"/page/2", b"/page/3"]
    assert {one.value for one in page.kvs} == {b"old"}
    assert (page.count, page.more) == (10, True)
    rest = client.range(b"/page/3\0", b"/page0", keys_only=True, serializable=True)
    assert [(one.key, one.value) for one in rest.kvs] == [(b"/page/%d" % number, b"") for number in range(4, 10)]
    assert not rest.more
    assert client.range(b"/nothing").kvs == ()


def test_an_answer_of_twenty_mib_is_taken(client: EtcdClient) -> None:
    for number in range(20):
        write.put(client, b"/large/%d" % number, os.urandom(1 << 20))
    assert sum(len(one.value) for one in client.range(b"/large/", b"/large0").kvs) == 20 << 20


def test_a_compacted_revision_is_told_apart_from_one_to_come(client: EtcdClient) -> None:
    for _ in range(3):
        newest = write.put(client, b"compacted", b"value")
    write.compact(client, newest)
    with pytest.raises(EtcdCompacted, match="compacted"):
        client.range(b"compacted", revision=newest - 1)
    with pytest.raises(EtcdCompacted):
        client.hash_kv(newest - 2)
    with pytest.raises(EtcdUnavailable, match="future revision"):
        client.hash_kv(newest + 1000)


def test_nobody_listening_is_unavailable_and_named() -> None:
    (port,) = free_ports(1)
    with EtcdClient(f"http://127.0.0.1:{port}", PLAIN) as client, pytest.raises(EtcdUnavailable) as caught:
        client.status()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert caught.value.retry_may_help


def test_a_peer_that_says_nothing_costs_no_more_than_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with EtcdClient(endpoint, PLAIN, timeout=SHORT) as client, pytest.raises(EtcdUnavailable, match="in time"):
            client.status()
    assert time.monotonic() - started < 10


def test_a_peer_that_is_no_etcd_is_unavailable_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"http://127.0.0.1:{other.getsockname()[1]}"
        other.settimeout(5)
        with EtcdClient(endpoint, PLAIN, timeout=SHORT) as client, pytest.raises(EtcdUnavailable) as caught:
            stopped = _answer_once(other, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            try:
                client.status()
            finally:
                stopped()
    assert endpoint in str(caught.value)


def _answer_once(server: socket.socket, answer: bytes) -> Callable[[], None]:
    """Answers every connection with that and hangs up, in a thread, until it is stopped."""
    over = threading.Event()

    def serve() -> None:
        server.settimeout(0.05)
        while not over.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()

    def stop() -> None:
        over.set()
        thread.join()

    return stop


def test_proxy_variables_are_ignored(module_etcd: EtcdServers, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with module_etcd.client() as client:
        assert client.status().leader_id


def test_a_restarted_member_is_found_again_by_the_same_client(small_etcd: EtcdServers) -> None:
    (member,) = small_etcd.members
    with small_etcd.client() as client:
        revision = write.put(client, b"key", b"value")
        member.kill()
        with pytest.raises(EtcdUnavailable):
            client.status()
        member.restart()
        wait_for(lambda: answers(client))
        assert client.status().revision == revision


def answers(client: EtcdClient) -> bool:
    try:
        return client.status().leader_id != 0
    except EtcdUnavailable:
        return False


@pytest.fixture
def large_etcd(etcd_binary: Path, tmp_path: Path) -> Iterator[EtcdServers]:
    """One member with 60 MB: more than fits between a server and a client that does not read."""
    with start_etcd(etcd_binary, tmp_path / "large", flags=QUICK) as servers:
        with servers.client() as client:
            for number in range(60):
                write.put(client, b"/large/%d" % number, os.urandom(1_000_000))
        yield servers


def test_a_member_killed_in_mid_stream_breaks_the_stream(large_etcd: EtcdServers) -> None:
    with large_etcd.client() as client:
        stream = client.snapshot()
        next(stream)
        large_etcd.members[0].kill()
        with pytest.raises(EtcdUnavailable, match=r"Snapshot: (?!no )"):
            for _ in stream:
                pass


def test_a_stream_that_stands_still_is_given_up(large_etcd: EtcdServers) -> None:
    pid = large_etcd.members[0].pid
    with large_etcd.client() as client:
        stream = client.snapshot(stall_time=timedelta(seconds=0.5))
        next(stream)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(EtcdUnavailable, match="stood still"):
                for _ in stream:
                    pass
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_slow_reader_is_not_a_stream_that_stands_still(large_etcd: EtcdServers) -> None:
    with large_etcd.client() as client:
        stream = client.snapshot(stall_time=timedelta(seconds=0.2))
        whole = bytearray(next(stream))
        resume = time.monotonic() + 1
        wait_for(lambda: time.monotonic() > resume)
        for blob in stream:
            whole += blob
    check_is_snapshot(bytes(whole))


def test_a_stream_that_is_left_leaves_the_client_usable(large_etcd: EtcdServers) -> None:
    with large_etcd.client() as client:
        stream = client.snapshot()
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert client.status().leader_id
        check_is_snapshot(b"".join(client.snapshot()))


def test_users_are_known_by_certificate_or_password(serve: Serve, etcdctl_binary: Path, tmp_path: Path) -> None:
    authority = Authority("authority")
    root, nobody = authority.issue("root"), authority.issue("nobody")
    with serve(authority, authority.issue("etcd")) as endpoint:
        ctl_words = (
            ["user", "add", "root:secret"],
            ["user", "grant-role", "root", "root"],
            ["user", "add", "eve:word"],
        )
        for words in (*ctl_words, ["auth", "enable"]):
            etcdctl(etcdctl_binary, endpoint, tmp_path, with_client(authority, root), *words)
        good = [with_client(authority, root), with_client(authority, nobody, username="root", password="secret")]
        for credentials in good:
            with EtcdClient(endpoint, credentials) as client:
                check_is_snapshot(b"".join(client.snapshot()))
                assert client.hash_kv(0).revision == 1
        bad = [
            with_client(authority, nobody),
            with_client(authority, nobody, username="eve", password="word"),
            with_client(authority, nobody, username="root", password="wrong"),
        ]
        for credentials in bad:
            with EtcdClient(endpoint, credentials) as client:
                with pytest.raises(EtcdUnauthorized, match=endpoint) as caught:
                    next(client.snapshot())
                assert "root role" in caught.value.hint
                with pytest.raises(EtcdUnauthorized):
                    client.hash_kv(0)
                with pytest.raises(EtcdUnauthorized):
                    client.range(b"key")


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_a_token_that_etcd_has_forgotten_is_renewed(version: str, search: tuple[Path, ...], tmp_path: Path) -> None:
    binary = program("etcd", search, version)
    with start_etcd(binary, tmp_path / "etcd", flags=QUICK) as servers:
        endpoint = servers.endpoints[0]
        ctl = program("etcdctl", search, version)
        with EtcdClient(endpoint, Credentials(username="root", password="secret")) as client:
            assert client.range(b"key").kvs == ()
            for words in (["user", "add", "root:secret"], ["user", "grant-role", "root", "root"], ["auth", "enable"]):
                etcdctl(ctl, endpoint, tmp_path, PLAIN, *words)
            with pytest.raises(EtcdUnauthorized):
                next(EtcdClient(endpoint, PLAIN).snapshot())
            write.put(client, b"key", b"value")
            servers.members[0].kill()
            servers.members[0].start()
            wait_for(lambda: answers(client))
            assert client.hash_kv(0).hash
            servers.members[0].kill()
            servers.members[0].start()
            wait_for(lambda: answers(client))
            check_is_snapshot(b"".join(client.snapshot()))


def test_a_sibling_has_the_same_credentials_and_never_less_security(trio: EtcdServers) -> None:
    with trio.client() as client:
        with client.sibling(trio.endpoints[1]) as sibling:
            assert sibling.status().member_id != client.status().member_id
        with pytest.raises(UsageError, match="http"):
            client.sibling(trio.endpoints[1].replace("https", "http"))
    by_password = Credentials(username="root", password="secret")
    with (
        EtcdClient("https://etcd.example:2379", by_password) as client,
        pytest.raises(UsageError, match="without TLS"),
    ):
        client.sibling("http://etcd.example:2379")


def test_endpoints_are_taken_once_and_there_has_to_be_one() -> None:
    endpoints = ["http://a:1", "http://b:1", "http://a:1"]
    clients = connect(endpoints, PLAIN)
    assert [client.endpoint for client in clients] == ["http://a:1", "http://b:1"]
    for client in clients:
        client.close()
        client.close()
    with pytest.raises(UsageError):
        connect([], PLAIN)


def test_a_call_that_etcd_refuses_is_an_error_with_its_words(client: EtcdClient) -> None:
    with pytest.raises(EtcdError, match="etcdserver: key is not provided") as caught:
        write.put(client, b"", b"value")
    assert not caught.value.retry_may_help
    assert client.endpoint in str(caught.value)
