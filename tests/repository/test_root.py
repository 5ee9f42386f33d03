from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbr.errors import FormatTooNew, KeyRefused, NoRepository, RootInvalid
from bbr.repository import document, names, root
from bbr.repository.envelope import encode_envelope, sign
from bbr.repository.epoch import open_admin_key
from bbr.repository.keys import SigningKey
from bbr.repository.root import Pin, Root, Signer, TrustedRoot, encode_root, first_root, load_roots, next_root

if TYPE_CHECKING:
    from bbr.stores.memory import MemoryStore
    from tests.repository.conftest import Site


BEFORE = datetime(2025, 1, 1, tzinfo=UTC)


def admin(site: Site) -> SigningKey:
    return open_admin_key(site.store, site.trusted, site.people)


def signed(value: Root, *keys: SigningKey, kind: str = root.PAYLOAD_TYPE) -> bytes:
    """A root as a hostile administrator could write it: signed, and otherwise unchecked."""
    return encode_envelope(sign(kind, document.encode(value), keys))


def following(site: Site, **changes: object) -> Root:
    """What would be the next root, with changes."""
    before = site.trusted.root
    upright = replace(before, number=before.number + 1, previous=site.trusted.sha256)
    return replace(upright, **changes)  # type: ignore[arg-type]


def check_next(site: Site, body: bytes) -> Root:
    before = site.store.get(names.root_name(site.trusted.root.number), limit_bytes=root.ROOT_LIMIT_BYTES)
    return next_root(site.trusted.root, before, body, "root/2.json")


def test_repository_id_is_the_hash_of_the_first_root(site: Site) -> None:
    body = site.store.get("root/1.json", limit_bytes=root.ROOT_LIMIT_BYTES)
    assert site.trusted.repository_id == hashlib.sha256(body).hexdigest()
    assert first_root(body) == site.trusted.root


def test_roots_are_believed_up_to_the_newest(site: Site) -> None:
    site.add_writer("second")
    site.add_writer("third")
    trusted = load_roots(site.store, Pin(site.trusted.repository_id, 2))
    assert (trusted.root.number, trusted.first_contact) == (3, False)
    assert [signer.label for signer in trusted.root.signers] == ["main", "second", "third"]
    assert trusted.pin == Pin(site.trusted.repository_id, 3)


def test_first_contact_is_told(site: Site) -> None:
    assert load_roots(site.store, None).first_contact


def test_empty_store_holds_no_repository(store: MemoryStore) -> None:
    with pytest.raises(NoRepository, match="no repository at this address") as caught:
        load_roots(store, None)
    assert caught.value.exit_code == 10
    assert "bbr init" in caught.value.hint


def test_another_repositorys_id_is_refused(site: Site) -> None:
    with pytest.raises(NoRepository, match=f"has the id {site.trusted.repository_id}, the one expected has") as caught:
        load_roots(site.store, Pin("ab" * 32, 1))
    assert caught.value.exit_code == 10


def test_root_lower_than_the_pinned_one_is_refused(site: Site) -> None:
    with pytest.raises(RootInvalid, match="the store shows root 1, but root 4 was seen before") as caught:
        load_roots(site.store, Pin(site.trusted.repository_id, 4))
    assert caught.value.exit_code == 4


def test_missing_number_is_refused(site: Site) -> None:
    site.add_writer("second")
    site.add_writer("third")
    site.store.delete("root/2.json")
    with pytest.raises(RootInvalid, match="root 2 is missing, root 3 is there"):
        load_roots(site.store, None)


def test_missing_first_root_is_refused(site: Site) -> None:
    site.add_writer("second")
    site.store.delete("root/1.json")
    with pytest.raises(RootInvalid, match="root 1 is missing"):
        load_roots(site.store, None)


def test_other_names_beside_the_roots_are_passed_over(site: Site) -> None:
    site.store.put("root/notes.txt", b"x")
    assert load_roots(site.store, None).root == site.trusted.root


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * (root.ROOT_LIMIT_BYTES + 1)], ids=["empty", "no envelope", "huge"])
def test_object_that_is_no_root_is_refused(site: Site, body: bytes) -> None:
    site.store.put("root/2.json", body)
    with pytest.raises(RootInvalid, match=r"root/2\.json"):
        load_roots(site.store, None)


