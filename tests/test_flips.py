"""Every byte of a repository flipped: verify finds each flip, and a restore never yields anything but the truth.

The repository is small and real: two writers' worth of objects from a real etcd, a base and two increments. It lies in
memory, so that a flip costs a millisecond. `make test` flips a seeded sample, `make flips` each byte with every bit.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bbr.errors import BbrError
from bbr.repository.catalog import Backup
from bbr.servers.etcd import EtcdServers
from bbr.stores.memory import MemoryStore
from tests.making import Site, churn, make_site, source

SEED = 20261124
SAMPLE = 3_000


@dataclass(frozen=True, slots=True)
class Small:
    """The repository, its bodies, and for the newest backup the bytes that it restores to."""

    site: Site
    bodies: dict[str, bytes]
    newest: Backup
    truth: bytes


@pytest.fixture(scope="module")
def small(module_etcd: EtcdServers, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("flips")
    site = make_site(MemoryStore(), folder)
    with module_etcd.client() as client:
        for number in range(3):
            churn(client, number, keys=20, value_bytes=60)
            outcome = site.backup(source(module_etcd.endpoints))
    target = folder / "truth.db"
    site.rebuild(outcome.backup, target)
    bodies = {entry.name: site.store.get(entry.name, limit_bytes=entry.size_bytes) for entry in site.store.list("")}
    return Small(site, bodies, outcome.backup, target.read_bytes())


def flipped(small: Small, name: str, at: int, bit: int) -> Site:
    """The same repository with one bit of one object changed."""
    store = MemoryStore()
    for other, body in small.bodies.items():
        if other == name:
            body = body[:at] + bytes([body[at] ^ (1 << bit)]) + body[at + 1 :]
        store.put(other, body)
    return replace(small.site, store=store)


def is_found(site: Site) -> bool:
    """Whether `bbr verify --level stored` would say that something is wrong."""
    try:
        return bool(site.failed_checks())
    except BbrError:
        return True


def restored(site: Site, backup: Backup) -> bytes | None:
    """What a restore of the backup yields; None when it is refused."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        target = Path(folder) / "snapshot.db"
        try:
            archive = site.archive()
            found = archive.catalog.find(None, backup.manifest.backup_id)
            site.rebuild(found, target)
        except BbrError:
            return None
        return target.read_bytes()


def every_flip(small: Small) -> Iterator[tuple[str, int, int]]:
    for name, body in small.bodies.items():
        for at in range(len(body)):
            for bit in range(8):
                yield name, at, bit


def check_flips(small: Small, flips: list[tuple[str, int, int]]) -> None:
    unseen, wrong = [], []
    for name, at, bit in flips:
        site = flipped(small, name, at, bit)
        if not is_found(site):
            unseen.append((name, at, bit))
        if restored(site, small.newest) not in (None, small.truth):
            wrong.append((name, at, bit))
    assert unseen == []
    assert wrong == []


def test_an_undamaged_repository_has_no_findings(small: Small) -> None:
    assert not is_found(small.site)
    assert restored(small.site, small.newest) == small.truth


def test_a_sample_of_flips_is_found_and_never_restored(small: Small) -> None:
    flips = random.Random(SEED).sample(list(every_flip(small)), SAMPLE)
    check_flips(small, flips)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_every_bit_flipped_is_found_and_never_restored(small: Small) -> None:
    flips = list(every_flip(small))
    assert len(flips) >= 100_000
    check_flips(small, flips)
