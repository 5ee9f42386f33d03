from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.errors import AccessDenied, BodyWrong, ManifestInvalid, UsageError
from bbr.progress import Silent
from bbr.repository import names
from bbr.repository.backups import Backup, Finding
from bbr.repository.catalog import Catalog
from bbr.repository.manifest import MANIFEST_LIMIT_BYTES, encode_manifest
from bbr.repository.manifest_cache import ManifestCache
from bbr.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.repository.conftest import Clock, Site


def ids(catalog: Catalog) -> list[str]:
    return [backup.manifest.backup_id for backup in catalog.backups]


def errors(catalog: Catalog) -> list[tuple[str, str]]:
    """(kind, object name) of each error."""
    return [(one.kind, one.object_name) for one in catalog.findings if one.severity == "error"]


def messages(catalog: Catalog) -> str:
    return "\n".join(map(str, catalog.findings))


# Loading


def test_backups_are_listed_in_order_without_findings(site: Site) -> None:
    made = [site.backup(), site.backup(), site.backup(base=True), site.backup()]
    catalog = site.catalog()
    assert list(catalog.backups) == made
    assert catalog.findings == ()


def test_empty_repository_lists_nothing(site: Site) -> None:
    catalog = site.catalog()
    assert (catalog.backups, catalog.findings, catalog.heads()) == ((), (), ())


def test_one_cluster_is_listed_alone(site: Site) -> None:
    second = site.add_writer("second", "test")
    prod, test = site.backup(), site.backup(cluster="test", writer=second)
    assert list(site.catalog("test").backups) == [test]
    assert list(site.catalog("prod").backups) == [prod]
    assert list(site.catalog().backups) == [prod, test]


def test_cluster_that_cannot_be_is_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="not a name for a cluster"):
        site.catalog("../x")


def test_one_bad_manifest_does_not_hide_the_others(site: Site) -> None:
    first, second, third = site.backup(), site.backup(), site.backup(base=True)
    body = bytearray(site.store.get(second.object_name, limit_bytes=100_000))
    body[40] ^= 1
    site.replace_object(second.object_name, bytes(body))
    catalog = site.catalog()
    assert list(catalog.backups) == [first, third]
    assert ("manifest", second.object_name) in errors(catalog)
    assert ("missing", third.object_name) in errors(catalog)
    assert f"the manifest before it, {second.sha256}, is gone" in messages(catalog)


@pytest.mark.parametrize("size", [0, 1000, MANIFEST_LIMIT_BYTES + 1])
def test_object_that_is_no_manifest_is_a_finding(site: Site, size: int) -> None:
    manifest = site.draft()
    junk = site.put(manifest, b"x" * size)
    good = site.backup()
    catalog = site.catalog()
    assert list(catalog.backups) == [good]
    assert errors(catalog) == [("manifest", junk.object_name)]
    assert catalog.findings[0].cluster == "prod"


def test_object_of_another_name_is_a_finding(site: Site) -> None:
    site.store.put("manifests/prod/notes.txt", b"x")
    assert site.catalog().findings == (
        Finding(
            "error",
            "manifest",
            "",
            "manifests/prod/notes.txt",
            "manifests/prod/notes.txt is not the name of a manifest",
        ),
    )


def test_manifest_replayed_under_another_generation_is_a_finding(site: Site) -> None:
    backup = site.backup()
    later = names.generation(site.clock.now, site.main.key.key_id, "0" * 16)
    name = names.manifest("prod", later, 0, backup.manifest.nonce)
    site.store.put(name, site.store.get(backup.object_name, limit_bytes=100_000))
    catalog = site.catalog()
    assert list(catalog.backups) == [backup]
    assert errors(catalog) == [("manifest", name)]
    assert f"it was made for generation {backup.manifest.generation}" in messages(catalog)


def test_manifest_of_a_foreign_cluster_is_a_finding(site: Site) -> None:
    backup = site.backup()
    name = backup.object_name.replace("/prod/", "/test/")
    site.store.put(name, site.store.get(backup.object_name, limit_bytes=100_000))
    catalog = site.catalog("test")
    assert (catalog.backups, errors(catalog)) == ((), [("manifest", name)])
    assert "it was made for cluster prod" in messages(catalog)


class Failing(MemoryStore):
    """Fails to give one object."""

    def __init__(self, clock: Clock, error: Exception) -> None:
        super().__init__(clock)
        self.error = error
        self.failing = ""

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        if name == self.failing:
            raise self.error
        return super().get(name, limit_bytes=limit_bytes)


