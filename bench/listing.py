"""`bbr list` of ten thousand backups in a real MinIO, with and without what the host remembers."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import statistics
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bbr.repository import names
from bbr.repository.administration import Holder, NewSigner, create
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.manifest import EtcdEntry, Manifest, MemberState, PartRef, encode_manifest
from bbr.repository.root import TrustedRoot
from bbr.servers.binaries import find, search_path
from bbr.servers.minio import start_minio
from bbr.stores.minio import MinioStore
from bench.cases import LIST, Result, Told, figures, peak
from bench.measure import Run, run

GENERATION = 24


def listing(folder: Path, bbr: Path, backups: int, runs: int, told: Told) -> list[Result]:
    """Fill a bucket with signed manifests and list it: cold with an empty state folder, warm with what that left."""
    binary = find("minio", search=search_path(bin_dir=None, environ=os.environ)).path
    with start_minio(binary, folder / "minio") as server:
        server.create_bucket("bench")
        host = server.endpoint.removeprefix("http://")
        os.environ.update(MINIO_ACCESS_KEY=server.access_key, MINIO_SECRET_KEY=server.secret_key)
        store = MinioStore(host, "bench", "list", secure=False)
        key = SigningKey.generate()
        recovery = [Holder(Identity.generate().recipient, f"safe {number}") for number in range(2)]
        trusted = create(store, recovery=recovery, writers=[NewSigner(key.public, "bench")], now=_start(backups))
        bodies = _manifests(trusted, key, backups)
        told(f"  {backups:,} manifests of {sum(map(len, bodies.values())) // backups:,} bytes")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: store.put(*item), bodies.items()))
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "MINIO_ACCESS_KEY": server.access_key,
            "MINIO_SECRET_KEY": server.secret_key,
        }
        command = [str(bbr), "list", "--repo", f"minio+http://{host}/bench/list", "-o", "json"]
        cold: list[Run] = []
        warm: list[Run] = []
        for number in range(runs):
            state = folder / f"list-state-{number}"
            for measured in (cold, warm):
                measured.append(run([*command, "--state-dir", str(state)], environ=environ, folder=folder))
            shutil.rmtree(state)
            told(f"  cold {cold[-1].wall_s:.2f} s, warm {warm[-1].wall_s:.2f} s")
    what = f"bbr list of {backups:,} backups in MinIO"
    return [_listed(f"{what}, cold", cold, limit_s=20), _listed(f"{what}, warm", warm, limit_s=2)]


def _listed(name: str, runs: list[Run], *, limit_s: float) -> Result:
    seconds = statistics.median(one.wall_s for one in runs)
    return Result(name, seconds, limit_s, "s", case=LIST, anonymous_bytes=peak(runs), runs={"ours": figures(runs)})


def _start(backups: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(hours=backups + 1)


def _manifests(trusted: TrustedRoot, key: SigningKey, backups: int) -> dict[str, bytes]:
    """One an hour in chains of 24: a base of 64 parts, then increments of one."""
    bodies: dict[str, bytes] = {}
    previous = generation = None
    began = _start(backups) + timedelta(minutes=1)
    for number in range(backups):
        sequence = number % GENERATION
        at = began + timedelta(minutes=55 * number)
        if sequence == 0 or generation is None:
            generation = names.generation(at, key.key_id, secrets.token_hex(8))
        nonce = secrets.token_hex(8)
        manifest = _manifest(trusted, key, generation, sequence, nonce, at, previous)
        body = encode_manifest(manifest, key)
        bodies[names.manifest("bench", generation, sequence, nonce)] = body
        previous = hashlib.sha256(body).hexdigest()
    return bodies


def _manifest(
    trusted: TrustedRoot,
    key: SigningKey,
    generation: str,
    sequence: int,
    nonce: str,
    at: datetime,
    previous: str | None,
) -> Manifest:
    part_names = names.parts("bench", generation, sequence, nonce)
    count = 64 if sequence == 0 else 1
    parts = tuple(PartRef(next(part_names), 2_500_000, secrets.token_hex(32), 16 << 20) for _ in range(count))
    member = MemberState("8e9e05c52164694d", "master-1", "3.6.16", 1000 + sequence, 7, 1, "")
    entry = EtcdEntry(
        name="main",
        cluster_id="cdf818194e3a8c32",
        member_id="8e9e05c52164694d",
        member_name="master-1",
        server_version="3.6.16",
        storage_version="3.6.0",
        members=(member,),
        alarms=(),
        revision=1000 + sequence,
        compact_revision=1,
        hash_kv=7,
        compared=True,
        not_compared_because="",
        records=300_000,
        page_size=4096,
        snapshot_bytes=64 * (16 << 20),
        snapshot_sha256="0" * 64,
        parent=sequence - 1 if sequence else None,
        parts=parts,
    )
    inventory = (PartRef(next(part_names), 500, secrets.token_hex(32), 900),)
    return Manifest(
        repository_id=trusted.repository_id,
        root_number=1,
        cluster="bench",
        cluster_identity="etcd:cdf818194e3a8c32",
        generation=generation,
        sequence=sequence,
        nonce=nonce,
        previous=previous,
        heads=(),
        epoch=trusted.root.epoch.id,
        time=at,
        backup_id=names.backup_id("bench", at, secrets.token_hex(2)),
        writer=key.key_id,
        status="complete",
        reasons=(),
        etcds=(entry,),
        control_plane=None,
        inventory=inventory,
    )
