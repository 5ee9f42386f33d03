"""Captures of real clusters: whole ones of every version, and every way in which members are missing, late or wrong."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bbr.capture.etcd import Capture, capture_etcd
from bbr.errors import EtcdUnauthorized, EtcdUnavailable, MembersDisagree, NoSpace, UsageError
from bbr.etcd import write
from bbr.etcd.client import Credentials, EtcdClient, connect
from bbr.etcd.snapshot import Snapshot
from bbr.progress import Silent
from bbr.servers.etcd import PLAIN, EtcdServers, Member, start_etcd
from tests.conftest import ETCD_VERSIONS, QUICK, program
from tests.etcd.conftest import etcdctl
from tests.making import left_behind

UID = "3f0d5c1e-7a3b-4f7e-9d55-0a2f7f6c9b11"


@dataclass
class Listener(Silent):
    """A person who notes what is said, and may do something when bytes arrive."""

    warnings: list[str] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)
    on_advance: Callable[[int], None] = lambda _: None

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        self.done.append((done_bytes, total_bytes))
        self.on_advance(done_bytes)

    def warn(self, what: str) -> None:
        self.warnings.append(what)


def capture(
    clients: Sequence[EtcdClient], spool: Path, *, compare: bool = True, accept_disagreement: bool = False
) -> Capture:
    return capture_etcd(clients, spool, compare=compare, accept_disagreement=accept_disagreement, progress=Listener())


def check_is_snapshot(path: Path) -> None:
    whole = path.read_bytes()
    assert hashlib.sha256(whole[:-32]).digest() == whole[-32:]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def wait_for(is_so: Callable[[], bool], *, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_all(clients: Sequence[EtcdClient], revision: int) -> None:
    wait_for(lambda: all(client.status().revision >= revision for client in clients))


def followers(clients: Sequence[EtcdClient]) -> list[int]:
    """The places of those that do not lead."""
    return [at for at, client in enumerate(clients) if client.status().leader_id != client.status().member_id]


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_a_whole_cluster_is_compared_and_a_follower_streams(
    version: str, search: tuple[Path, ...], tmp_path: Path
) -> None:
    binary = program("etcd", search, version)
    with start_etcd(binary, tmp_path / "etcd", members=3, tls=True, flags=QUICK) as servers:
        clients = connect(servers.endpoints, servers.credentials)
        write.put(clients[0], b"/registry/namespaces/kube-system", b'{"metadata": {"uid": "%s"}}' % UID.encode())
        revision = write.put(clients[0], b"key", b"value")
        write.compact(clients[0], revision - 1)
        listener = Listener()
        seen = capture_etcd(clients, tmp_path / "spool.db", progress=listener)
        leader = f"{clients[0].status().leader_id:x}"
        check_is_snapshot(seen.snapshot_path)
        assert seen.compared
        assert (seen.problems, seen.warnings, seen.alarms, seen.not_compared_because) == ((), (), (), "")
        assert seen.source.id != leader
        assert seen.version == version
        assert seen.cluster_id == f"{clients[0].status().cluster_id:x}"
        assert seen.cluster_uid == UID
        assert {member.name for member in seen.members} == {"m0", "m1", "m2"}
        assert {member.endpoint for member in seen.members} == set(servers.endpoints)
        assert len({member.hash_kv for member in seen.members}) == 1
        assert {(member.revision, member.compact_revision) for member in seen.members} == {(revision, revision - 1)}
        assert listener.done[-1] == (seen.snapshot_path.stat().st_size,) * 2
        with Snapshot.open(seen.snapshot_path) as snapshot:
            assert snapshot.revision == revision
        for client in clients:
            client.close()


def test_members_that_no_endpoint_names_are_found_and_compared(clients: tuple[EtcdClient, ...], tmp_path: Path) -> None:
    seen = capture(clients[:1], tmp_path / "spool.db")
    assert seen.source.endpoint == clients[0].endpoint
    assert seen.compared
    assert len({member.hash_kv for member in seen.members}) == 1
    assert len(seen.members) == 3


def test_two_endpoints_of_one_member_are_one_member(small_etcd: EtcdServers, tmp_path: Path) -> None:
    again = small_etcd.endpoints[0].replace("127.0.0.1", "localhost")
    clients = connect([*small_etcd.endpoints, again], PLAIN)
    seen = capture(clients, tmp_path / "spool.db")
    assert [member.endpoint for member in seen.members] == list(small_etcd.endpoints)
    assert seen.compared
    for client in clients:
        client.close()


def test_endpoints_of_two_clusters_are_refused(
    small_etcd: EtcdServers, module_etcd: EtcdServers, tmp_path: Path
) -> None:
    clients = connect([*small_etcd.endpoints, *module_etcd.endpoints], PLAIN)
    with pytest.raises(UsageError, match="different etcd clusters"):
        capture(clients, tmp_path / "spool.db")
    assert not (tmp_path / "spool.db").exists()


def test_comparison_can_be_switched_off(clients: tuple[EtcdClient, ...], tmp_path: Path) -> None:
    seen = capture(clients, tmp_path / "spool.db", compare=False)
    assert not seen.compared
    assert seen.not_compared_because == "comparison was switched off"
    assert {member.hash_kv for member in seen.members} == {None}
    check_is_snapshot(seen.snapshot_path)


def test_a_spool_that_exists_is_not_written_over(module_etcd: EtcdServers, tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_text("precious")
    with module_etcd.client() as client, pytest.raises(FileExistsError):
        capture([client], tmp_path / "spool.db")
    assert (tmp_path / "spool.db").read_text() == "precious"


def test_a_member_that_is_down_is_a_warning_and_the_rest_is_compared(
    trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    trio.members[2].kill()
    wait_for(lambda: clients[0].status().leader_id != 0)
    seen = capture(clients, tmp_path / "spool.db")
    assert seen.compared
    assert seen.problems == ()
    (warning,) = [text for text in seen.warnings if "did not answer" in text]
    assert "m2" in warning
    assert trio.endpoints[2] in warning
    (down,) = [member for member in seen.members if member.name == "m2"]
    assert "did not answer" in down.note
    assert down.hash_kv is None


def test_a_cluster_without_quorum_is_still_backed_up(
    trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    revision = write.put(clients[0], b"key", b"value")
    wait_for_all(clients, revision)
    trio.members[1].kill()
    trio.members[2].kill()
    wait_for(lambda: clients[0].status().leader_id == 0)
    seen = capture(clients, tmp_path / "spool.db")
    assert any("lost its quorum" in warning for warning in seen.warnings)
    assert not seen.compared
    assert "only 1 of 3" in seen.not_compared_because
    with Snapshot.open(seen.snapshot_path) as snapshot:
        assert snapshot.revision == revision


def test_nobody_answering_names_every_endpoint(
    trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    for member in trio.members:
        member.kill()
    with pytest.raises(EtcdUnavailable) as caught:
        capture(clients, tmp_path / "spool.db")
    assert all(endpoint in str(caught.value) for endpoint in trio.endpoints)
    assert not (tmp_path / "spool.db").exists()


def test_a_member_that_lags_is_said_and_never_the_source(etcd_binary: Path, tmp_path: Path) -> None:
    with start_etcd(etcd_binary, tmp_path / "etcd", members=3, flags=QUICK) as servers:
        clients = connect(servers.endpoints, PLAIN)
        wait_for_all(clients, write.put(clients[0], b"key", b"old"))
        late, other = followers(clients)
        servers.members[late].stop()
        newest = write.put(clients[other], b"key", b"new")
        with left_behind(servers.members[late], etcd_binary):
            seen = capture(clients, tmp_path / "spool.db")
            assert seen.compared
            assert seen.source.endpoint != servers.endpoints[late]
            assert seen.source.revision == newest
            assert any(f"behind: at revision {newest - 1}" in warning for warning in seen.warnings)
            (behind,) = [member for member in seen.members if member.note]
            assert (behind.endpoint, behind.hash_kv) == (servers.endpoints[late], None)
        for client in clients:
            client.close()


def test_members_that_compact_at_different_moments_are_asked_again(
    clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    over = threading.Event()

    def compact_all_the_time() -> None:
        while not over.wait(0.03):
            newest = write.put(clients[0], b"busy", b"value")
            write.compact(clients[0], newest - 5, physical=False)

    for number in range(10):
        write.put(clients[0], b"busy", b"%d" % number)
    thread = threading.Thread(target=compact_all_the_time)
    thread.start()
    try:
        for attempt in range(5):
            seen = capture(clients, tmp_path / f"{attempt}.db")
            assert seen.compared or "compacted meanwhile" in seen.not_compared_because
            assert len({member.hash_kv for member in seen.members}) == 1 or not seen.compared
            check_is_snapshot(seen.snapshot_path)
    finally:
        over.set()
        thread.join()


def tamper(member: Member, old: bytes, new: bytes) -> None:
    """Change a value in the member's stopped database, in place."""
    member.stop()
    database = member.data_dir / "member/snap/db"
    body = database.read_bytes()
    assert old in body
    database.write_bytes(body.replace(old, new))
    member.restart()


