"""A store whose answers are wrong, cut, slow or lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bbr.servers.etcd import EtcdServers
from tests.bad_input.conftest import Bbr
from tests.bad_input.stand_ins import Answer, Asked, HungUp, Meddle, store_between
from tests.bad_input.store.conftest import (
    READ_TIME_S,
    Shop,
    both,
    check_every_command,
    unchanged,
)

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