def failing(site: Site, error: Exception) -> tuple[Failing, Backup]:
    backup = site.backup()
    store = Failing(site.clock, error)
    for entry in site.store.list(""):
        store.put(entry.name, site.store.get(entry.name, limit_bytes=10**9))
    store.failing = backup.object_name
    return store, backup


def test_manifest_that_comes_back_cut_is_a_finding(site: Site) -> None:
    store, backup = failing(site, BodyWrong("cut short"))
    catalog = Catalog.load(store, site.trusted)
    assert errors(catalog) == [("manifest", backup.object_name)]
    assert "cut short" in messages(catalog)


def test_store_that_refuses_is_no_finding_but_raised(site: Site) -> None:
    store, _ = failing(site, AccessDenied("no"))
    with pytest.raises(AccessDenied):
        Catalog.load(store, site.trusted)


# Chains


def test_dropped_manifest_is_missed_by_the_next(site: Site) -> None:
    site.backup()
    dropped, last = site.backup(), site.backup()
    site.store.delete(dropped.object_name)
    catalog = site.catalog()
    assert ("missing", last.object_name) in errors(catalog)
    assert ("unrestorable", last.object_name) in errors(catalog)


def test_dropped_newest_manifest_is_missed_by_the_other_writers(site: Site) -> None:
    second = site.add_writer("second")
    dropped = site.backup()
    seen = site.commit(replace(site.draft(writer=second), heads=(dropped.sha256,)), writer=second)
    assert site.catalog().findings == ()
    site.store.delete(dropped.object_name)
    catalog = site.catalog()
    assert errors(catalog) == [("missing", seen.object_name)]
    assert f"had seen manifest {dropped.sha256}, which is gone" in messages(catalog)


def test_two_manifests_after_one_are_a_fork(site: Site) -> None:
    first = site.backup()
    fork = replace(site.draft(), previous=first.sha256)
    site.backup()
    forked = site.commit(fork)
    catalog = site.catalog()
    assert len(catalog.backups) == 3
    assert [kind for kind, _ in errors(catalog)] == ["fork"]
    assert forked in catalog.backups


def test_second_beginning_of_a_chain_is_a_fork(site: Site) -> None:
    site.backup()
    site.commit(replace(site.draft(base=True), previous=None))
    assert [kind for kind, _ in errors(site.catalog())] == ["fork"]


def test_wrong_sequence_is_a_finding(site: Site) -> None:
    site.backup()
    site.main.sequence = 4
    jumped = site.backup()
    assert ("sequence", jumped.object_name) in errors(site.catalog())
    assert "has sequence 5 after 0" in messages(site.catalog())


def test_generation_that_does_not_begin_at_zero_is_a_finding(site: Site) -> None:
    site.backup()
    manifest = site.draft(base=True)
    site.main.generation, site.main.sequence = manifest.generation, 2
    site.clock.advance(timedelta(seconds=1))
    begun = site.commit(site.draft())
    assert ("sequence", begun.object_name) in errors(site.catalog())
    assert "begins a generation at sequence 3" in messages(site.catalog())


def test_chain_of_another_cluster_is_a_finding(site: Site) -> None:
    site.backup()
    site.commit(site.draft(cluster="test", base=True))
    assert [kind for kind, _ in errors(site.catalog())] == ["chain"]


def test_id_used_twice_is_a_finding_and_ambiguous(site: Site) -> None:
    second = site.add_writer("second")
    backup = site.commit(site.draft())
    copied = replace(site.draft(writer=second), backup_id=backup.manifest.backup_id)
    site.commit(copied, writer=second)
    catalog = site.catalog()
    assert [kind for kind, _ in errors(catalog)] == ["id", "id"]
    with pytest.raises(UsageError, match="means 2 backups"):
        catalog.find("prod", backup.manifest.backup_id)


def test_root_that_is_withheld_is_noticed(site: Site) -> None:
    early = site.trusted
    site.add_writer("second")
    backup = site.backup()
    catalog = Catalog.load(site.store, early)
    assert errors(catalog) == [("root", backup.object_name)]
    assert "was made under root 2; the newest here is 1: one is withheld" in messages(catalog)


def test_time_running_back_in_a_chain_and_another_identity_are_notes(site: Site) -> None:
    site.backup()
    manifest = site.draft(base=True)
    site.clock.advance(timedelta(hours=-3))
    earlier = site.draft(base=True)
    assert manifest.time > earlier.time
    changed = site.commit(replace(earlier, cluster_identity="etcd:1"))
    catalog = site.catalog()
    assert [(one.severity, one.kind, one.object_name) for one in catalog.findings] == [
        ("note", "time", changed.object_name),
        ("note", "identity", changed.object_name),
    ]


