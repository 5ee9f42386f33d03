"""A store that ignores conditional writes: said, and nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable

import pytest

from bbr.servers.etcd import EtcdServers
from tests.bad_input.conftest import Bbr, finished, started
from tests.bad_input.stand_ins import Answer, Asked, HungUp, Meddle, ignores_conditions, store_between
from tests.bad_input.store.conftest import (
    Shop,
    backup_ids,
    both,
)


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
