"""A repository of a test's own: its keys, a writer's state, and the few calls that tests make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bbr.backup import Outcome, Request, run
from bbr.capture.take import Caution, Source
from bbr.errors import EtcdUnavailable
from bbr.etcd import write
from bbr.etcd.client import Credentials, EtcdClient
from bbr.machines.machine import Machine
from bbr.progress import Silent
from bbr.rebuild import Rebuilt, rebuild
from bbr.repository.administration import Holder, NewSigner, create
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup, Catalog
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.root import TrustedRoot, load_roots
from bbr.repository.state import State
from bbr.servers.etcd import Member
from bbr.servers.ports import free_ports
from bbr.servers.process import Process
from bbr.stores.store import Store
from bbr.verify import Check, verify_readable, verify_stored

NO_CREDENTIALS = Credentials(ca=None, certificate=None, key=None)
CLUSTER = "prod"


@dataclass(frozen=True, slots=True)
class Site:
    """One repository and one backup host. ``recovery`` are the two identities that open everything."""

    store: Store
    trusted: TrustedRoot
    key: SigningKey
    recovery: tuple[Identity, Identity]
    state: State

    def backup(
        self,
        *sources: Source,
        caution: Caution | None = None,
        accept_identity: bool = False,
        new_generation: bool = False,
        masters: Mapping[str, Machine] | None = None,
    ) -> Outcome:
        """One run of `bbr backup`."""
        return run(
            Request(
                CLUSTER,
                sources,
                caution=caution or Caution(),
                accept_identity=accept_identity,
                new_generation=new_generation,
                masters=masters or {},
            ),
            store=self.store,
            trusted=self.trusted,
            key=self.key,
            state=self.state,
            progress=Silent(),
        )

    def archive(self, identities: Sequence[Identity] | None = None) -> Archive:
        """The repository as a rescue host opens it: roots checked anew, every manifest read."""
        trusted = load_roots(self.store, self.trusted.pin)
        catalog = Catalog.load(self.store, trusted)
        return Archive(self.store, trusted, catalog, self.recovery[1:] if identities is None else identities)

    def rebuild(self, backup: Backup, target: Path, etcd: str = "main") -> Rebuilt:
        """One etcd of a backup as a snapshot file."""
        return rebuild(self.archive(), backup, etcd, target, progress=Silent())

    def failed_checks(self, scratch: Path | None = None) -> list[Check]:
        """What `bbr verify` finds in the whole repository: stored only, or with ``scratch`` readable too."""
        archive = self.archive()
        checks = [*verify_stored(archive, None, progress=Silent())]
        if scratch is not None:
            for backup in archive.catalog.backups:
                checks += verify_readable(archive, backup, scratch=scratch, boot=None, progress=Silent())
        return [check for check in checks if not check.passed]


def make_site(store: Store, folder: Path) -> Site:
    """A new repository in ``store``, with one writer whose state is in ``folder``."""
    key = SigningKey.generate()
    recovery = (Identity.generate(), Identity.generate())
    trusted = create(
        store,
        recovery=[Holder(identity.recipient, f"safe {number}") for number, identity in enumerate(recovery)],
        writers=[NewSigner(key.public, "host")],
        now=datetime.now(UTC),
    )
    return Site(store, trusted, key, recovery, State.open(folder / "state", trusted.repository_id))


def source(endpoints: Sequence[str], credentials: Credentials = NO_CREDENTIALS, name: str = "main") -> Source:
    """An etcd to back up."""
    return Source(name, tuple(endpoints), credentials)


def churn(client: EtcdClient, round_number: int, *, keys: int = 100, value_bytes: int = 500) -> int:
    """Change ``keys`` objects in two transactions, delete one, compact all but the last few revisions."""
    names = [f"/registry/configmaps/default/c{number}".encode() for number in range(keys)]
    for half in (names[: keys // 2], names[keys // 2 :]):
        write.txn(client, {name: (b"%d %b " % (round_number, name) * value_bytes)[:value_bytes] for name in half})
    revision = write.delete(client, names[round_number % keys])
    write.compact(client, revision - 2)
    return revision


@contextmanager
def left_behind(member: Member, binary: Path) -> Iterator[None]:
    """A stopped member serves its data as they were, and hears nothing from the others any more.

    It is told to go on alone, on another peer port; its cluster id stays.
    """
    (peer,) = free_ports(1)
    flags = ["--force-new-cluster", "--name", member.name, "--data-dir", str(member.data_dir)]
    flags += ["--listen-client-urls", member.endpoint, "--advertise-client-urls", member.endpoint]
    flags += ["--listen-peer-urls", f"http://127.0.0.1:{peer}", "--unsafe-no-fsync"]
    with Process("the lonely etcd", [str(binary), *flags], log=member.log) as process, member.client() as client:
        process.wait_ready(lambda: leads(client), what="the lonely member")
        yield


def leads(client: EtcdClient) -> bool:
    """Whether this member answers and has a leader."""
    try:
        return client.status().leader_id != 0
    except EtcdUnavailable:
        return False
