"""What `bbr verify` says about one backup and about all, when something is wrong somewhere."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from bbr.servers.etcd import EtcdServers
from tests.bad_input.conftest import Bbr, Ended, Host


def identifiers(bbr: Bbr, host: Host) -> list[str]:
    return [one["id"] for one in json.loads(bbr("list", *host.where(), "-o", "json").out)["backups"]]


def newest_manifest(host: Host) -> Path:
    return max(host.objects("manifests/prod/*/*.manifest"), key=lambda path: path.stat().st_mtime_ns)


def verify(bbr: Bbr, host: Host, *words: str) -> Ended:
    return bbr("verify", *words, *host.where())


def test_a_cluster_that_has_no_backup_is_no_pass(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    assert bbr(*host.backup(etcd.endpoints)).code == 0
    ended = verify(bbr, host, "--cluster", "prodd")
    assert ended.code == 2
    assert "bbr: there is no backup of cluster prodd here, so nothing was verified" in ended.err
    assert verify(bbr, host, "--cluster", "prod").code == 0


def test_the_newest_backup_dropped_from_the_store_is_exit_4_and_the_next_backup_names_it(
    bbr: Bbr, host: Host, etcd: EtcdServers
) -> None:
    for _ in range(2):
        assert bbr(*host.backup(etcd.endpoints)).code == 0
    dropped = newest_manifest(host)
    dropped.unlink()
    ended = verify(bbr, host)
    assert ended.code == 4
    assert f"{dropped.relative_to(host.repository)}: was the newest backup of writer" in ended.out
    assert "is gone from the store" in bbr("list", *host.where()).err
    again = bbr(*host.backup(etcd.endpoints))
    assert again.code == 0
    assert "is gone from the store" in again.err
    # Now every host learns of it, also one that never saw what was dropped.
    shutil.rmtree(host.folder / "state")
    elsewhere = verify(bbr, host)
    assert elsewhere.code == 4
    assert "is gone" in elsewhere.out


def test_everything_dropped_from_the_store_is_exit_4(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    assert bbr(*host.backup(etcd.endpoints)).code == 0
    shutil.rmtree(host.repository / "manifests")
    shutil.rmtree(host.repository / "clusters")
    ended = verify(bbr, host)
    assert ended.code == 4
    assert "is gone from the store" in ended.out


def test_a_good_backup_is_not_failed_by_another_one(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    for _ in range(2):
        assert bbr(*host.backup(etcd.endpoints), "--new-generation").code == 0
    *_, good, bad = identifiers(bbr, host)
    newest_manifest(host).write_bytes(b"{}")
    assert bad not in identifiers(bbr, host)
    ended = verify(bbr, host, good)
    assert ended.code == 0, ended.out
    assert "1 findings about others, which `bbr list` shows" in ended.out
    assert verify(bbr, host).code == 4
    assert verify(bbr, host, bad).code == 2


def test_a_revocation_is_moved_back_and_never_into_the_future(bbr: Bbr, host: Host, etcd: EtcdServers) -> None:
    assert bbr(*host.backup(etcd.endpoints)).code == 0
    (label,) = (one["label"] for one in json.loads(bbr("writer", "list", *host.where(), "-o", "json").out)["writers"])
    revoke = ["writer", "revoke", label, *host.where(), "--identity", str(host.identity)]
    future = bbr(*revoke, "--at", "2206-01-02T03:04:05Z")
    assert future.code == 2
    assert "bbr: 2206-01-02 03:04:05 UTC has not come yet" in future.err
    time.sleep(1)  # what is signed in the second of the revocation is not believed
    assert bbr(*revoke).code == 0
    assert identifiers(bbr, host)
    assert bbr(*revoke, "--at", "2026-01-01T00:00:00Z").code == 0
    assert identifiers(bbr, host) == []
    late = bbr(*revoke)
    assert late.code == 2
    assert "was revoked at 2026-01-01 00:00 UTC already" in late.err
