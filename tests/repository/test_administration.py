from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from bbr.errors import KeyRefused, PreconditionFailed, StoreUnavailable, TargetNotEmpty, UsageError
from bbr.repository.administration import (
    Holder,
    NewSigner,
    add_signer,
    create,
    draft,
    find_signer,
    publish,
    revoke_signer,
)
from bbr.repository.epoch import open_admin_key, open_epoch
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.root import load_roots
from bbr.stores.memory import MemoryStore
from bbr.stores.store import Buffer, Entry, Stored

if TYPE_CHECKING:
    from tests.repository.conftest import Clock, Site


def people() -> tuple[Identity, Identity]:
    return Identity.generate(), Identity.generate()


def holders(*identities: Identity) -> list[Holder]:
    return [Holder(identity.recipient, f"person {number}") for number, identity in enumerate(identities)]


def test_new_repository_is_believed_under_the_id_of_its_draft(store: MemoryStore, clock: Clock) -> None:
    one, two = people()
    drafted = draft(recovery=holders(one, two), now=clock.now)
    trusted = publish(store, drafted)
    assert trusted == load_roots(store, drafted.pin)
    assert trusted.root.number == 1
    for identity in (one, two):
        opened = open_epoch(store, trusted, trusted.root.epoch.id, [identity])
        assert opened.recipient == trusted.root.epoch.recipient
        assert open_admin_key(store, trusted, [identity]).public.public_hex == trusted.root.admin_key


def test_draft_stores_nothing_and_the_root_comes_last(clock: Clock) -> None:
    store = Journal(clock)
    drafted = draft(recovery=holders(*people()), now=clock.now)
    assert store.journal == []
    publish(store, drafted)
    assert [name.split("/")[0] for name in store.journal] == ["keys", "keys", "admin", "admin", "root"]


def test_administrators_can_be_others_than_the_readers(store: MemoryStore, clock: Clock) -> None:
    one, two = people()
    admin = Identity.generate()
    administrators = [Holder(admin.recipient, "admin")]
    trusted = create(store, recovery=holders(one, two), administrators=administrators, now=clock.now)
    assert open_admin_key(store, trusted, [admin]).public.public_hex == trusted.root.admin_key
    with pytest.raises(KeyRefused):
        open_admin_key(store, trusted, [one, two])
    with pytest.raises(KeyRefused):
        open_epoch(store, trusted, trusted.root.epoch.id, [admin])


def test_fewer_than_two_recovery_identities_are_refused(store: MemoryStore, clock: Clock) -> None:
    one = Identity.generate()
    for recovery in ([], holders(one), holders(one, one)):
        with pytest.raises(UsageError, match="at least two different recovery identities") as caught:
            create(store, recovery=recovery, now=clock.now)
        assert caught.value.exit_code == 2
    assert list(store.list("")) == []


def test_recipient_that_is_none_is_refused(clock: Clock) -> None:
    with pytest.raises(KeyRefused, match="not an age X25519 recipient"):
        draft(recovery=[*holders(Identity.generate()), Holder("ssh-ed25519 AAAA", "x")], now=clock.now)


@pytest.mark.parametrize("label", ["", "two\nlines", " x", "x" * 101])
def test_label_that_cannot_be_is_refused(clock: Clock, label: str) -> None:
    one, two = people()
    with pytest.raises(UsageError, match="not a label"):
        draft(recovery=[Holder(one.recipient, label), *holders(two)], now=clock.now)


def test_repository_that_exists_is_left_as_it_is(site: Site) -> None:
    before = {entry.name: entry.size_bytes for entry in site.store.list("")}
    with pytest.raises(TargetNotEmpty, match="there is a repository at this address") as caught:
        create(site.store, recovery=holders(*people()), now=site.clock.now)
    assert caught.value.exit_code == 5
    assert {entry.name: entry.size_bytes for entry in site.store.list("")} == before


def test_two_creations_at_once_make_one_repository(clock: Clock) -> None:
    store = Blind(clock)
    first = create(store, recovery=holders(*people()), now=clock.now)
    store.blind = True
    with pytest.raises(TargetNotEmpty, match="another repository was made at this address meanwhile"):
        create(store, recovery=holders(*people()), now=clock.now)
    assert load_roots(store, first.pin).root == first.root


def test_creation_that_was_cut_off_can_be_repeated_with_the_same_identities(clock: Clock) -> None:
    recovery = holders(*people())
    for calls in range(5):
        store = Journal(clock)
        store.fail_after = calls
        with pytest.raises(StoreUnavailable):
            create(store, recovery=recovery, now=clock.now)
        store.fail_after = None
        assert create(store, recovery=recovery, now=clock.now).root.number == 1


