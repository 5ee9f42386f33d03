"""`bbr list` and `bbr show` of a cluster that no backup has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bbr.servers.etcd import EtcdServers

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr


@pytest.fixture
def backups(bbr: Bbr, repository: Path, small_etcd: EtcdServers) -> Path:
    """The repository with a backup of each of two clusters."""
    for cluster in ("prod", "staging"):
        said = bbr("backup", "--cluster", cluster, "--endpoints", small_etcd.endpoints[0])
        assert said.code == 0, said.err
    return repository


def test_a_cluster_without_a_backup_is_told_and_which_there_are(bbr: Bbr, backups: Path) -> None:
    said = bbr("list", "--cluster", "nope")
    assert (said.code, said.out) == (0, "no backups\n")
    assert "there is no backup of cluster nope here; clusters here: prod, staging\n" in said.err
    assert "Next," not in said.err
    assert bbr("list", "--cluster", "nope", "-o", "json").json["backups"] == []
    assert "nope" not in bbr("list", "--cluster", "prod").err


def test_a_backup_of_a_cluster_that_has_none_is_an_error_that_names_the_others(bbr: Bbr, backups: Path) -> None:
    said = bbr("show", "latest", "--cluster", "nope")
    assert said.code == 2
    assert "there is no backup of cluster nope here\n  hint: clusters here: prod, staging\n" in said.err


def test_an_empty_repository_is_told_as_such(bbr: Bbr, repository: Path) -> None:
    assert "there is no backup here yet" in bbr("list").err
    assert "clusters here: none" in bbr("list", "--cluster", "prod").err
