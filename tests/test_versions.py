"""Each etcd version backed up, restored and booted for real: hashes, buckets, leases, users and alarms."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bbr.errors import EtcdUnauthorized
from bbr.etcd import write
from bbr.etcd.client import Credentials, EtcdClient
from bbr.etcd.snapshot import Snapshot
from bbr.etcd.tools import Etcdutl, find_etcdutl
from bbr.progress import Silent
from bbr.repository.catalog import Backup
from bbr.servers.etcd import EtcdServers, boot_etcd, start_etcd
from bbr.stores.directory import DirectoryStore
from bbr.verify import BootTools, verify_readable
from restore.etcd import Member, default_token, to_data_dir
from tests.conftest import ETCD_VERSIONS, QUICK, program
from tests.making import NO_CREDENTIALS, Site, make_site, source

ROOT = Credentials(ca=None, certificate=None, key=None, username="root", password="secret-word")
PEER = "http://127.0.0.1:2380"
COMPARED_BUCKETS = (b"lease", b"auth", b"authUsers", b"authRoles", b"alarm")


@dataclass(frozen=True, slots=True)
class Case:
    """One version: its programs, a site with a base and an increment, and the source's last snapshot."""

    etcd: Path
    etcdctl: Path
    etcdutl: Etcdutl
    site: Site
    newest: Backup
    snapshot: Path
    lease: int


