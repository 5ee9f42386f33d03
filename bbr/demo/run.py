"""The guided tour, as a checklist: a real etcd is filled, backed up twice, destroyed, restored, and compared.

Each step is yielded when it is done, with what it showed; what it proves is proven inside it, so a tour that reaches
its end has compared everything. All of it lies in one folder, and every server ends with the tour.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bbr.backup import Outcome, Request, run
from bbr.capture.take import Source
from bbr.demo.keyspace import Change, Keyspace, apply_changes, grant_lease
from bbr.demo.step import Clock, Step
from bbr.errors import HashMismatch, VerificationFailed
from bbr.etcd.client import EtcdClient
from bbr.etcd.tools import Etcdutl
from bbr.etcd.write import compact
from bbr.progress import Progress
from bbr.repository.administration import Holder, NewSigner, create
from bbr.repository.archive import Archive
from bbr.repository.catalog import Catalog
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.root import TrustedRoot
from bbr.repository.state import State
from bbr.servers.binaries import Binary
from bbr.servers.etcd import EtcdServers, boot_etcd, start_etcd
from bbr.stores.store import Store
from bbr.verify import BootTools, Check, verify_readable, verify_stored
from restore.etcd import Member, Restored, default_token, to_data_dir

CLUSTER = "demo"
CHURN_SHARE = 0.01
"""Of the objects, so many change between the two backups."""

_PAGE_KEYS = 1000
_PEER_URL = "http://127.0.0.1:2380"  # Goes into the data directory only: a lone member is told its own at the start.


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs of the tour, both of one etcd version."""

    etcd: Binary
    etcdutl: Etcdutl


@dataclass(frozen=True, slots=True)
class _Host:
    """What a backup host and a person with a recovery identity have between them."""

    store: Store
    trusted: TrustedRoot
    writer: SigningKey
    recovery: Identity
    state: State

    def archive(self) -> Archive:
        return Archive(self.store, self.trusted, Catalog.load(self.store, self.trusted), [self.recovery])


def tour(
    tools: Tools, base: Path, *, objects: int, open_place: Callable[[ExitStack], Store], progress: Progress
) -> Generator[Step, None, None]:
    """Go through all of it in the folder ``base``. ``open_place`` gives an empty store that lives as long as its stack.

    Raises `VerificationFailed` or `HashMismatch` when anything that came back is not what was there. Close the iterator
    to end early; servers end with it.
    """
    clock = Clock(progress)
    keyspace = Keyspace()
    quiet = _Quiet(progress)
    with ExitStack() as running:
        clock.begin(f"start a real etcd {tools.etcd.version}")
        servers = running.enter_context(start_etcd(tools.etcd.path, base / "etcd"))
        client = running.enter_context(servers.client())
        yield clock.done(servers.endpoints[0])

        clock.begin(f"load {objects:,} Kubernetes-like objects")
        lease = grant_lease(client)
        revision = apply_changes(client, _counted(keyspace.create(objects), progress), lease=lease)
        yield clock.done(f"revision {revision:,}, {_mb(client.status().db_size_bytes)} in etcd", revision=revision)

        clock.begin("make a repository with two recovery identities and a writer")
        store = open_place(running)
        host = _make_host(store, base / "state")
        yield clock.done(f"id {host.trusted.repository_id[:16]}...", repository=host.trusted.repository_id)

        clock.begin("first backup: a base")
        first = _backup(host, servers, quiet)
        yield clock.done(
            f"{_mb(first.stored_bytes)} stored, sealed and signed, for {_mb(first.raw_bytes)}, read back and compared",
            stored_bytes=first.stored_bytes,
            snapshot_bytes=first.raw_bytes,
        )

        changes = max(1, round(objects * CHURN_SHARE))
        clock.begin(f"{changes:,} changes, and a compaction")
        revision = apply_changes(client, keyspace.churn(changes), lease=lease)
        compact(client, revision - 1)
        yield clock.done(f"revision {revision:,}, compacted", revision=revision)

        clock.begin("second backup: an increment")
        second = _backup(host, servers, quiet)
        if second.kinds != ("increment",):
            raise VerificationFailed(f"the second backup is a {second.kinds[0]}: {second.why_base}")
        ratio = first.stored_bytes / second.stored_bytes
        yield clock.done(
            f"{_mb(second.stored_bytes)} stored: 1/{ratio:.0f} of the base",
            stored_bytes=second.stored_bytes,
        )

        clock.begin("verify what is stored, without any key")
        checks = _passed(verify_stored(host.archive(), None, progress=quiet))
        yield clock.done(f"{checks} checks passed", checks=checks)

        clock.begin("kill etcd and delete its data")
        client.close()
        servers.members[0].kill()
        shutil.rmtree(servers.members[0].data_dir)
        yield clock.done("kill -9, rm -r")

        archive = host.archive()
        backup = archive.catalog.find(CLUSTER, "latest")
        entry = backup.manifest.etcd("main")
        clock.begin("restore the latest backup, and boot it as it was (no bump)")
        boot = BootTools(tools.etcd.path, tools.etcdutl)
        _passed(verify_readable(archive, backup, scratch=base, boot=boot, progress=quiet))
        yield clock.done(
            f"HashKV {entry.hash_kv} at revision {entry.revision:,}: the manifest's", hash_kv=entry.hash_kv
        )

        clock.begin("restore a data directory, revisions bumped")
        member = Member("demo", f"demo={_PEER_URL}", _PEER_URL, default_token(backup))
        restored = to_data_dir(
            archive, backup, "main", base / "restored", member=member, etcdutl=tools.etcdutl, progress=quiet
        )
        yield clock.done(f"by etcdutl {tools.etcdutl.version}, +{restored.bump:,}", bump=restored.bump)

        clock.begin("boot it")
        booted = running.enter_context(boot_etcd(tools.etcd.path, restored.data_dir, name="demo"))
        client = running.enter_context(booted.client())
        answer = _bumped_hash(client, restored)
        yield clock.done(
            f"HashKV {answer} at revision {restored.bumped_revision:,}: as computed offline", hash_kv=answer
        )

        clock.begin("compare every key with what was written")
        compared = compare(client, keyspace)
        yield clock.done(f"{compared:,} keys, all equal", keys=compared)


