"""Rules of a backup that need a store or a clock of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bbr.errors import ClockSkew, PreconditionFailed, StoreUnavailable
from bbr.repository.manifest import GENERATION_TERM
from bbr.servers.etcd import EtcdServers
from bbr.stores.memory import MemoryStore
from bbr.stores.store import Buffer, Stored
from tests.making import Site, churn, make_site, source


class IgnoresConditions(MemoryStore):
    """Takes every put, as some S3 servers do, and remembers what it overwrote. Fails at one put if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.overwritten: list[str] = []
        self.puts = 0
        self.fail_at = 0

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        """See `Store.put`."""
        self.puts += 1
        if self.puts == self.fail_at:
            raise StoreUnavailable("the store hung up")
        if any(entry.name == name for entry in self.list(name)):
            self.overwritten.append(name)
            self.delete(name)
        return super().put(name, body, retain_until=retain_until)


class Clock:
    """The store's time."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def etcd(module_etcd: EtcdServers) -> Iterator[EtcdServers]:
    """An etcd with something new in it."""
    with module_etcd.client() as client:
        churn(client, datetime.now(UTC).microsecond)
    yield module_etcd


def test_crash_and_retry_on_a_store_that_ignores_conditions_overwrites_nothing(
    etcd: EtcdServers, tmp_path: Path
) -> None:
    store = IgnoresConditions()
    site = make_site(store, tmp_path)
    store.puts = 0
    whole = site.backup(source(etcd.endpoints))
    puts, committed = store.puts, [whole.backup]
    assert puts >= 4
    for fail_at in range(1, puts + 1):
        with etcd.client() as client:
            churn(client, fail_at)
        store.puts, store.fail_at = 0, fail_at
        with pytest.raises(StoreUnavailable) as raised:
            site.backup(source(etcd.endpoints))
        assert raised.value.exit_code == 1
        store.fail_at = 0
        committed.append(site.backup(source(etcd.endpoints)).backup)
    assert store.overwritten == []
    assert [one.sha256 for one in site.archive().catalog.backups] == [one.sha256 for one in committed]
    assert site.failed_checks(tmp_path) == []


def test_lost_cache_costs_a_base_and_nothing_else(etcd: EtcdServers, tmp_path: Path) -> None:
    site = make_site(MemoryStore(), tmp_path)
    assert site.backup(source(etcd.endpoints)).kinds == ("base",)
    assert site.backup(source(etcd.endpoints)).kinds == ("increment",)
    for path in site.state.caches.iterdir():
        path.unlink()
    again = site.backup(source(etcd.endpoints))
    assert again.kinds == ("base",)
    assert "does not remember" in again.why_base
    assert site.failed_checks(tmp_path) == []


def test_what_the_store_dropped_is_named_by_the_next_backup(etcd: EtcdServers, tmp_path: Path) -> None:
    site = make_site(MemoryStore(), tmp_path)
    first = site.backup(source(etcd.endpoints)).backup
    second = site.backup(source(etcd.endpoints)).backup
    site.store.delete(second.object_name)
    assert site.archive().catalog.findings == ()
    third = site.backup(source(etcd.endpoints))
    assert third.why_base == "the writer's newest backup is gone from the store"
    assert third.backup.manifest.previous == second.sha256
    catalog = site.archive().catalog
    assert [one.sha256 for one in catalog.backups] == [first.sha256, third.backup.sha256]
    assert [finding.kind for finding in catalog.findings] == ["missing"]
    assert site.backup(source(etcd.endpoints)).kinds == ("increment",)


def test_generation_past_its_term_is_left_for_a_new_one(etcd: EtcdServers, tmp_path: Path) -> None:
    clock = Clock()
    site = make_site(MemoryStore(clock), tmp_path)
    first = site.backup(source(etcd.endpoints)).backup.manifest
    clock.now += timedelta(minutes=10)
    second = site.backup(source(etcd.endpoints)).backup.manifest
    assert second.generation == first.generation
    with pytest.raises(ClockSkew) as raised:
        clock.now += GENERATION_TERM
        site.backup(source(etcd.endpoints))
    assert raised.value.exit_code == 5
    assert "clock" in str(raised.value)


def test_run_that_outlives_its_generations_term_commits_nothing(etcd: EtcdServers, tmp_path: Path) -> None:
    clock = Clock()

    class SlowStore(MemoryStore):
        """A day passes while the parts are written."""

        def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
            if name.startswith("clusters/"):
                clock.now += GENERATION_TERM
            return super().put(name, body, retain_until=retain_until)

    site = make_site(SlowStore(clock), tmp_path)
    with pytest.raises(PreconditionFailed, match="term ended") as raised:
        site.backup(source(etcd.endpoints))
    assert raised.value.exit_code == 5
    assert site.archive().catalog.backups == ()


def test_two_hosts_of_one_cluster_keep_chains_of_their_own(etcd: EtcdServers, tmp_path: Path) -> None:
    site = make_site(MemoryStore(), tmp_path)
    other = other_host(site, tmp_path / "other")
    for host in (site, other, site, other):
        with etcd.client() as client:
            churn(client, datetime.now(UTC).microsecond)
        host.backup(source(etcd.endpoints))
    manifests = [one.manifest for one in site.archive().catalog.backups]
    assert [one.sequence for one in manifests] == [0, 0, 1, 1]
    assert len({one.generation for one in manifests}) == 2
    assert site.failed_checks(tmp_path) == []


def other_host(site: Site, folder: Path) -> Site:
    """A second backup host of the same repository, trusted by a new root."""
    from bbr.repository.administration import NewSigner, add_signer
    from bbr.repository.keys import SigningKey
    from bbr.repository.state import State

    key = SigningKey.generate()
    trusted = add_signer(site.store, site.trusted, site.recovery, NewSigner(key.public, "other"), now=datetime.now(UTC))
    return replace(site, trusted=trusted, key=key, state=State.open(folder, trusted.repository_id))
