"""Any changed byte of any object is found without a key: the promise of the level ``stored`` of `bbr verify`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bbr.errors import VerificationFailed
from bbr.repository.catalog import Catalog
from bbr.repository.epoch import check_sealed
from bbr.repository.parts import check_part
from bbr.repository.root import Pin, load_roots

if TYPE_CHECKING:
    from bbr.stores.memory import MemoryStore
    from tests.repository.conftest import Site


def is_sound(store: MemoryStore, pin: Pin) -> bool:
    """What needs no key: roots, sealed keys, manifests, chains, hashes of parts."""
    try:
        trusted = load_roots(store, pin)
        root = trusted.root
        for administrator in root.administrators:
            check_sealed(store, administrator)
        for reader in root.epoch.readers:
            check_sealed(store, reader)
        catalog = Catalog.load(store, trusted, threads=1)
        for backup in catalog.backups:
            for part in backup.manifest.parts:
                check_part(store.get(part.name, limit_bytes=10**9), part)
    except VerificationFailed:
        return False
    return not any(finding.severity == "error" for finding in catalog.findings)


def test_every_changed_byte_of_every_object_is_found(site: Site) -> None:
    site.add_writer("second")
    site.backup()
    site.backup()
    pin = Pin(site.trusted.repository_id, 2)
    assert is_sound(site.store, pin)
    chance = random.Random(1)
    flips = 0
    for entry in list(site.store.list("")):
        body = site.store.get(entry.name, limit_bytes=10**9)
        for place in sorted(chance.sample(range(len(body)), min(60, len(body)))):
            changed = bytearray(body)
            changed[place] ^= 1 << chance.randrange(8)
            replace_object(site.store, entry.name, bytes(changed))
            assert not is_sound(site.store, pin), f"byte {place} of {entry.name}"
            flips += 1
        replace_object(site.store, entry.name, body)
    assert flips > 500
    assert is_sound(site.store, pin)


def test_every_missing_or_cut_object_is_found(site: Site) -> None:
    site.add_writer("second")
    site.backup()
    site.backup()
    second = site.backup()
    pin = Pin(site.trusted.repository_id, 2)
    for entry in list(site.store.list("")):
        body = site.store.get(entry.name, limit_bytes=10**9)
        replace_object(site.store, entry.name, body[:-1])
        assert not is_sound(site.store, pin), entry.name
        site.store.delete(entry.name)
        if entry.name != second.object_name and not entry.name.startswith("clusters/"):
            assert not is_sound(site.store, pin), entry.name
        site.store.put(entry.name, body)
    assert is_sound(site.store, pin)


def replace_object(store: MemoryStore, name: str, body: bytes) -> None:
    store.delete(name)
    store.put(name, body)
