"""Real etcd members: started, cut off, restarted, booted on what is there."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bbr.errors import EtcdTls, PreconditionFailed, ToolMissing
from bbr.etcd import write
from bbr.etcd.client import Credentials, EtcdClient
from bbr.servers.etcd import EtcdServers, boot_etcd, start_etcd
from tests.conftest import ETCD_VERSIONS, QUICK, program


@pytest.fixture(scope="module")
def three(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """Three members that show certificates."""
    with start_etcd(etcd_binary, tmp_path_factory.mktemp("three"), members=3, tls=True, flags=QUICK) as servers:
        yield servers


def value(servers: EtcdServers, key: bytes, index: int = 0) -> bytes:
    with servers.client(index) as client:
        return client.range(key).kvs[0].value


def index_of_leader(servers: EtcdServers) -> int:
    for index in range(len(servers.members)):
        with servers.client(index) as client:
            status = client.status()
        if status.leader_id == status.member_id:
            return index
    raise AssertionError("no member leads")


def is_listening(endpoint: str) -> bool:
    url = urlsplit(endpoint)
    with socket.socket() as ours:
        return ours.connect_ex((url.hostname, url.port)) == 0


@pytest.mark.parametrize("version", ETCD_VERSIONS)
def test_each_version_serves_and_says_which_it_is(version: str, search: tuple[Path, ...], tmp_path: Path) -> None:
    binary = program("etcd", search, version)
    with start_etcd(binary, tmp_path, flags=QUICK) as servers, servers.client() as client:
        assert client.status().version == version
        write.put(client, b"a", b"1")
        assert client.range(b"a").kvs[0].value == b"1"


def test_nothing_runs_after_the_context_and_data_and_log_stay(etcd_binary: Path, tmp_path: Path) -> None:
    with start_etcd(etcd_binary, tmp_path / "new" / "folder", flags=QUICK) as servers:
        member = servers.members[0]
        assert is_listening(member.endpoint)
        assert member.pid
    assert not is_listening(member.endpoint)
    assert (member.data_dir / "member" / "snap" / "db").exists()
    assert member.log.exists()


def test_killed_member_comes_back_with_its_data(small_etcd: EtcdServers) -> None:
    member = small_etcd.members[0]
    with small_etcd.client() as client:
        write.put(client, b"a", b"before")
    first = member.pid
    member.kill()
    assert not is_listening(member.endpoint)
    with pytest.raises(RuntimeError, match="m0 does not run"):
        _ = member.pid
    member.restart()
    assert member.pid != first
    assert value(small_etcd, b"a") == b"before"


def test_member_is_killed_and_restarted_again_and_again_under_a_client_that_keeps_calling(
    small_etcd: EtcdServers,
) -> None:
    member = small_etcd.members[0]
    with small_etcd.client() as client:
        for round_number in range(5):
            write.put(client, b"a", b"%d" % round_number)
            member.kill()
            member.restart()
            assert value(small_etcd, b"a") == b"%d" % round_number


def test_restart_of_a_running_member_ends_it_first(small_etcd: EtcdServers) -> None:
    member = small_etcd.members[0]
    first = member.pid
    member.restart()
    assert member.pid != first
    assert not Path(f"/proc/{first}").exists()


def test_three_members_form_one_cluster(three: EtcdServers) -> None:
    states = []
    for index in range(3):
        with three.client(index) as client:
            assert {member.name for member in client.members()} == {"m0", "m1", "m2"}
            states.append(client.status())
    assert len({state.member_id for state in states}) == 3
    assert len({(state.cluster_id, state.leader_id) for state in states}) == 1


def test_two_of_three_members_go_on_and_the_third_catches_up(three: EtcdServers) -> None:
    leader = index_of_leader(three)
    follower, other = (index for index in range(3) if index != leader)
    three.members[follower].kill()
    with three.client(other) as client:
        write.put(client, b"while", b"away")
    three.members[follower].restart()
    assert value(three, b"while", index=follower) == b"away"


def test_tls_member_refuses_a_client_without_a_certificate(three: EtcdServers) -> None:
    nobody = Credentials(ca=three.credentials.ca, certificate=None, key=None)
    with EtcdClient(three.endpoints[0], nobody) as client, pytest.raises(EtcdTls, match="client certificate"):
        client.status()


def test_tls_key_files_are_for_their_owner_only(three: EtcdServers) -> None:
    folder = three.members[0].data_dir.parent
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {0o600}
    assert ssl.create_default_context(cafile=str(folder / "ca.crt")).get_ca_certs()


def test_refused_setting_is_reported_with_what_etcd_says(etcd_binary: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(PreconditionFailed, match=r"etcd m0 ended with 1(?s:.*)no-such-mode"),
        start_etcd(etcd_binary, tmp_path, flags=["--auto-compaction-mode", "no-such-mode"]),
    ):
        pytest.fail("it started")


def test_missing_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="there is no program"), start_etcd(tmp_path / "etcd", tmp_path):
        pytest.fail("it started")


def test_settings_in_the_environment_are_not_obeyed(
    etcd_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_NAME", "from-the-shell")
    monkeypatch.setenv("ETCD_INITIAL_CLUSTER_TOKEN", "from-the-shell")
    with start_etcd(etcd_binary, tmp_path, flags=QUICK) as servers, servers.client() as client:
        assert [member.name for member in client.members()] == ["m0"]


def test_booted_member_serves_a_data_directory_that_is_there(
    etcd_binary: Path, small_etcd: EtcdServers, tmp_path: Path
) -> None:
    with small_etcd.client() as client:
        write.put(client, b"a", b"kept")
    small_etcd.members[0].stop()
    copy = tmp_path / "copy-3.6"
    shutil.copytree(small_etcd.members[0].data_dir, copy)
    with boot_etcd(etcd_binary, copy, name="m0", flags=QUICK) as member, member.client() as client:
        assert client.range(b"a").kvs[0].value == b"kept"
        assert member.log == tmp_path / "copy-3.6.log"
    assert not is_listening(member.endpoint)
