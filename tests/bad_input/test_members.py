"""Members that are not at the same point: a backup is still taken, and what was seen is said and recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bbr.etcd import write
from bbr.etcd.client import EtcdClient, connect
from bbr.etcd.snapshot import Snapshot
from bbr.servers.etcd import PLAIN, EtcdServers, start_etcd
from tests.bad_input.conftest import Bbr, Host
from tests.bad_input.stand_ins import etcd_between
from tests.bad_input.test_etcd import check_restores
from tests.conftest import QUICK
from tests.making import left_behind


@pytest.fixture
def trio(etcd_binary: Path, tmp_path: Path) -> Iterator[EtcdServers]:
    """Three members with some revisions, all of them at the same one."""
    with start_etcd(etcd_binary, tmp_path / "trio", members=3, flags=QUICK) as servers:
        clients = connect(servers.endpoints, PLAIN)
        for number in range(30):
            newest = write.put(clients[0], b"/registry/pods/default/p", b"%d" % number)
        for client in clients:
            wait_until(lambda client=client: client.status().revision >= newest)  # type: ignore[misc]  # bound now
            client.close()
        yield servers


def wait_until(is_so: Callable[[], bool], *, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def leader_of(servers: EtcdServers) -> int:
    """The place of the member that leads."""
    with servers.client() as client:
        leader = client.status().leader_id
    for at, member in enumerate(servers.members):
        with member.client() as client:
            if client.status().member_id == leader:
                return at
    raise AssertionError("nobody leads")


def shown(bbr: Bbr, host: Host, cluster: str) -> Any:
    """What was recorded of the one etcd of the newest backup."""
    ended = bbr("show", "latest", *host.where(), "--cluster", cluster, "-o", "json")
    assert ended.code == 0, ended.err
    (etcd,) = json.loads(ended.out)["etcds"]
    return etcd


def test_lagging_member_is_said_recorded_and_never_the_source(
    bbr: Bbr, host: Host, trio: EtcdServers, etcd_binary: Path
) -> None:
    leader = leader_of(trio)
    late = next(at for at in range(3) if at != leader)
    trio.members[late].stop()
    with trio.client(leader) as client:
        newest = write.put(client, b"/registry/pods/default/p", b"what the late one does not have")
    with left_behind(trio.members[late], etcd_binary):
        ended = bbr(*host.backup(trio.endpoints, cluster="lagging"))
    assert ended.code == 0, ended.err
    behind = f"behind: at revision {newest - 1}, another member has {newest}"
    assert f"warning: member m{late} ({trio.endpoints[late]}) is {behind}\n" in ended.err
    etcd = shown(bbr, host, "lagging")
    assert etcd["compared"] is True
    assert etcd["revision"] == newest
    assert etcd["member_name"] != f"m{late}"
    notes = {
        member["name"]: (member["revision"], member["hash_kv"] is None, member["note"]) for member in etcd["members"]
    }
    assert notes.pop(f"m{late}") == (newest - 1, True, behind)
    assert set(notes.values()) == {(newest, False, "")}
    target = host.folder / "lagging.db"
    assert bbr(*host.restore("latest", "--cluster", "lagging", "--to-snapshot", target)).code == 0
    with Snapshot.open(target) as snapshot:
        assert snapshot.revision == newest
    check_restores(bbr, host)


class Compactor:
    """Compacts one revision further when a member is about to be asked for its HashKV, so many times."""

    def __init__(self, member: EtcdClient, times: int) -> None:
        self._member, self._times, self._compacted = member, times, 0

    def before(self, method: str) -> None:
        if method != "HashKV" or self._compacted >= self._times:
            return
        self._compacted += 1
        write.compact(self._member, self._compacted + 1)
        wait_until(lambda: self._member.hash_kv(0).compact_revision == self._compacted + 1)


@pytest.mark.parametrize("times", [1, 99], ids=["once", "every-time"])
def test_members_that_compact_at_different_moments(bbr: Bbr, host: Host, trio: EtcdServers, times: int) -> None:
    """The leader is asked last, and has compacted since the others were asked: their hashes cannot be compared."""
    leader = leader_of(trio)
    with ExitStack() as opened:
        compactor = Compactor(opened.enter_context(trio.client(leader)), times)
        endpoints = list(trio.endpoints)
        endpoints[leader] = opened.enter_context(etcd_between(endpoints[leader], before=compactor.before))
        ended = bbr(*host.backup(endpoints, cluster="compacting"))
    assert ended.code == 0, ended.err
    assert "hold different data" not in ended.err
    etcd = shown(bbr, host, "compacting")
    compacted = {member["name"]: member["compact_revision"] for member in etcd["members"]}
    if times == 1:
        assert etcd["compared"] is True
        assert etcd["not_compared_because"] == ""
        assert set(compacted.values()) == {2}
        assert len({member["hash_kv"] for member in etcd["members"]}) == 1
        assert "equal on all members asked" in ended.out
    else:
        because = "members compacted meanwhile, 4 times in a row"
        assert etcd["compared"] is False
        assert etcd["not_compared_because"] == because
        assert f"(not compared: {because})" in ended.out
        assert compacted[f"m{leader}"] == 5
    check_restores(bbr, host)
