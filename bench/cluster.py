"""What is measured on: a real etcd full of Kubernetes-like objects, a repository, and the stock programs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bbr.demo.keyspace import Keyspace, apply_changes, grant_lease
from bbr.etcd import write
from bbr.etcd.client import EtcdClient
from bbr.servers.binaries import find, search_path
from bbr.servers.etcd import EtcdServers, start_etcd
from bench.measure import run

ETCD_VERSION = "3.6.16"
CHURN_SHARE = 0.01

ROUNDS = 10
"""Rounds of churn before anything is measured: a database that nothing was ever deleted from has no free pages."""

KEPT_REVISIONS = 10
"""What a compaction leaves, each up to 100 changes: the last thousand, as kube-apiserver leaves the last minutes."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The stock programs of the comparison, and our own."""

    etcd: Path
    etcdctl: Path
    etcdutl: Path
    age: Path
    zstd: Path
    bbr: Path


@dataclass(frozen=True, slots=True)
class Site:
    """A loaded etcd, and a repository on a folder with a writer's state beside it."""

    folder: Path
    programs: Programs
    servers: EtcdServers
    client: EtcdClient
    keyspace: Keyspace
    lease: int

    @property
    def environ(self) -> dict[str, str]:
        """What every measured command is given."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "ETCDCTL_API": "3"}

    @property
    def identity(self) -> Path:
        """A recovery identity of the repository."""
        return self.folder / "keys" / "recovery-1.txt"

    @property
    def recipient(self) -> str:
        """The same identity's public half."""
        lines = self.identity.read_text().splitlines()
        return next(line.split()[-1] for line in lines if "public key:" in line)

    def bbr(self, *words: str) -> list[str]:
        """A command line of ours on the repository."""
        where = ["--repo", str(self.folder / "repository"), "--state-dir", str(self.folder / "state")]
        return [str(self.programs.bbr), *words, *where]

    def backup(self, *more: str) -> list[str]:
        """A backup's command line."""
        key = next((self.folder / "keys").glob("writer-*.key"))
        return [*self.bbr("backup", "--cluster", "bench", "--writer-key", str(key)), *self._endpoint(), *more]

    def snapshot_save(self, target: Path) -> list[str]:
        """etcdctl's own snapshot."""
        return [str(self.programs.etcdctl), "--endpoints", self.servers.endpoints[0], "snapshot", "save", str(target)]

    def restore(self, target: Path) -> list[str]:
        """The newest backup to a snapshot file."""
        return self.bbr("restore", "etcd", "latest", "--identity", str(self.identity), "--to-snapshot", str(target))

    def churn(self) -> None:
        """One round: 1 % of the objects change, and all but the last `KEPT_REVISIONS` are compacted."""
        count = max(int(len(self.keyspace) * CHURN_SHARE), 1)
        revision = apply_changes(self.client, self.keyspace.churn(count), lease=self.lease)
        write.compact(self.client, max(revision - KEPT_REVISIONS, 1))

    def _endpoint(self) -> list[str]:
        return ["--endpoints", self.servers.endpoints[0]]


def programs() -> Programs:
    """Find them all. Raises `ToolMissing`."""
    search = search_path(bin_dir=None, environ=os.environ)
    zstd, bbr = shutil.which("zstd"), shutil.which("bbr", path=str(Path(sys.executable).parent))
    if zstd is None or bbr is None:
        raise SystemExit("bench: zstd or bbr is missing; `make bench` sets both up")
    etcd = {name: find(name, search=search, version=ETCD_VERSION).path for name in ("etcd", "etcdctl", "etcdutl")}
    return Programs(**etcd, age=find("age", search=search).path, zstd=Path(zstd), bbr=Path(bbr))


@contextmanager
def site(folder: Path, objects: int) -> Iterator[Site]:
    """Start and load an etcd with ``objects`` objects, churn it `ROUNDS` times, and make an empty repository."""
    found = programs()
    flags = ("--quota-backend-bytes", str(16 << 30))
    with start_etcd(found.etcd, folder / "etcd", flags=flags) as servers, servers.client() as client:
        keyspace, lease = Keyspace(seed=1), grant_lease(client)
        apply_changes(client, keyspace.create(objects), lease=lease)
        here = Site(folder, found, servers, client, keyspace, lease)
        for _ in range(ROUNDS):
            here.churn()
        words = ["init", "--keys-dir", str(folder / "keys"), "--writer", "bench"]
        run(here.bbr(*words), environ=here.environ, folder=folder)
        yield here
