"""A repository in a bucket of a real MinIO, to be met by way of whatever a test puts before it.

Whatever happens, the backups that were there before are there after it, byte for byte, and verify.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from bbr.cli.main import run
from bbr.etcd import write
from bbr.servers.etcd import EtcdServers
from bbr.servers.minio import MinioServer
from bbr.stores.retry import Retrying
from tests.bad_input.conftest import Bbr, Ended
from tests.bad_input.stand_ins import bodies

both = pytest.mark.parametrize("kind", ["minio", "s3"])
READ_TIME_S = 0.5


@dataclass(frozen=True, slots=True)
class Shop:
    """A repository in a bucket of a real MinIO, and the key files of a host."""

    server: MinioServer
    bucket: str
    folder: Path

    def where(self, kind: str = "minio", host: str = "", bucket: str = "", prefix: str = "clusters") -> list[str]:
        """The flags that lead to it, by either SDK, directly or by way of ``host``."""
        host = host or self.server.endpoint.removeprefix("http://")
        bucket = bucket or self.bucket
        address = (
            f"minio+http://{host}/{bucket}/{prefix}?region=us-east-1"
            if kind == "minio"
            else f"s3://{bucket}/{prefix}?endpoint=http://{host}&style=path&region=us-east-1"
        )
        return ["--repo", address, "--state-dir", str(self.folder / "state")]

    def backup(self, etcd: EtcdServers, where: list[str]) -> list[str]:
        """A backup's command line."""
        key = str(self.folder / "keys" / "writer-host.key")
        return ["backup", *where, "--cluster", "prod", "--endpoints", ",".join(etcd.endpoints), "--writer-key", key]

    def restore(self, where: list[str], target: Path) -> list[str]:
        """A restore's command line."""
        identity = str(self.folder / "keys" / "recovery-1.txt")
        return ["restore", "etcd", "latest", *where, "--identity", identity, "--to-snapshot", str(target)]

    def objects(self) -> dict[str, bytes]:
        """Everything in the bucket, asked past bbr and past what stands before the server."""
        return bodies(self.server, self.bucket)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once, and an answer is not waited for long."""
    monkeypatch.setattr("bbr.stores.url.Retrying", partial(Retrying, first_pause=timedelta(milliseconds=1)))
    for module in ("s3", "minio"):
        monkeypatch.setattr(f"bbr.stores.{module}.READ_TIME_S", READ_TIME_S)


@pytest.fixture(autouse=True)
def credentials(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own, as both SDKs find them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture(scope="module")
def stocked(etcd: EtcdServers, minio_server: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A bucket with a base and an increment. The tests share it: each shows that it took nothing away."""
    shop = Shop(minio_server, f"b{secrets.token_hex(6)}", tmp_path_factory.mktemp("shop"))
    minio_server.create_bucket(shop.bucket)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
        assert run(["init", *shop.where(), "--keys-dir", str(shop.folder / "keys"), "--writer", "host"]) == 0
        for number in range(2):
            with etcd.client() as client:
                write.put(client, b"/registry/pods/default/s", b"%d" % number)
            assert run(shop.backup(etcd, shop.where())) == 0
    yield shop


@pytest.fixture
def shop(stocked: Shop, bbr: Bbr, credentials: None) -> Iterator[Shop]:
    """The stocked bucket. Afterwards everything is still there as it was, is listed and verifies."""
    before, listed = stocked.objects(), backup_ids(bbr, stocked)
    yield stocked
    after = stocked.objects()
    assert {name: after.get(name) for name in before} == before
    verified = bbr("verify", *stocked.where())
    assert verified.code == 0, verified.out
    assert backup_ids(bbr, stocked)[: len(listed)] == listed


def backup_ids(bbr: Bbr, shop: Shop) -> list[str]:
    """The backups, as a host lists them that remembers nothing."""
    ended = bbr("list", *shop.where(), "-o", "json")
    assert ended.code == 0, ended.err
    return [str(one["id"]) for one in json.loads(ended.out)["backups"]]


def committed(shop: Shop) -> set[str]:
    """The manifests in the bucket."""
    return {name for name in shop.objects() if "/manifests/" in name}


@contextmanager
def unchanged(shop: Shop, *, manifests: int = 0) -> Iterator[None]:
    """So many backups more are committed afterwards; without any, nothing is new but empty records and lost parts."""
    before = committed(shop)
    yield
    assert len(committed(shop) - before) == manifests


def check_every_command(
    bbr: Bbr, shop: Shop, etcd: EtcdServers, where: list[str], code: int, says: str, *, doctor_says: str = ""
) -> Ended:
    """`bbr list`, `init` and `backup` say it and end with that code; `bbr doctor` finds that it is what failed."""
    new_keys = shop.folder / f"keys-{secrets.token_hex(4)}"
    commands = (["list", *where], ["init", *where, "--keys-dir", str(new_keys)], shop.backup(etcd, where))
    for command in commands:
        ended = bbr(*command)
        assert ended.code == code, ended.err
        assert says in ended.err
        assert ended.err.count("bbr: ") == 1
        assert "  hint: " in ended.err
    assert not new_keys.exists()
    looked = bbr("doctor", *where)
    assert looked.code == 5
    assert (doctor_says or says) in looked.out
    assert re.match(r"bbr: \d of \d+ checks failed: store\b", looked.err)
    assert "  hint: " in looked.err
    return ended