@pytest.fixture(scope="module", params=ETCD_VERSIONS)
def case(
    request: pytest.FixtureRequest, search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    """An etcd of that version with all that etcd has, backed up twice, the second time with its users on."""
    version = request.param
    etcd, etcdctl = program("etcd", search, version), program("etcdctl", search, version)
    etcdutl = find_etcdutl([etcd.parent], server_version=version)
    folder = tmp_path_factory.mktemp(f"etcd-{version}")
    (folder / "repository").mkdir()
    site = make_site(DirectoryStore(folder / "repository"), folder)
    with start_etcd(etcd, folder / "etcd", flags=QUICK) as servers:
        with servers.client() as client:
            lease = fill(client)
            site.backup(source(servers.endpoints))
            change(client)
        enable_users(etcdctl, servers)
        with EtcdClient(servers.endpoints[0], ROOT) as client:
            write.raise_alarm(client, client.status().member_id, "NOSPACE")
            newest = site.backup(source(servers.endpoints, ROOT)).backup
            with (folder / "source.db").open("wb") as out:
                for blob in client.snapshot():
                    out.write(blob)
    assert newest.manifest.etcd("main").parent == 0
    assert newest.manifest.etcd("main").server_version == version
    yield Case(etcd, etcdctl, etcdutl, site, newest, folder / "source.db", lease)


def fill(client: EtcdClient) -> int:
    """Leases, large values, transactions of several operations, deletions, and a compaction. Returns the lease."""
    lease = write.lease_grant(client, 3600)
    for number in range(30):
        write.txn(client, {b"/registry/pods/d/%d" % (number * 10 + at): b"v" * 300 for at in range(10)}, ())
        write.put(client, b"/registry/leases/%d" % number, b"held", lease=lease)
    write.put(client, b"/registry/configmaps/d/large", b"x" * 1_300_000)
    write.delete(client, b"/registry/pods/d/5")
    write.compact(client, client.status().revision - 4)
    return lease


def change(client: EtcdClient) -> None:
    """Some more of it, with compactions between."""
    for number in range(20):
        changed = {b"/registry/pods/d/%d" % number: b"w" * 400, b"/registry/pods/d/%d" % (number + 50): b"w"}
        write.txn(client, changed, (b"/registry/pods/d/%d" % (number + 100),))
        if number % 8 == 7:
            write.compact(client, client.status().revision - 2)


def enable_users(etcdctl: Path, servers: EtcdServers) -> None:
    base = [str(etcdctl), "--endpoints", servers.endpoints[0]]
    for words in (
        ["role", "add", "reader"],
        ["role", "grant-permission", "reader", "read", "/registry/"],
        ["user", "add", "root:secret-word"],
        ["user", "add", "anna:other-word"],
        ["user", "grant-role", "root", "root"],
        ["user", "grant-role", "anna", "reader"],
        ["auth", "enable"],
    ):
        subprocess.run([*base, *words], check=True, capture_output=True, timeout=20)


def test_unbumped_member_has_the_manifests_hash(case: Case, tmp_path: Path) -> None:
    entry = case.newest.manifest.etcd("main")
    rebuilt = case.site.rebuild(case.newest, tmp_path / "x.db")
    data = tmp_path / "data"
    case.etcdutl.restore(
        rebuilt.path,
        data,
        name="scratch",
        initial_cluster=f"scratch={PEER}",
        peer_urls=PEER,
        token="scratch",
        bump=0,
        mark_compacted=False,
    )
    with boot_etcd(case.etcd, data) as member, EtcdClient(member.endpoint, ROOT) as client:
        answer = client.hash_kv(entry.revision)
    assert answer.hash == entry.hash_kv


def test_bumped_member_has_the_hash_computed_offline_and_lives(case: Case, tmp_path: Path) -> None:
    member_spec = Member("m0", f"m0={PEER}", PEER, default_token(case.newest))
    restored = to_data_dir(
        case.site.archive(),
        case.newest,
        "main",
        tmp_path / "data",
        member=member_spec,
        etcdutl=case.etcdutl,
        progress=Silent(),
    )
    with boot_etcd(case.etcd, restored.data_dir, name="m0") as member:
        with EtcdClient(member.endpoint, NO_CREDENTIALS) as stranger:
            assert not may_read(stranger)
        with EtcdClient(member.endpoint, ROOT) as client:
            assert client.hash_kv(restored.bumped_revision).hash == restored.bumped_hash_kv
            assert [alarm.kind for alarm in client.alarms()] == ["NOSPACE"]
            write.disarm(client, client.alarms()[0].member_id, "NOSPACE")
            held = ask(case, member.endpoint, "lease", "timetolive", f"{case.lease:x}", "--keys")
            assert set(re.findall(r"/registry/leases/\d+", held)) == {f"/registry/leases/{at}" for at in range(30)}
            assert re.search(r"granted with TTL\(3600s\), remaining\([1-9]", held)
            assert write.put(client, b"/registry/pods/d/new", b"x") == restored.bumped_revision + 1
            assert client.range(b"/registry/configmaps/d/large").kvs[0].value == b"x" * 1_300_000


def may_read(client: EtcdClient) -> bool:
    try:
        client.range(b"/registry/pods/d/1")
    except EtcdUnauthorized:
        return False
    return True


def ask(case: Case, endpoint: str, *words: str) -> str:
    command = [str(case.etcdctl), "--endpoints", endpoint, "--user", "root:secret-word", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def test_verify_boots_it_without_knowing_a_password(case: Case, tmp_path: Path) -> None:
    tools = BootTools(case.etcd, case.etcdutl)
    archive = case.site.archive()
    checks = list(verify_readable(archive, case.newest, scratch=tmp_path, boot=tools, progress=Silent()))
    assert [(check.name.split()[-1], check.passed) for check in checks] == [
        ("inventory", True),
        ("readable", True),
        ("bootable", True),
    ]


def test_lease_auth_and_alarm_buckets_are_the_sources(case: Case, tmp_path: Path) -> None:
    rebuilt = case.site.rebuild(case.newest, tmp_path / "x.db")
    with Snapshot.open(rebuilt.path) as ours, Snapshot.open(case.snapshot) as theirs:
        ours.check_trailer()
        ours.reader.check()
        mine, source_buckets = ours.small_buckets(), theirs.small_buckets()
        for name in COMPARED_BUCKETS:
            assert mine[name] == source_buckets[name]
            assert mine[name]
        assert list(ours.reader.items(b"key")) == list(theirs.reader.items(b"key"))