# Times of a copy, and of a forger


def copied(site: Site) -> MemoryStore:
    """The same objects in another store, half a year later."""
    site.clock.advance(timedelta(days=180))
    copy = MemoryStore(clock=site.clock)
    for entry in site.store.list(""):
        copy.put(entry.name, site.store.get(entry.name, limit_bytes=10**9))
    return copy


def test_copied_repository_is_restored_like_the_first_with_one_note(site: Site) -> None:
    made = [site.backup() for _ in range(20)]
    catalog = Catalog.load(copied(site), site.trusted)
    assert [(one.severity, one.kind) for one in catalog.findings] == [("note", "time")]
    assert "and 19 more were stored long after they claim: the repository was copied" in messages(catalog)
    assert catalog.find(None, "latest").object_name == made[-1].object_name


def test_single_manifest_stored_late_is_a_note(site: Site) -> None:
    manifest = site.draft()
    site.clock.advance(timedelta(minutes=16))
    late = site.commit(manifest)
    catalog = site.catalog()
    assert [(one.severity, one.object_name) for one in catalog.findings] == [("note", late.object_name)]
    assert catalog.find(None, "latest") == late


def test_backup_that_claims_the_future_is_never_the_latest(site: Site) -> None:
    good = site.backup()
    future = replace(site.draft(base=True), time=site.clock.now + timedelta(hours=20))
    forged = site.commit(future)
    catalog = site.catalog()
    assert errors(catalog) == [("doubt", forged.object_name)]
    assert catalog.find("prod", "latest") == good
    assert catalog.find("prod", forged.manifest.backup_id) == forged


def test_backup_by_a_revoked_key_is_never_the_latest(site: Site) -> None:
    good = site.backup()
    backdated = site.draft()
    site.clock.advance(timedelta(minutes=1))
    site.revoke("main", at=site.clock.now)
    site.clock.advance(timedelta(hours=3))
    forged = site.commit(backdated)
    catalog = site.catalog()
    assert errors(catalog) == [("doubt", forged.object_name)]
    assert "after its writer was revoked" in catalog.doubt(forged)
    assert catalog.find("prod", "latest") == good


# Finding one


def test_latest_is_the_newest_complete_one(site: Site) -> None:
    good = site.backup()
    partial = site.commit(replace(site.draft(), status="partial", reasons=("etcd events did not answer",)))
    catalog = site.catalog()
    assert catalog.find(None, "latest") == good
    assert catalog.doubt(partial) == "etcd events did not answer"
    assert catalog.doubt(good) == ""
    assert catalog.find(None, partial.manifest.backup_id) == partial


def test_beginning_of_an_id_is_enough_while_it_is_the_only_one(site: Site) -> None:
    first, second = site.backup(), site.backup()
    catalog = site.catalog()
    assert catalog.find(None, first.manifest.backup_id[:-2]) == first
    assert catalog.find("prod", second.manifest.backup_id.removeprefix("prod-")[:12]) == second
    with pytest.raises(UsageError, match="'prod-2026' means 2 backups") as caught:
        catalog.find(None, "prod-2026")
    assert caught.value.hint == f"among them: {', '.join(ids(catalog))}"


def test_time_means_the_newest_done_by_then(site: Site) -> None:
    first, second = site.backup(), site.backup()
    catalog = site.catalog()
    assert catalog.find("prod", "2026-01-02T04:04:05Z") == first
    assert catalog.find("prod", "2026-01-02 05:04") == first
    assert catalog.find("prod", "2026-01-02 05:05") == second
    assert catalog.find("prod", "2026-01-02T06:04:05+01:00") == second
    assert catalog.find("prod", "2030-01-01T00:00:00Z") == second


def test_time_before_every_backup_is_refused(site: Site) -> None:
    first = site.backup()
    with pytest.raises(UsageError, match="was done by 2026-01-01 00:00:00 UTC") as caught:
        site.catalog().find("prod", "2026-01-01T00:00:00Z")
    assert caught.value.hint == f"the oldest is {first.manifest.backup_id}, done at 2026-01-02 04:04:05 UTC"


@pytest.mark.parametrize("text", ["2026-02-30T00:00:00Z", "2026-01-02 25:00"])
def test_time_that_is_none_is_refused(site: Site, text: str) -> None:
    site.backup()
    with pytest.raises(UsageError, match="is not a time"):
        site.catalog().find("prod", text)


