"""What the tests of members share: programs as `Program`s, a real snapshot, and what lies in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bbr.etcd.client import EtcdClient
from bbr.etcd.write import put
from bbr.servers.etcd import EtcdServers
from restore.member import MemberSpec
from restore.program import Name, Program

RUN = "prod-20260101-r1"
VERSION = "3.6.16"
KEYS = 50
PEER = "http://127.0.0.1:12380"


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot file, and what the server said of it."""

    path: Path
    revision: int
    hash_kv: int

    @property
    def there(self) -> PurePosixPath:
        """Its path on this machine, as a machine."""
        return PurePosixPath(self.path)


def take(servers: EtcdServers, folder: Path) -> Taken:
    """Fill a new etcd a little, and take its snapshot."""
    with servers.client() as client:
        for number in range(KEYS):
            put(client, b"/registry/configmaps/default/%d" % number, os.urandom(400))
        return snapshot_of(client, folder / "snapshot.db")


def snapshot_of(client: EtcdClient, path: Path) -> Taken:
    """A snapshot of what a member serves."""
    with path.open("wb") as file:
        for blob in client.snapshot():
            file.write(blob)
    revision = client.status().revision
    return Taken(path, revision, client.hash_kv(revision).hash)


def real(name: Name, path: Path) -> Program:
    """A program of the testbed, or a stand-in for one."""
    return Program(name, VERSION, str(path), PurePosixPath(path))


def script(path: Path, body: str) -> Path:
    """A program that is a shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def spec_of(folder: Path, *, name: str = "m1", wal: bool = False) -> MemberSpec:
    """A single member in a folder, with or without a WAL directory of its own."""
    return MemberSpec(
        name=name,
        peer_urls=PEER,
        initial_cluster=f"{name}={PEER}",
        token="one",
        data_dir=PurePosixPath(folder / "data"),
        wal_dir=PurePosixPath(folder / "wal") if wal else None,
    )


def old_member(folder: Path, *, wal: bool = False) -> None:
    """Data directories with something that must never be lost."""
    logs = folder / "wal" if wal else folder / "data/member/wal"
    (folder / "data/member/snap").mkdir(parents=True)
    logs.mkdir(parents=True)
    (folder / "data/member/snap/db").write_bytes(b"old database")
    (logs / "0000000000000000-0000000000000000.wal").write_bytes(b"old log")
    (logs / "0.tmp").write_bytes(b"allocated")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content; for big ones their size."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.stat().st_size < 1000 else b"%d" % path.stat().st_size
        for path in files
    }
