"""The ends of chains that a host remembers: what a store drops from there is reported, until a manifest tells of it."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bbr.errors import RootInvalid
from bbr.repository.backups import Backup
from bbr.repository.catalog import Catalog
from bbr.repository.heads import HeadsFile, head_of
from tests.repository.conftest import Site


@pytest.fixture
def memory(tmp_path: Path) -> HeadsFile:
    return HeadsFile(tmp_path / "heads.json")


def load(site: Site, memory: HeadsFile, cluster: str | None = None) -> Catalog:
    return Catalog.load(site.store, site.trusted, cluster=cluster, memory=memory, threads=1)


def lost(catalog: Catalog) -> list[str]:
    return [finding.object_name for finding in catalog.findings if finding.kind == "lost"]


def drop(site: Site, *backups: Backup) -> None:
    for backup in backups:
        site.store.delete(backup.object_name)


def test_a_whole_chain_has_lost_nothing_and_is_remembered(site: Site, memory: HeadsFile, tmp_path: Path) -> None:
    site.backup()
    second = site.backup()
    assert lost(load(site, memory)) == []
    assert memory.load() == (head_of(second),)
    assert stat.S_IMODE((tmp_path / "heads.json").stat().st_mode) == 0o600
    third = site.backup()
    assert lost(load(site, memory)) == []
    assert memory.load() == (head_of(third),)


def test_the_newest_backup_that_was_dropped_is_reported_again_and_again(site: Site, memory: HeadsFile) -> None:
    first, second = site.backup(), site.backup()
    load(site, memory)
    drop(site, second)
    for _ in range(2):
        catalog = load(site, memory)
        assert catalog.backups == (first,)
        assert lost(catalog) == [second.object_name]
        (finding,) = catalog.findings
        assert finding.severity == "error"
        assert "is gone from the store" in finding.message
    # Who never saw it cannot know.
    assert site.catalog().findings == ()


def test_everything_that_was_dropped_is_reported(site: Site, memory: HeadsFile) -> None:
    first, second = site.backup(), site.backup()
    load(site, memory)
    drop(site, first, second)
    assert lost(load(site, memory)) == [second.object_name]


def test_once_a_later_manifest_names_the_lost_one_the_chain_tells_everybody(site: Site, memory: HeadsFile) -> None:
    site.backup()
    second = site.backup()
    load(site, memory)
    drop(site, second)
    third = site.commit(replace(site.draft(base=True), previous=second.sha256))
    catalog = load(site, memory)
    assert lost(catalog) == []
    assert memory.load() == (head_of(third),)
    assert [finding.kind for finding in site.catalog().findings] == ["missing"]


def test_a_head_of_another_cluster_is_neither_reported_nor_forgotten(site: Site, memory: HeadsFile) -> None:
    here = site.backup(cluster="prod")
    other = site.add_writer("other")
    there = site.backup(cluster="test", writer=other)
    load(site, memory)
    drop(site, there)
    assert lost(load(site, memory, "prod")) == []
    assert set(memory.load()) == {head_of(here), head_of(there)}
    assert lost(load(site, memory, "test")) == [there.object_name]


def test_a_backup_that_is_there_and_not_believed_is_not_lost(site: Site, memory: HeadsFile) -> None:
    first, second = site.backup(), site.backup()
    load(site, memory)
    site.revoke("main", at=second.manifest.time)
    catalog = load(site, memory)
    assert catalog.backups == (first,)
    assert [finding.kind for finding in catalog.findings] == ["manifest"]


def test_a_damaged_memory_is_not_passed_over(site: Site, memory: HeadsFile, tmp_path: Path) -> None:
    site.backup()
    load(site, memory)
    path = tmp_path / "heads.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RootInvalid, match=r"remembers of the backups is damaged") as caught:
        load(site, memory)
    assert str(path) in caught.value.hint


def test_a_memory_that_cannot_be_written_is_a_warning(site: Site, tmp_path: Path) -> None:
    site.backup()
    problem = HeadsFile(tmp_path / "absent" / "heads.json").remember([head_of(site.backup())])
    assert "could not be written" in problem
