"""The document's reader before hostile repositories: each is signed and sealed as it should be, but for one fault."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import zstandard

from bbr.etcd.bolt.read import BoltReader
from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.mvcc import KeyValue, RevisionKey
from bbr.repository import document, frames, names
from bbr.repository.administration import Holder, NewSigner, create
from bbr.repository.envelope import encode_envelope, sign
from bbr.repository.keyfiles import write_identity
from bbr.repository.keys import Identity, SigningKey, seal_to
from bbr.repository.manifest import PAYLOAD_TYPE, EtcdEntry, Manifest, PartRef
from bbr.repository.parts import seal
from bbr.repository.root import TrustedRoot, encode_root
from bbr.stores.directory import DirectoryStore

READER = Path(__file__).parents[1] / "docs" / "restore_by_hand.py"
OPENED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
COMPACTED = 3
CLUSTER = "prod"

Records = dict[bytes, bytes]
Buckets = dict[bytes, list[tuple[bytes, bytes]]]


def record(main: int, key: bytes, *, deleted: bool = False) -> tuple[bytes, bytes]:
    """A record of bucket ``key``: one change of one etcd key."""
    value = KeyValue(key) if deleted else KeyValue(key, main, main, 1, b"v%d" % main)
    return RevisionKey(main, 0, deleted).encode(), value.encode()


def revision(main: int) -> bytes:
    return RevisionKey(main, 0).encode()


BASE = dict([record(2, b"/a"), record(3, b"/b"), record(4, b"/c"), record(5, b"/a"), (revision(6), b"")])
"""The last is what `etcdutl snapshot restore --bump-revision` puts on top."""

REMOVED = {1: [revision(2)], 2: [revision(8), revision(9)]}
ADDED = {
    1: dict([record(7, b"/d"), record(8, b"/d"), record(9, b"/b", deleted=True)]),
    2: dict([record(10, b"/e"), record(11, b"/f" * 100)]),
}
BUCKETS: dict[int, Buckets] = {
    number: {b"alarm": [], b"meta": [(b"finishedCompactRev", revision(COMPACTED)), (b"number", b"%d" % number)]}
    for number in range(3)
}
FINAL = {
    key: value for key, value in {**BASE, **ADDED[1], **ADDED[2]}.items() if key[:17] not in REMOVED[1] + REMOVED[2]
}


def bolt(records: Mapping[bytes, bytes], buckets: Buckets) -> bytes:
    out = io.BytesIO()
    writer = BoltWriter(out, leaf_bytes=4096)
    for key in sorted(records):
        writer.add(key, records[key])
    writer.finish(b"key", buckets)
    return out.getvalue()


def stream(removed: list[bytes], added: list[tuple[bytes, bytes]], buckets: Buckets) -> bytes:
    return b"".join(frames.encode(removed, added, buckets))


@dataclass
class Site:
    """A repository in a folder, its one writer, and what is changed on the way into its last backup."""

    folder: Path
    store: DirectoryStore
    key: SigningKey
    people: tuple[Identity, Identity]
    trusted: TrustedRoot
    manifests: list[Manifest] = field(default_factory=list)

    @property
    def key_file(self) -> Path:
        return self.folder.parent / "recovery.txt"

    def replace(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Store something else in an object's place."""
        path = self.folder / name
        path.write_bytes(change(path.read_bytes()))

    def manifest_name(self, number: int) -> str:
        one = self.manifests[number]
        return names.manifest(one.cluster, one.generation, one.sequence, one.nonce)

    def put_manifest(self, manifest: Manifest, payload: bytes | None = None) -> None:
        """Sign and store a manifest, as it is and unchecked, where it belongs."""
        body = encode_envelope(sign(PAYLOAD_TYPE, payload or document.encode(manifest), [self.key]))
        path = self.folder / names.manifest(manifest.cluster, manifest.generation, manifest.sequence, manifest.nonce)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def change(self, number: int, alter: Callable[[Manifest], Manifest]) -> None:
        self.manifests[number] = alter(self.manifests[number])
        self.put_manifest(self.manifests[number])

    def change_etcd(self, number: int, alter: Callable[[EtcdEntry], EtcdEntry]) -> None:
        self.change(number, lambda one: replace(one, etcds=(alter(one.etcds[0]),)))

    def change_part(self, number: int, raw: bytes, frame: bytes | None = None) -> None:
        """Another content for the one part of a backup, sealed and named as it should be."""
        recipient = self.trusted.root.epoch.recipient
        body = seal(raw, recipient).body if frame is None else seal_to([recipient], frame)
        old = self.manifests[number].etcds[0].parts[0]
        (self.folder / old.name).write_bytes(body)
        part = PartRef(old.name, len(body), hashlib.sha256(body).hexdigest(), len(raw))
        self.change_etcd(number, lambda entry: replace(entry, parts=(part,)))

    def run(self, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """The reader on the newest backup."""
        arguments = [str(self.folder), str(self.key_file), self.manifests[-1].backup_id, str(target), *options]
        return run(*arguments)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(READER), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def make_site(folder: Path, *, clusters: tuple[str, ...] = (CLUSTER,)) -> Site:
    """A base and two increments."""
    repository = folder / "repository"
    repository.mkdir()
    store, key, people = DirectoryStore(repository), SigningKey.generate(), (Identity.generate(), Identity.generate())
    holders = [Holder(one.recipient, f'safe {number} "é"') for number, one in enumerate(people)]
    writers = [NewSigner(key.public, "host", clusters)]
    site = Site(repository, store, key, people, create(store, recovery=holders, writers=writers, now=OPENED))
    write_identity(site.key_file, people[0], site.trusted.pin, "safe")
    snapshot = bolt(BASE, BUCKETS[0])
    contents = [snapshot + hashlib.sha256(snapshot).digest()]
    contents += [stream(REMOVED[number], sorted(ADDED[number].items()), BUCKETS[number]) for number in (1, 2)]
    middle = {own: value for own, value in {**BASE, **ADDED[1]}.items() if own not in REMOVED[1]}
    generation = names.generation(OPENED, key.key_id, "a" * 16)
    for number, (content, records) in enumerate(zip(contents, (BASE, middle, FINAL), strict=True)):
        nonce = f"{number:016x}"
        part = seal(content, site.trusted.root.epoch.recipient)
        name = next(names.parts(CLUSTER, generation, number, nonce))
        store.put(name, part.body)
        last = max(RevisionKey.decode(own).main for own in records)
        hashed = hash_kv(BoltReader(bolt(records, BUCKETS[number])), last, COMPACTED)
        ref = PartRef(name, len(part.body), part.sha256, part.raw_bytes)
        site.manifests.append(_manifest(site, generation, nonce, _entry(number, last, hashed, ref)))
        site.put_manifest(site.manifests[-1])
    return site


def _entry(number: int, last: int, hashed: int, part: PartRef) -> EtcdEntry:
    return EtcdEntry(
        name="main",
        cluster_id="cdf818194e3a8c32",
        member_id="1",
        member_name="etcd-1",
        server_version="3.6.16",
        storage_version="3.6",
        members=(),
        alarms=(),
        revision=last,
        compact_revision=COMPACTED,
        hash_kv=hashed,
        compared=True,
        not_compared_because="",
        records=1,
        page_size=4096,
        snapshot_bytes=part.raw_bytes,
        snapshot_sha256="ab" * 32,
        parent=number - 1 if number else None,
        parts=(part,),
    )


def _manifest(site: Site, generation: str, nonce: str, entry: EtcdEntry) -> Manifest:
    number = len(site.manifests)
    return Manifest(
        repository_id=site.trusted.repository_id,
        root_number=1,
        cluster=CLUSTER,
        cluster_identity="etcd:cdf818194e3a8c32",
        generation=generation,
        sequence=number,
        nonce=nonce,
        previous=None,
        heads=(),
        epoch=site.trusted.root.epoch.id,
        time=OPENED + timedelta(minutes=number),
        backup_id=names.backup_id(CLUSTER, OPENED + timedelta(minutes=number), f"{number:04x}"),
        writer=site.key.key_id,
        status="complete",
        reasons=(),
        etcds=(entry,),
        control_plane=None,
        inventory=(),
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def own_parent(site: Site) -> None:
    site.change_etcd(2, lambda entry: replace(entry, parent=2))


def ring(site: Site) -> None:
    site.change_etcd(1, lambda entry: replace(entry, parent=2))


def loose_envelope(site: Site) -> None:
    site.replace(site.manifest_name(2), lambda body: body + b"\n")


def loose_payload(site: Site) -> None:
    one = site.manifests[2]
    site.put_manifest(one, document.encode(one).replace(b',"', b', "', 1))


def newer_format(site: Site) -> None:
    site.change(2, lambda one: replace(one, format=2))


def after_the_frame(site: Site) -> None:
    raw = stream(REMOVED[2], sorted(ADDED[2].items()), BUCKETS[2])
    site.change_part(2, raw, zstandard.ZstdCompressor(write_checksum=True).compress(raw) + b"more")


def bomb(site: Site) -> None:
    site.change_part(2, b"small", zstandard.ZstdCompressor().compress(bytes(64 << 20)))


def longer_part(site: Site) -> None:
    site.replace(site.manifests[2].etcds[0].parts[0].name, lambda body: body + b"x")


def second_root(site: Site, *, number: int = 2, by_owner: bool = True, revoked: datetime | None = None) -> None:
    """One more root, with an admin key of its own."""
    first = site.trusted.root
    key = SigningKey.generate()
    signers = tuple(replace(one, revoked=revoked) for one in first.signers)
    administrators = tuple(
        replace(one, object_name=names.admin_name(key.key_id, one.recipient)) for one in first.administrators
    )
    root = replace(
        first,
        number=number,
        previous=site.trusted.sha256,
        admin_key=key.public.public_hex,
        administrators=administrators,
        signers=signers,
    )
    keys = [key]
    if by_owner:
        sealed = (site.folder / first.administrators[0].object_name).read_bytes()
        keys.append(SigningKey.from_pem(site.people[0].opens(sealed)))
    (site.folder / names.root_name(number)).write_bytes(encode_root(root, keys))


def root_gap(site: Site) -> None:
    second_root(site, number=3)


def strange_root(site: Site) -> None:
    second_root(site, by_owner=False)


def revoked_writer(site: Site) -> None:
    second_root(site, revoked=site.manifests[2].time)


def wrong_identity(site: Site) -> None:
    site.key_file.unlink()
    write_identity(site.key_file, Identity.generate(), site.trusted.pin, "other")


def increment(
    removed: list[bytes], added: list[tuple[bytes, bytes]], buckets: Buckets | None = None
) -> Callable[[Site], None]:
    """The last increment with this content; the HashKV of its manifest stays."""
    return lambda site: site.change_part(2, stream(removed, added, BUCKETS[2] if buckets is None else buckets))


def altered(alter: Callable[[bytes], bytes]) -> Callable[[Site], None]:
    """The last increment with other bytes."""
    whole = stream(REMOVED[2], sorted(ADDED[2].items()), BUCKETS[2])
    return lambda site: site.change_part(2, alter(whole))


def miscounted(whole: bytes) -> bytes:
    return whole[:-52] + struct.pack(">QQI", 2, 3, 2) + whole[-32:]


ABSENT = "which is not there"
ORDER = "out of order"
MISSING = "manifests fit in its chain"
FAULTS: dict[str, tuple[Callable[[Site], None], str]] = {
    "a manifest that is its own parent": (own_parent, "builds upon itself"),
    "a ring of parents": (ring, "upon what is later"),
    "an envelope with a line break": (loose_envelope, "not canonical"),
    "a payload with a space": (loose_payload, "not canonical"),
    "a newer format": (newer_format, MISSING),
    "bytes after the frame": (after_the_frame, "ZstdError"),
    "a bomb": (bomb, "too large"),
    "a part longer than it should be": (longer_part, "its size is another"),
    "a gap between roots": (root_gap, "root/2.json"),
    "a root that the one before did not sign": (strange_root, "root/2.json: ValueError: not signed"),
    "a revoked writer": (revoked_writer, "was revoked 2026-01-02T03:06:05Z"),
    "an identity that reads nothing": (wrong_identity, "is not sealed to age1"),
    "a removed revision that never was": (increment([revision(77)], sorted(ADDED[2].items())), ABSENT),
    "a removed revision that is gone": (increment([revision(2)], sorted(ADDED[2].items())), ABSENT),
    "wrong counts": (altered(miscounted), "count"),
    "bytes after the end": (altered(lambda whole: whole + b"x"), "count"),
    "no end": (altered(lambda whole: whole[:-57]), "ValueError"),
    "removed out of order": (increment(REMOVED[2][::-1], sorted(ADDED[2].items())), ORDER),
    "records out of order": (increment(REMOVED[2], sorted(ADDED[2].items(), reverse=True)), ORDER),
    "the bucket of the records": (increment(REMOVED[2], [], {b"key": []}), ORDER),
    "another history": (increment(REMOVED[2], []), "its HashKV is"),
}


def test_a_chain_is_restored(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "etcd.db"
    ended = site.run(target)
    assert (ended.returncode, ended.stderr) == (0, "")
    data = target.read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    reader = BoltReader(data[:-32])
    assert {bytes(key): bytes(value) for key, value in reader.items(b"key")} == FINAL
    found = {name: [(bytes(key), bytes(value)) for key, value in reader.items(name)] for name in BUCKETS[2]}
    assert found == BUCKETS[2]
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["etcd.db", "recovery.txt", "repository"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused(site: Site, tmp_path: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(site)
    assert_refused(site.run(tmp_path / "etcd.db"), tmp_path, message)


def test_a_writer_of_another_cluster_is_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path, clusters=("other",))
    assert_refused(site.run(tmp_path / "etcd.db"), tmp_path, "may not write for this cluster")


def test_an_unreadable_manifest_beside_good_ones_does_not_matter(site: Site, tmp_path: Path) -> None:
    (site.folder / site.manifest_name(2)).with_name("000003-0123456789abcdef.manifest").write_bytes(b"{")
    assert site.run(tmp_path / "etcd.db").returncode == 0


def test_an_existing_output_stays(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "etcd.db"
    target.write_bytes(b"mine")
    ended = site.run(target)
    assert ended.returncode == 1
    assert "is there already" in ended.stderr
    assert target.read_bytes() == b"mine"


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
"""A limit on the size of files stands in for the disk."""

STOPPED = "import os, signal; os.fsync = lambda _: signal.raise_signal(signal.SIGINT)"


@pytest.mark.parametrize(("before", "code", "message"), [(FULL, 1, "File too large"), (STOPPED, -2, "Interrupt")])
def test_what_is_cut_off_leaves_nothing(site: Site, tmp_path: Path, before: str, code: int, message: str) -> None:
    script = f"{before}; import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [site.folder, site.key_file, site.manifests[-1].backup_id, tmp_path / "etcd.db"]
    command = [sys.executable, "-c", script, str(READER), *map(str, arguments)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert_refused(ended, tmp_path, message, code=code)


@pytest.mark.parametrize("arguments", [[], ["repository"], ["a"] * 6])
def test_wrong_arguments_show_the_usage(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "Usage: python3 docs/restore_by_hand.py REPOSITORY_FOLDER" in ended.stderr


def assert_refused(ended: subprocess.CompletedProcess[str], folder: Path, message: str, *, code: int = 1) -> None:
    """One line that says what failed, and no file."""
    assert ended.returncode == code
    assert ended.stderr.startswith("restore_by_hand: ")
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["recovery.txt", "repository"]
