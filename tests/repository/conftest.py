"""A small repository in memory, and a writer that commits well-formed backups into it; tests then spoil them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from bbr.repository import names
from bbr.repository.administration import Holder, NewSigner, add_signer, create, revoke_signer
from bbr.repository.backups import Backup
from bbr.repository.catalog import Catalog
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.manifest import EtcdEntry, Manifest, MemberState, PartRef, encode_manifest
from bbr.repository.parts import seal
from bbr.repository.root import TrustedRoot
from bbr.stores.memory import MemoryStore

BEGINNING = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Clock:
    """The store's clock: it stands still until a test moves it."""

    now: datetime = BEGINNING

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


@dataclass
class Writer:
    """One backup host: its key, and where its generation stands."""

    key: SigningKey
    generation: str = ""
    opened: datetime = BEGINNING
    sequence: int = -1
    head: str | None = None


@dataclass
class Site:
    """A repository with two recovery identities and one writer, ``main``."""

    store: MemoryStore
    clock: Clock
    people: tuple[Identity, Identity]
    main: Writer
    trusted: TrustedRoot

    def add_writer(self, label: str, *clusters: str) -> Writer:
        """One more host that the root trusts, for some clusters or all."""
        writer = Writer(SigningKey.generate())
        signer = NewSigner(writer.key.public, label, clusters or ("*",))
        self.trusted = add_signer(self.store, self.trusted, self.people, signer, now=self.clock.now)
        return writer

    def revoke(self, name: str, *, at: datetime) -> None:
        self.trusted = revoke_signer(self.store, self.trusted, self.people, name, at=at, now=self.clock.now)

    def draft(
        self, *, cluster: str = "prod", writer: Writer | None = None, base: bool = False, raw: bytes = b"content"
    ) -> Manifest:
        """A manifest that is right in every way, the next in its writer's chain; its parts are stored."""
        writer = writer or self.main
        first = base or writer.sequence < 0 or self.clock.now - writer.opened > timedelta(hours=22)
        generation = names.generation(self.clock.now, writer.key.key_id, _hex(16)) if first else writer.generation
        sequence = 0 if first else writer.sequence + 1
        nonce = _hex(16)
        places = names.parts(cluster, generation, sequence, nonce)
        recipient = self.trusted.root.epoch.recipient
        return Manifest(
            repository_id=self.trusted.repository_id,
            root_number=self.trusted.root.number,
            cluster=cluster,
            cluster_identity="uid:00000000-0000-4000-8000-000000000001",
            generation=generation,
            sequence=sequence,
            nonce=nonce,
            previous=writer.head,
            heads=(),
            epoch=self.trusted.root.epoch.id,
            time=self.clock.now,
            backup_id=names.backup_id(cluster, self.clock.now, _hex(4)),
            writer=writer.key.key_id,
            status="complete",
            reasons=(),
            etcds=(entry(None if first else sequence - 1, self._part(places, recipient, raw)),),
            control_plane=None,
            inventory=(self._part(places, recipient, b"{}"),),
        )

    def commit(self, manifest: Manifest, *, writer: Writer | None = None) -> Backup:
        """Sign and store a manifest at its place, and remember it as the writer's head."""
        writer = writer or self.main
        body = encode_manifest(manifest, writer.key)
        backup = self.put(manifest, body)
        if not manifest.sequence:
            writer.opened = self.clock.now
        writer.generation, writer.sequence, writer.head = manifest.generation, manifest.sequence, backup.sha256
        return backup

    def put(self, manifest: Manifest, body: bytes) -> Backup:
        """Store bytes at the place of a manifest, whatever they are."""
        name = names.manifest(manifest.cluster, manifest.generation, manifest.sequence, manifest.nonce)
        self.store.put(name, body)
        return Backup(manifest, name, hashlib.sha256(body).hexdigest(), len(body), self.clock.now)

    def backup(self, **options: object) -> Backup:
        """Commit the next backup, and let an hour go by."""
        manifest = self.draft(**options)  # type: ignore[arg-type]
        writer = options.get("writer")
        backup = self.commit(manifest, writer=writer if isinstance(writer, Writer) else None)
        self.clock.advance(timedelta(hours=1))
        return backup

    def catalog(self, cluster: str | None = None) -> Catalog:
        """All that is listed now."""
        return Catalog.load(self.store, self.trusted, cluster=cluster, threads=1)

    def replace_object(self, name: str, body: bytes) -> None:
        """What an owner of the bucket can do."""
        self.store.delete(name)
        self.store.put(name, body)

    def _part(self, places: Iterator[str], recipient: str, raw: bytes) -> PartRef:
        sealed = seal(raw, recipient)
        name = next(places)
        self.store.put(name, sealed.body)
        return PartRef(name, len(sealed.body), sealed.sha256, sealed.raw_bytes)


def entry(parent: int | None, *parts: PartRef) -> EtcdEntry:
    """One etcd of three members; a base where ``parent`` is None."""
    members = tuple(MemberState(f"{number:x}", f"etcd-{number}", "3.6.16", 10, 77, 5, "") for number in (1, 2, 3))
    return EtcdEntry(
        name="main",
        cluster_id="cdf818194e3a8c32",
        member_id="1",
        member_name="etcd-1",
        server_version="3.6.16",
        storage_version="3.6",
        members=members,
        alarms=(),
        revision=10,
        compact_revision=5,
        hash_kv=77,
        compared=True,
        not_compared_because="",
        records=6,
        page_size=4096,
        snapshot_bytes=sum(part.raw_bytes for part in parts),
        snapshot_sha256="ab" * 32,
        parent=parent,
        parts=parts,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def site(store: MemoryStore, clock: Clock) -> Site:
    people = (Identity.generate(), Identity.generate())
    main = Writer(SigningKey.generate())
    trusted = create(
        store,
        recovery=[Holder(person.recipient, f"person {number}") for number, person in enumerate(people)],
        writers=[NewSigner(main.key.public, "main")],
        now=clock.now,
    )
    clock.advance(timedelta(hours=1))
    return Site(store, clock, people, main, trusted)


def _hex(digits: int) -> str:
    return secrets.token_hex(digits // 2)