def test_a_member_with_other_data_stops_the_backup_until_that_is_accepted(
    trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    wait_for_all(clients, write.put(clients[0], b"key", b"true and agreed upon"))
    wrong, *_ = followers(clients)
    tamper(trio.members[wrong], b"true and agreed upon", b"true and agreed open")
    with pytest.raises(MembersDisagree, match="hold different data") as caught:
        capture(clients, tmp_path / "spool.db")
    assert all(endpoint in str(caught.value) for endpoint in trio.endpoints)
    assert "--accept-disagreement" in caught.value.hint
    assert not (tmp_path / "spool.db").exists()

    seen = capture(clients, tmp_path / "accepted.db", accept_disagreement=True)
    assert seen.source.endpoint != trio.endpoints[wrong]
    assert any("hold different data" in problem for problem in seen.problems)
    (odd,) = [member for member in seen.members if member.note]
    assert odd.endpoint == trio.endpoints[wrong]
    assert b"true and agreed upon" in seen.snapshot_path.read_bytes()


def test_only_the_wrong_member_given_is_taken_when_accepted_and_said(
    trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    wait_for_all(clients, write.put(clients[0], b"key", b"true and agreed upon"))
    wrong, *_ = followers(clients)
    tamper(trio.members[wrong], b"true and agreed upon", b"true and agreed open")
    seen = capture([clients[wrong]], tmp_path / "spool.db", accept_disagreement=True)
    assert seen.source.endpoint == trio.endpoints[wrong]
    assert "differs" in seen.source.note
    assert seen.problems


def test_corrupt_alarm_stops_the_backup_until_that_is_accepted(clients: tuple[EtcdClient, ...], tmp_path: Path) -> None:
    doubted, *_ = followers(clients)
    write.raise_alarm(clients[0], clients[doubted].status().member_id, "CORRUPT")
    with pytest.raises(MembersDisagree, match=f"CORRUPT about member m{doubted}"):
        capture(clients, tmp_path / "spool.db")
    seen = capture(clients, tmp_path / "spool.db", accept_disagreement=True)
    assert seen.source.endpoint != clients[doubted].endpoint
    assert any("CORRUPT" in problem for problem in seen.problems)
    assert [alarm.split()[0] for alarm in seen.alarms] == ["CORRUPT"]
    check_is_snapshot(seen.snapshot_path)


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_nospace_alarm_is_a_warning(version: str, search: tuple[Path, ...], tmp_path: Path) -> None:
    binary = program("etcd", search, version)
    flags = [*QUICK, "--quota-backend-bytes", "3000000"]
    with start_etcd(binary, tmp_path / "etcd", flags=flags) as servers, servers.client() as client:
        with pytest.raises(Exception, match="space exceeded"):
            for number in range(100):
                write.put(client, b"/fill/%d" % number, bytes(500_000))
        seen = capture([client], tmp_path / "spool.db")
        assert [alarm.split()[0] for alarm in seen.alarms] == ["NOSPACE"]
        assert any("NOSPACE" in warning for warning in seen.warnings)
        assert seen.problems == ()
        check_is_snapshot(seen.snapshot_path)


def test_alarms_are_known_without_a_quorum(trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path) -> None:
    write.raise_alarm(clients[0], clients[1].status().member_id, "NOSPACE")
    wait_for(lambda: all(client.status().errors for client in clients))
    trio.members[1].kill()
    trio.members[2].kill()
    wait_for(lambda: clients[0].status().leader_id == 0)
    seen = capture(clients, tmp_path / "spool.db")
    assert [alarm.split()[0] for alarm in seen.alarms] == ["NOSPACE"]


def test_a_source_that_dies_in_mid_stream_is_replaced_by_another(
    trio: EtcdServers, clients: tuple[EtcdClient, ...], tmp_path: Path
) -> None:
    for number in range(60):
        write.put(clients[0], b"/large/%d" % number, os.urandom(1_000_000))
    wait_for_all(clients, clients[0].status().revision)
    first, _ = followers(clients)

    def kill_the_first(done_bytes: int) -> None:
        trio.members[first].kill()

    listener = Listener(on_advance=kill_the_first)
    seen = capture_etcd(clients, tmp_path / "spool.db", progress=listener)
    assert seen.source.endpoint != trio.endpoints[first]
    assert any("failed, another was taken" in warning for warning in seen.warnings)
    assert any("failed, another was taken" in warning for warning in listener.warnings)
    check_is_snapshot(seen.snapshot_path)


def test_the_only_source_dying_in_mid_stream_leaves_nothing(small_etcd: EtcdServers, tmp_path: Path) -> None:
    with small_etcd.client() as client:
        for number in range(60):
            write.put(client, b"/large/%d" % number, os.urandom(1_000_000))

        def kill(done_bytes: int) -> None:
            small_etcd.members[0].kill()

        with pytest.raises(EtcdUnavailable, match=small_etcd.endpoints[0]):
            capture_etcd([client], tmp_path / "spool.db", progress=Listener(on_advance=kill))
    assert not (tmp_path / "spool.db").exists()


def test_a_disk_that_is_too_small_is_told_before_the_stream(module_etcd: EtcdServers, small_disk: Path) -> None:
    with module_etcd.client() as client, pytest.raises(NoSpace, match="are free"):
        capture([client], small_disk / "spool.db")
    assert not (small_disk / "spool.db").exists()


def test_credentials_that_are_not_let_in_are_refused(
    small_etcd: EtcdServers, etcdctl_binary: Path, tmp_path: Path
) -> None:
    endpoint = small_etcd.endpoints[0]
    for words in (["user", "add", "root:secret"], ["user", "grant-role", "root", "root"], ["auth", "enable"]):
        etcdctl(etcdctl_binary, endpoint, tmp_path, PLAIN, *words)
    with EtcdClient(endpoint, PLAIN) as client, pytest.raises(EtcdUnauthorized):
        capture([client], tmp_path / "spool.db")
    with EtcdClient(endpoint, Credentials(username="root", password="secret")) as client:
        check_is_snapshot(capture([client], tmp_path / "spool.db").snapshot_path)
