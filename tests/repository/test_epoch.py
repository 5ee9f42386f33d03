from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bbr.errors import KeyRefused, RootInvalid
from bbr.repository.epoch import check_sealed, open_admin_key, open_epoch
from bbr.repository.keys import Identity, seal_to
from bbr.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.repository.conftest import Site


def epoch_of(site: Site, *identities: Identity) -> Identity:
    return open_epoch(site.store, site.trusted, site.trusted.root.epoch.id, identities)


def test_each_recovery_identity_opens_the_epoch(site: Site) -> None:
    for person in site.people:
        assert epoch_of(site, Identity.generate(), person).recipient == site.trusted.root.epoch.recipient


def test_each_administrator_opens_the_admin_key(site: Site) -> None:
    for person in site.people:
        assert open_admin_key(site.store, site.trusted, [person]).public.public_hex == site.trusted.root.admin_key


def test_wrong_identity_is_refused_and_readers_are_named(site: Site) -> None:
    for opening in (lambda one: epoch_of(site, one), lambda one: open_admin_key(site.store, site.trusted, [one])):
        with pytest.raises(KeyRefused, match="none of the 1 identities given") as caught:
            opening(Identity.generate())
        assert caught.value.exit_code == 12
        assert "person 0 (age1" in caught.value.hint
        assert "person 1 (age1" in caught.value.hint


def test_no_identity_is_refused(site: Site) -> None:
    with pytest.raises(KeyRefused, match="none of the 0 identities given reads epoch"):
        epoch_of(site)


def test_missing_changed_or_huge_key_is_refused_and_the_other_still_opens(site: Site) -> None:
    reader = site.trusted.root.epoch.readers[0]
    body = site.store.get(reader.object_name, limit_bytes=100_000)
    for wrong, reason in (
        (None, "is missing from the store"),
        (body[:-1] + bytes([body[-1] ^ 1]), "is not what the root says"),
        (body + b"x" * 100_000, "is larger than any key"),
    ):
        site.store.delete(reader.object_name)
        if wrong is not None:
            site.store.put(reader.object_name, wrong)
        with pytest.raises(RootInvalid, match=reason) as caught:
            epoch_of(site, site.people[0])
        assert caught.value.exit_code == 4
        with pytest.raises(RootInvalid, match=reason):
            check_sealed(site.store, reader)
        assert epoch_of(site, *site.people).recipient == site.trusted.root.epoch.recipient


def test_sound_keys_pass_the_check_without_a_key(site: Site) -> None:
    for administrator in site.trusted.root.administrators:
        check_sealed(site.store, administrator)
    for reader in site.trusted.root.epoch.readers:
        check_sealed(site.store, reader)
    with pytest.raises(RootInvalid, match="is missing from the store"):
        check_sealed(MemoryStore(), site.trusted.root.epoch.readers[0])


@pytest.mark.parametrize("content", [b"", b"\xff", b"no key", b"AGE-SECRET-KEY-1"])
def test_content_that_is_no_key_is_refused(site: Site, content: bytes) -> None:
    spoil(site, content)
    with pytest.raises(RootInvalid, match="does not hold an identity"):
        epoch_of(site, site.people[0])
    with pytest.raises(RootInvalid, match="does not hold a signing key"):
        open_admin_key(site.store, site.trusted, [site.people[0]])


def test_key_of_something_else_is_refused(site: Site) -> None:
    spoil(site, Identity.generate().secret().encode())
    with pytest.raises(RootInvalid, match="does not hold the identity of epoch"):
        epoch_of(site, site.people[0])
    spoil(site, site.main.key.pem())
    with pytest.raises(RootInvalid, match="does not hold the admin key"):
        open_admin_key(site.store, site.trusted, [site.people[0]])


def spoil(site: Site, content: bytes) -> None:
    """Seal other content to the first person, in a root that names it: what only an administrator could do."""
    body = seal_to([site.people[0].recipient], content)
    digest = hashlib.sha256(body).hexdigest()
    root = site.trusted.root
    reader, administrator = root.epoch.readers[0], root.administrators[0]
    site.replace_object(reader.object_name, body)
    site.replace_object(administrator.object_name, body)
    epoch = replace(root.epoch, readers=(replace(reader, sha256=digest), *root.epoch.readers[1:]))
    changed = replace(root, epochs=(epoch,), administrators=(replace(administrator, sha256=digest),))
    site.trusted = replace(site.trusted, root=changed)