def test_repository_of_a_newer_format_is_refused(site: Site) -> None:
    body = signed(replace(site.trusted.root, format=2), admin(site), kind="application/vnd.bbr.root.v2+json")
    site.replace_object("root/1.json", body)
    with pytest.raises(FormatTooNew, match="has format 2, this bbr reads format 1") as caught:
        load_roots(site.store, None)
    assert (caught.value.exit_code, caught.value.hint) == (10, "use a newer bbr")


def test_repository_that_became_a_newer_format_is_refused(site: Site) -> None:
    site.store.put("root/2.json", signed(following(site), admin(site), kind="application/vnd.bbr.root.v12+json"))
    with pytest.raises(FormatTooNew, match="format 12"):
        load_roots(site.store, None)


def test_document_of_another_kind_is_refused(site: Site) -> None:
    with pytest.raises(RootInvalid, match="not as a root"):
        check_next(site, signed(following(site), admin(site), kind="application/vnd.bbr.manifest.v1+json"))


def test_next_root_needs_the_admin_key(site: Site) -> None:
    with pytest.raises(RootInvalid, match="is signed by"):
        check_next(site, signed(following(site), SigningKey.generate()))
    with pytest.raises(RootInvalid, match="signed by nobody"):
        check_next(site, signed(following(site)))


def test_writer_cannot_make_a_root(site: Site) -> None:
    with pytest.raises(RootInvalid, match="is signed by"):
        check_next(site, signed(following(site), site.main.key))


def rotated(site: Site, fresh: SigningKey) -> Root:
    """The next root with another admin key."""
    moved = tuple(
        replace(one, object_name=names.admin_name(fresh.key_id, one.recipient))
        for one in site.trusted.root.administrators
    )
    return following(site, admin_key=fresh.public.public_hex, administrators=moved)


def test_new_admin_key_needs_the_signatures_of_both(site: Site) -> None:
    fresh = SigningKey.generate()
    changed = rotated(site, fresh)
    assert check_next(site, signed(changed, admin(site), fresh)) == changed
    for keys in ([fresh], [admin(site)], [admin(site), fresh, site.main.key]):
        with pytest.raises(RootInvalid, match="is signed by"):
            check_next(site, signed(changed, *keys))


def test_root_after_a_rotation_is_refused_under_the_old_key(site: Site) -> None:
    fresh, old = SigningKey.generate(), admin(site)
    body = signed(rotated(site, fresh), old, fresh)
    site.store.put("root/2.json", body)
    second = load_roots(site.store, None)
    third = replace(second.root, number=3, previous=second.sha256)
    with pytest.raises(RootInvalid, match="is signed by"):
        next_root(second.root, body, signed(third, old), "root/3.json")
    assert next_root(second.root, body, signed(third, fresh), "root/3.json") == third


def test_root_stored_under_another_number_is_refused(site: Site) -> None:
    first = site.store.get("root/1.json", limit_bytes=root.ROOT_LIMIT_BYTES)
    with pytest.raises(RootInvalid, match="holds root 1"):
        check_next(site, first)
    with pytest.raises(RootInvalid, match="holds root 2, or names one before it"):
        first_root(signed(following(site), admin(site)))


@pytest.mark.parametrize("previous", [None, "ab" * 32])
def test_root_that_does_not_follow_is_refused(site: Site, previous: str | None) -> None:
    with pytest.raises(RootInvalid, match="does not follow the root 1 that is stored here"):
        check_next(site, signed(following(site, previous=previous), admin(site)))


def test_root_older_than_the_one_before_is_refused(site: Site) -> None:
    older = following(site, created=site.trusted.root.created - timedelta(seconds=1))
    with pytest.raises(RootInvalid, match="is older than root 1"):
        check_next(site, signed(older, admin(site)))