class _Quiet:
    """Passes on how far a step is, but not the smaller steps inside it: the tour names its own."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, what: str) -> None:
        """Nothing."""

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """See `Progress.advance`."""
        self._progress.advance(done_bytes, total_bytes)

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self._progress.warn(what)


def _counted(changes: Iterable[Change], progress: Progress) -> Iterator[Change]:
    done = 0
    for change in changes:
        done += len(change.written.value)
        progress.advance(done, 0)
        yield change


def _make_host(store: Store, state: Path) -> _Host:
    recovery, safe, writer = Identity.generate(), Identity.generate(), SigningKey.generate()
    trusted = create(
        store,
        recovery=[Holder(recovery.recipient, "operator"), Holder(safe.recipient, "safe")],
        writers=[NewSigner(writer.public, "demo host")],
        now=datetime.now(UTC),
    )
    return _Host(store, trusted, writer, recovery, State.open(state, trusted.repository_id))


def _backup(host: _Host, servers: EtcdServers, progress: Progress) -> Outcome:
    source = Source("main", servers.endpoints, servers.credentials)
    return run(
        Request(CLUSTER, (source,)),
        store=host.store,
        trusted=host.trusted,
        key=host.writer,
        state=host.state,
        progress=progress,
    )


def _passed(checks: Iterable[Check]) -> int:
    """How many checks passed. Raises `VerificationFailed` at the first that did not."""
    count = 0
    for check in checks:
        if not check.passed:
            raise VerificationFailed(f"{check.name}: {check.detail}")
        count += 1
    return count


def _bumped_hash(client: EtcdClient, restored: Restored) -> int:
    """The booted member's HashKV. Raises `HashMismatch` when it is not the one computed offline."""
    answer = client.hash_kv(restored.bumped_revision)
    if answer.hash != restored.bumped_hash_kv:
        raise HashMismatch(
            f"the restored etcd answers HashKV {answer.hash} at revision {restored.bumped_revision}; "
            f"{restored.bumped_hash_kv} was computed from the backup"
        )
    return answer.hash


def compare(client: EtcdClient, keyspace: Keyspace) -> int:
    """How many keys are there. Raises `VerificationFailed` unless they are exactly those that were written."""
    written = {stored.key: stored for stored in keyspace.contents()}
    start, compared = b"\0", 0
    while True:
        page = client.range(start, b"\0", limit=_PAGE_KEYS)
        for pair in page.kvs:
            expected = written.get(pair.key)
            if expected is None or expected.value != pair.value or expected.leased != bool(pair.lease):
                raise VerificationFailed(f"key {pair.key.decode(errors='replace')} is not as it was written")
        compared += len(page.kvs)
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"
    if compared != len(written):
        raise VerificationFailed(f"{len(written):,} keys were written, {compared:,} came back")
    return compared


def _mb(count_bytes: int) -> str:
    return f"{count_bytes / 1e6:.1f} MB" if count_bytes >= 1e6 else f"{count_bytes / 1e3:.0f} kB"