def test_unknown_id_is_refused_and_near_ones_are_named(site: Site) -> None:
    first = site.backup()
    second = site.add_writer("second", "test")
    site.backup(cluster="test", writer=second)
    with pytest.raises(UsageError, match="no backup is called 'prod-2027'") as caught:
        site.catalog().find(None, "prod-2027")
    assert caught.value.exit_code == 2
    assert caught.value.hint == f"near it: {first.manifest.backup_id}"


@pytest.mark.parametrize("text", ["", "\x00", "x" * 5000, "🦆"])
def test_any_other_text_is_refused(site: Site, text: str) -> None:
    site.backup()
    with pytest.raises(UsageError, match="no backup is called"):
        site.catalog().find(None, text)


def test_latest_of_several_clusters_needs_a_name(site: Site) -> None:
    second = site.add_writer("second", "test")
    site.backup()
    test = site.backup(cluster="test", writer=second)
    with pytest.raises(UsageError, match="holds several clusters") as caught:
        site.catalog().find(None, "latest")
    assert caught.value.hint == "name one of prod, test"
    assert site.catalog().find("test", "latest") == test


def test_cluster_without_backups_is_refused_and_others_are_named(site: Site) -> None:
    site.backup()
    with pytest.raises(UsageError, match="there is no backup of cluster test here") as caught:
        site.catalog().find("test", "latest")
    assert caught.value.hint == "clusters here: prod"


def test_latest_without_a_complete_one_says_what_is_there(site: Site) -> None:
    partial = site.commit(replace(site.draft(), status="partial", reasons=("etcd events did not answer",)))
    with pytest.raises(UsageError, match="no complete backup of cluster prod is without fault") as caught:
        site.catalog().find(None, "latest")
    assert caught.value.hint == f"the newest is {partial.manifest.backup_id}: etcd events did not answer"


# What a backup builds upon


def test_chain_goes_from_the_base_to_the_backup(site: Site) -> None:
    old = site.backup()
    base, middle, last = site.backup(base=True), site.backup(), site.backup()
    catalog = site.catalog()
    assert catalog.chain(last, "main") == (base, middle, last)
    assert catalog.chain(base, "main") == (base,)
    assert catalog.chain(old, "main") == (old,)


def test_chain_with_a_gap_is_refused_and_never_the_latest(site: Site) -> None:
    base, middle, last = site.backup(), site.backup(), site.backup()
    site.store.delete(middle.object_name)
    catalog = site.catalog()
    with pytest.raises(ManifestInvalid, match=f"{last.manifest.backup_id} builds upon sequence 1 .* missing") as caught:
        catalog.chain(last, "main")
    assert caught.value.exit_code == 4
    assert catalog.find(None, "latest") == base
    assert "which is missing" in catalog.doubt(last)


def test_chain_through_a_fork_follows_the_own_history(site: Site) -> None:
    base = site.backup()
    one, other = site.draft(), site.draft()
    first = site.commit(one)
    after_first = site.backup()
    site.main.sequence, site.main.head = 0, base.sha256
    second = site.commit(other)
    after_second = site.backup()
    catalog = site.catalog()
    assert catalog.chain(after_first, "main") == (base, first, after_first)
    assert catalog.chain(after_second, "main") == (base, second, after_second)


def test_parent_of_another_etcd_or_epoch_is_refused(site: Site) -> None:
    site.backup()
    manifest = site.draft()
    other = replace(manifest.etcds[0], cluster_id="1")
    backup = site.commit(replace(manifest, etcds=(other,)))
    catalog = site.catalog()
    with pytest.raises(ManifestInvalid, match="which is of another etcd or epoch"):
        catalog.chain(backup, "main")
    assert "of another etcd" in catalog.doubt(backup)


def test_parent_without_the_etcd_is_refused(site: Site) -> None:
    site.backup()
    manifest = site.draft()
    backup = site.commit(replace(manifest, etcds=(replace(manifest.etcds[0], name="events"),)))
    with pytest.raises(ManifestInvalid, match="which has no etcd events"):
        site.catalog().chain(backup, "events")


def test_etcd_that_is_not_there_is_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="has no etcd named 'events'"):
        backup = site.backup()
        site.catalog().chain(backup, "events")


def test_very_long_chain_is_followed(site: Site) -> None:
    for _ in range(1500):
        site.commit(site.draft())
        site.clock.advance(timedelta(seconds=1))
    catalog = site.catalog()
    assert catalog.findings == ()
    assert len(catalog.chain(catalog.backups[-1], "main")) == 1500