def broken(site: Site) -> list[tuple[Root, str]]:
    """Roots that a careless or hostile administrator signs, and why each is refused."""
    good = following(site)
    epoch, signer, administrator = good.epoch, good.signers[0], good.administrators[0]
    reader = epoch.readers[0]
    drill = replace(reader, role="drill")
    other = replace(epoch, id=names.epoch(epoch.opened, "0" * 8))
    return [
        (replace(good, administrators=()), "no administrator"),
        (replace(good, administrators=(administrator, administrator)), "an administrator named twice"),
        (replace(good, administrators=(replace(administrator, object_name=reader.object_name),)), "object_name"),
        (
            replace(good, administrators=(replace(administrator, object_name=f"admin/{'0' * 16}/{'0' * 32}.age"),)),
            "lies elsewhere",
        ),
        (replace(good, epochs=()), "no epoch"),
        (replace(good, epochs=(epoch, epoch)), "two epochs of one id or one key"),
        (replace(good, epochs=(epoch, replace(other, readers=()))), "two epochs of one id or one key"),
        (replace(good, epochs=(replace(epoch, readers=()),)), "fewer than two recovery identities"),
        (replace(good, epochs=(replace(epoch, readers=(reader,)),)), "fewer than two recovery identities"),
        (
            replace(good, epochs=(replace(epoch, readers=(drill, epoch.readers[1])),)),
            "fewer than two recovery identities",
        ),
        (replace(good, epochs=(replace(epoch, readers=(reader, reader)),)), "has a reader twice"),
        (replace(good, epochs=(replace(other, readers=epoch.readers),)), "a key that lies outside of it"),
        (
            replace(good, epochs=(epoch, replace(other, recipient=reader.recipient, opened=BEFORE))),
            "epochs out of order",
        ),
        (replace(good, signers=(signer, signer)), "a signer named twice"),
        (replace(good, signers=(replace(signer, id="0" * 16),)), "not called after its key"),
        (replace(good, signers=(replace(signer, clusters=()),)), "has no cluster, or one twice"),
        (replace(good, signers=(replace(signer, clusters=("a/b",)),)), "clusters"),
        (replace(good, signers=(replace(signer, role="admin"),)), "role"),  # type: ignore[arg-type]
        (replace(good, signers=(replace(signer, label="\x1b[2J"),)), "label"),
        (replace(good, format=2), "format"),
        (replace(good, number=0), "number"),
        (replace(good, epochs=(replace(epoch, recipient="age1" + "q" * 58),)), "not an age X25519 recipient"),
    ]


def test_root_that_breaks_a_rule_is_neither_written_nor_read(site: Site) -> None:
    key = admin(site)
    for wrong, reason in broken(site):
        with pytest.raises(RootInvalid, match=reason):
            encode_root(wrong, [key])
        with pytest.raises(RootInvalid, match=reason) as caught:
            check_next(site, signed(wrong, key))
        assert caught.value.exit_code == 4


def test_admin_key_as_a_signer_is_refused(site: Site) -> None:
    key = admin(site)
    signer = Signer(key.key_id, key.public.public_hex, "writer", ("*",), "admin", None)
    with pytest.raises(RootInvalid, match="is the admin key"):
        check_next(site, signed(following(site, signers=(signer,)), key))


@given(st.binary())
def test_any_bytes_are_no_root(body: bytes) -> None:
    with pytest.raises(RootInvalid):
        first_root(body)


def test_every_field_is_checked() -> None:
    for record in (root._ROOT, root._SIGNER, root._EPOCH, root._READER, root._ADMINISTRATOR):
        assert isinstance(record.build, type)
        assert set(record.fields) == {field.name for field in fields(record.build)}


def test_writer_of_the_root_may_write(site: Site) -> None:
    second = site.add_writer("second", "test", "prod")
    site.trusted.root.check_writer(site.main.key.key_id, "anything")
    site.trusted.root.check_writer(second.key.key_id, "prod")


def refusal(trusted: TrustedRoot, key: str, cluster: str) -> KeyRefused:
    with pytest.raises(KeyRefused) as caught:
        trusted.root.check_writer(key, cluster)
    assert caught.value.exit_code == 12
    assert "bbr writer add" in caught.value.hint
    return caught.value


def test_unknown_writer_is_refused(site: Site) -> None:
    assert "is no writer of this repository (root 1)" in str(refusal(site.trusted, "0" * 16, "prod"))


def test_writer_of_other_clusters_is_refused(site: Site) -> None:
    second = site.add_writer("second", "test")
    assert "may back up test, not prod" in str(refusal(site.trusted, second.key.key_id, "prod"))


def test_revoked_writer_is_refused(site: Site) -> None:
    site.revoke("main", at=site.clock.now)
    assert "writer main" in str(refusal(site.trusted, site.main.key.key_id, "prod"))
    assert "was revoked at 2026-01-02 04:04 UTC" in str(refusal(site.trusted, site.main.key.key_id, "prod"))


def test_unknown_epoch_is_refused(site: Site) -> None:
    assert site.trusted.root.epoch_of(site.trusted.root.epoch.id) == site.trusted.root.epoch
    with pytest.raises(RootInvalid, match="knows no epoch"):
        site.trusted.root.epoch_of("20260101T000000Z-00000000")
