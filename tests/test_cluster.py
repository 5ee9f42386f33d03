"""Clusters as they run: three members with mTLS, writes that never stop, other page sizes, two etcds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bbr.errors import EtcdError, PartialBackup
from bbr.etcd import write
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import Etcdutl, find_etcdutl
from bbr.progress import Silent
from bbr.servers.etcd import EtcdServers, boot_etcd, start_etcd
from bbr.stores.memory import MemoryStore
from bbr.verify import BootTools, verify_readable
from tests.conftest import DEFAULT_ETCD, QUICK
from tests.making import churn, make_site, source

CYCLES = 50
KEPT_REVISIONS = 60
"""What a compaction leaves: more than is written while one backup reads, so that its revision can be asked for."""
COMPACT_EVERY = 5
"""Transactions from one compaction to the next: several during each backup."""
PEER = "http://127.0.0.1:2380"


@pytest.fixture(scope="module")
def three(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """Three members that show one another certificates, and want ours."""
    with start_etcd(etcd_binary, tmp_path_factory.mktemp("three"), members=3, tls=True, flags=QUICK) as servers:
        with servers.client() as client:
            churn(client, 1)
        yield servers


@pytest.mark.parametrize("given", [1, 3])
def test_three_members_with_mtls_are_compared_whichever_are_named(
    three: EtcdServers, tmp_path: Path, given: int
) -> None:
    site = make_site(MemoryStore(), tmp_path)
    outcome = site.backup(source(three.endpoints[:given], three.credentials))
    entry = outcome.backup.manifest.etcd("main")
    assert entry.compared
    assert len(entry.members) == 3
    assert {member.hash_kv for member in entry.members} == {entry.hash_kv}
    assert site.rebuild(outcome.backup, tmp_path / "x.db").hash_kv == entry.hash_kv


@contextmanager
def never_still(servers: EtcdServers) -> Iterator[None]:
    """Writes, deletions and compactions from another thread until the context ends."""
    over = threading.Event()
    problems: list[Exception] = []

    def work() -> None:
        try:
            with servers.client() as client:
                for number in range(100_000):
                    # Some hundred transactions a second: busy, and the machine is left to those who back it up.
                    if over.wait(0.005):
                        break
                    names = [b"/registry/pods/d/%d" % ((number * 7 + at) % 900) for at in range(40)]
                    revision = write.txn(client, dict.fromkeys(names[:35], b"%d " % number * 99), names[35:])
                    if number % COMPACT_EVERY == 0 and revision > KEPT_REVISIONS + 1:
                        # As kube-apiserver does it, some time behind, and nobody waits until it is finished.
                        write.compact(client, revision - KEPT_REVISIONS, physical=False)
        except EtcdError as err:
            problems.append(err)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert problems == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_cycles_under_write_load_and_compaction_restore_what_the_server_had(
    small_etcd: EtcdServers, etcd_binary: Path, tmp_path: Path
) -> None:
    site = make_site(MemoryStore(), tmp_path)
    kinds: list[str] = []
    with never_still(small_etcd):
        for cycle in range(CYCLES):
            outcome = site.backup(source(small_etcd.endpoints))
            entry = outcome.backup.manifest.etcd("main")
            assert entry.compared
            target = tmp_path / f"{cycle}.db"
            assert site.rebuild(outcome.backup, target).hash_kv == entry.hash_kv
            target.unlink()
            kinds += outcome.kinds
    assert kinds == ["base"] + ["increment"] * (CYCLES - 1)
    archive = site.archive()
    entries = [backup.manifest.etcd("main") for backup in archive.catalog.backups]
    assert len({entry.revision for entry in entries}) == CYCLES
    assert len({entry.compact_revision for entry in entries}) > CYCLES // 5
    tools = BootTools(etcd_binary, find_etcdutl([etcd_binary.parent], server_version=DEFAULT_ETCD))
    for backup in archive.catalog.backups:
        checks = verify_readable(archive, backup, scratch=tmp_path, boot=tools, progress=Silent())
        assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_etcd_with_other_pages_is_backed_up_and_restored(
    etcd_binary: Path, small_etcd: EtcdServers, tmp_path: Path, page_size: int
) -> None:
    with small_etcd.client() as client:
        churn(client, 1)
        with (tmp_path / "small-pages.db").open("wb") as out:
            for blob in client.snapshot():
                out.write(blob)
    larger = tmp_path / "large-pages.db"
    with Snapshot.open(tmp_path / "small-pages.db") as snapshot, larger.open("w+b") as out:
        writer = BoltWriter(out, page_size=page_size)
        for key, value in snapshot.reader.items(b"key"):
            writer.add(key, value)
        writer.finish(b"key", snapshot.small_buckets())
    larger.write_bytes(larger.read_bytes() + hashlib.sha256(larger.read_bytes()).digest())
    etcdutl = find_etcdutl([etcd_binary.parent], server_version=DEFAULT_ETCD)
    restore_unbumped(etcdutl, larger, tmp_path / "data")
    site = make_site(MemoryStore(), tmp_path)
    with boot_etcd(etcd_binary, tmp_path / "data", flags=QUICK) as member, member.client() as client:
        for number in range(2, 4):
            outcome = site.backup(source([member.endpoint]))
            entry = outcome.backup.manifest.etcd("main")
            assert entry.page_size == page_size
            rebuilt = site.rebuild(outcome.backup, tmp_path / f"{number}.db")
            assert rebuilt.hash_kv == client.hash_kv(entry.revision).hash
            churn(client, number)
    assert outcome.kinds == ("increment",)
    with Snapshot.open(rebuilt.path) as snapshot:
        assert snapshot.reader.page_size == page_size
    restore_unbumped(etcdutl, rebuilt.path, tmp_path / "restored")
    with boot_etcd(etcd_binary, tmp_path / "restored", flags=QUICK) as member, member.client() as client:
        assert client.hash_kv(entry.revision).hash == entry.hash_kv


def restore_unbumped(etcdutl: Etcdutl, snapshot: Path, data_dir: Path) -> None:
    etcdutl.restore(
        snapshot,
        data_dir,
        name="scratch",
        initial_cluster=f"scratch={PEER}",
        peer_urls=PEER,
        token="scratch",
        bump=0,
        mark_compacted=False,
    )


def test_two_etcds_are_one_backup_and_a_dead_one_makes_it_partial(
    etcd_binary: Path, small_etcd: EtcdServers, tmp_path: Path
) -> None:
    site = make_site(MemoryStore(), tmp_path)
    with start_etcd(etcd_binary, tmp_path / "events", flags=QUICK) as events:
        both = source(small_etcd.endpoints), source(events.endpoints, name="events")
        for servers in (small_etcd, events):
            with servers.client() as client:
                churn(client, 1)
        assert site.backup(*both).kinds == ("base", "base")
        events.members[0].kill()
        with pytest.raises(PartialBackup, match="etcd events is missing") as raised:
            site.backup(*both)
        assert raised.value.exit_code == 3
        partial = site.archive().catalog.backups[-1].manifest
        assert partial.status == "partial"
        assert [entry.name for entry in partial.etcds] == ["main"]
        assert site.archive().catalog.find(None, "latest").manifest.sequence == 0
        events.members[0].restart()
        with events.client() as client:
            damaged = client.status().member_id
            write.raise_alarm(client, damaged, "CORRUPT")
            with pytest.raises(PartialBackup, match=r"etcd events is missing: .*CORRUPT"):
                site.backup(*both)
            write.disarm(client, damaged, "CORRUPT")
        whole = site.backup(*both)
        small_etcd.members[0].kill()
        with pytest.raises(PartialBackup, match="etcd main is missing"):
            site.backup(*both)
        small_etcd.members[0].restart()
    assert whole.kinds == ("increment", "increment")
    assert whole.backup.manifest.etcd("events").parent == 0
    for name in ("main", "events"):
        site.rebuild(whole.backup, tmp_path / f"{name}.db", name)
    assert site.failed_checks(tmp_path) == []