# Heads


def test_head_is_the_end_of_each_writers_chain(site: Site) -> None:
    second = site.add_writer("second")
    site.backup()
    site.backup(writer=second)
    mine, other = site.backup(), site.backup(writer=second)
    catalog = site.catalog("prod")
    assert catalog.head(site.main.key.key_id) == mine
    assert catalog.head(second.key.key_id) == other
    assert set(catalog.heads()) == {mine, other}
    assert catalog.head("0" * 16) is None


def test_head_in_several_clusters_needs_a_name(site: Site) -> None:
    prod = site.backup()
    site.main.head = None
    test = site.backup(cluster="test", base=True)
    catalog = site.catalog()
    assert catalog.head(site.main.key.key_id, "prod") == prod
    assert catalog.heads("test") == (test,)
    with pytest.raises(UsageError, match="has several clusters here"):
        catalog.head(site.main.key.key_id)


# The cache


class Counting(MemoryStore):
    """Counts what is fetched."""

    fetched = 0

    def get(self, name: str, *, limit_bytes: int) -> bytes:
        self.fetched += 1
        return super().get(name, limit_bytes=limit_bytes)


class Warnings(Silent):
    """Keeps what a person should know."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, what: str) -> None:
        self.said.append(what)


@pytest.fixture
def store(clock: Clock) -> Counting:
    return Counting(clock)


def load(site: Site, cache: ManifestCache, cluster: str | None = None) -> tuple[Catalog, int]:
    """The catalog, and how many objects were fetched for it."""
    assert isinstance(site.store, Counting)
    site.store.fetched = 0
    return Catalog.load(site.store, site.trusted, cluster=cluster, cache=cache, threads=2), site.store.fetched


def test_only_news_is_fetched(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    made = [site.backup() for _ in range(40)]
    cold, fetched = load(site, cache)
    assert (list(cold.backups), fetched) == (made, 40)
    made.append(site.backup())
    warm, fetched = load(site, cache)
    assert (list(warm.backups), fetched) == (made, 1)
    assert load(site, cache)[1] == 0


def test_cached_manifests_are_as_those_that_are_read(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    for _ in range(3):
        site.backup()
    load(site, cache)
    assert load(site, cache)[0].backups == site.catalog().backups


def test_deleted_manifest_is_forgotten(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    first, second = site.backup(), site.backup()
    load(site, cache)
    site.store.delete(second.object_name)
    assert list(load(site, cache)[0].backups) == [first]
    assert list(cache.load("")) == [first.object_name]


def test_listing_one_cluster_forgets_nothing_of_the_others(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    second = site.add_writer("second", "test")
    site.backup()
    site.backup(cluster="test", writer=second)
    load(site, cache)
    load(site, cache, "test")
    assert load(site, cache)[1] == 0


def test_manifest_of_another_size_is_fetched_again(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    backup = site.backup()
    load(site, cache)
    site.replace_object(backup.object_name, b"junk")
    catalog, fetched = load(site, cache)
    assert (catalog.backups, fetched) == ((), 1)
    assert errors(catalog) == [("manifest", backup.object_name)]


def test_under_another_root_the_cached_manifests_are_judged_again_without_fetching(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    first = site.backup()
    second = site.backup()
    load(site, cache)
    site.revoke("main", at=second.manifest.time)
    catalog, fetched = load(site, cache)
    assert (list(catalog.backups), fetched) == ([first], 0)
    assert errors(catalog) == [("manifest", second.object_name)]


def test_damaged_cache_costs_a_fetch(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    backup = site.backup()
    load(site, cache)
    (tmp_path / "cache").write_bytes(b"junk" * 5000)
    catalog, fetched = load(site, cache)
    assert (list(catalog.backups), fetched) == ([backup], 1)


def test_cache_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    backup = site.backup()
    listener = Warnings()
    cache = ManifestCache(tmp_path / "gone" / "cache")
    catalog = Catalog.load(site.store, site.trusted, cache=cache, progress=listener)
    assert list(catalog.backups) == [backup]
    assert len(listener.said) == 1
    assert "could not be written" in listener.said[0]


def test_without_a_cache_what_is_stored_now_is_seen(site: Site, tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "cache")
    backup = site.backup()
    load(site, cache)
    body = bytearray(encode_manifest(backup.manifest, site.main.key))
    body[100] ^= 1
    site.replace_object(backup.object_name, bytes(body))
    assert errors(site.catalog()) == [("manifest", backup.object_name)]