def test_added_writer_may_write_and_its_root_is_the_next(site: Site) -> None:
    key = SigningKey.generate()
    signer = NewSigner(key.public, "master-2", ("prod", "test"))
    trusted = add_signer(site.store, site.trusted, [site.people[1]], signer, now=site.clock.now)
    assert trusted.root.number == 2
    trusted.root.check_writer(key.key_id, "test")
    assert load_roots(site.store, site.trusted.pin).root == trusted.root


def test_only_an_administrator_changes_the_root(site: Site) -> None:
    signer = NewSigner(SigningKey.generate().public, "intruder")
    with pytest.raises(KeyRefused, match="is an administrator's"):
        add_signer(site.store, site.trusted, [Identity.generate()], signer, now=site.clock.now)
    assert load_roots(site.store, None).root.number == 1


def test_key_or_label_that_is_there_is_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="is known already, as writer main"):
        add_signer(site.store, site.trusted, site.people, NewSigner(site.main.key.public, "x"), now=site.clock.now)
    with pytest.raises(UsageError, match="there is a writer called main"):
        site.add_writer("main")


def test_cluster_that_cannot_be_is_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="not a name for a cluster"):
        site.add_writer("second", "a/b")


def test_label_of_a_revoked_writer_can_be_used_again(site: Site) -> None:
    site.revoke("main", at=site.clock.now)
    fresh = site.add_writer("main")
    assert find_signer(site.trusted.root, "main").id == fresh.key.key_id


def test_revoked_writer_stays_in_the_root(site: Site) -> None:
    site.revoke(site.main.key.key_id, at=site.clock.now + timedelta(microseconds=5))
    assert site.trusted.root.number == 2
    signer = find_signer(site.trusted.root, "main")
    assert (signer.id, signer.revoked) == (site.main.key.key_id, site.clock.now)


def test_revoking_twice_is_refused(site: Site) -> None:
    site.revoke("main", at=site.clock.now)
    with pytest.raises(UsageError, match="was revoked at 2026-01-02 04:04 UTC already"):
        site.revoke("main", at=site.clock.now)


def test_a_revocation_can_be_moved_to_an_earlier_time_and_to_no_later_one(site: Site) -> None:
    first = site.backup()
    second = site.backup()
    site.revoke("main", at=site.clock.now)
    assert site.catalog().backups == (first, second)
    site.revoke("main", at=second.manifest.time)
    assert site.catalog().backups == (first,)
    with pytest.raises(UsageError, match="already") as caught:
        site.revoke("main", at=site.clock.now)
    assert "moved to an earlier time" in caught.value.hint


def test_a_revocation_in_the_future_is_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="2026-01-02 04:05:05 UTC has not come yet"):
        site.revoke("main", at=site.clock.now + timedelta(minutes=1))
    assert site.trusted.root.number == 1


def test_unknown_signer_is_refused_and_others_are_named(site: Site) -> None:
    with pytest.raises(UsageError, match="no signer has the label or id 'nobody'") as caught:
        revoke_signer(site.store, site.trusted, site.people, "nobody", at=site.clock.now, now=site.clock.now)
    assert f"main ({site.main.key.key_id})" in caught.value.hint


def test_slower_of_two_administrators_is_refused(site: Site) -> None:
    stale = site.trusted
    site.add_writer("second")
    signer = NewSigner(SigningKey.generate().public, "third")
    with pytest.raises(PreconditionFailed, match="another administrator changed the root meanwhile") as caught:
        add_signer(site.store, stale, site.people, signer, now=site.clock.now)
    assert caught.value.exit_code == 5
    assert [one.label for one in load_roots(site.store, None).root.signers] == ["main", "second"]


def test_clock_that_ran_back_does_not_stop_an_administrator(site: Site) -> None:
    site.clock.advance(timedelta(days=-1))
    site.add_writer("second")
    assert site.trusted.root.number == 2


class Journal(MemoryStore):
    """Remembers what was put, in order; stops answering after ``fail_after`` puts."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.journal: list[str] = []
        self.fail_after: int | None = None

    def put(self, name: str, body: Buffer, *, retain_until: datetime | None = None) -> Stored:
        if self.fail_after is not None and len(self.journal) >= self.fail_after:
            raise StoreUnavailable("gone")
        self.journal.append(name)
        return super().put(name, body, retain_until=retain_until)


class Blind(MemoryStore):
    """Does not list the first time: as if another's root came between the listing and the put."""

    blind = True

    def list(self, prefix: str) -> Iterator[Entry]:
        blind, self.blind = self.blind, False
        return iter(()) if blind else super().list(prefix)
