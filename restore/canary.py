"""Secrets of a snapshot by which it is told, before any API server starts, whether the keys at hand open it.

With another key an API server never gets ready, or answers 500 for every Secret: minutes are lost until that is seen.
"""

from __future__ import annotations

from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.etcd.mvcc import KEY_BUCKET, REVISION_BYTES, KeyValue, record_key
from bbr.etcd.snapshot import Snapshot
from bbr.objects.encryption import parse_sealed, why_sealed

SECRETS = b"/registry/secrets/"
"""Under kube-apiserver's default ``--etcd-prefix``. Another has no canary: it is then proven by an API server."""

Canaries = tuple[tuple[bytes, bytes], ...]


def canaries(path: Path) -> Canaries:
    """Key and value of one living Secret for each key that Secrets are sealed with, and of one in the clear."""
    with Snapshot.open(path) as snapshot:
        living: dict[bytes, memoryview] = {}
        for revision, record in snapshot.reader.items(KEY_BUCKET):
            name = record_key(record)
            if name.startswith(SECRETS):
                living[name] = record
                if len(revision) > REVISION_BYTES:  # a tombstone
                    del living[name]
        chosen: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        for name, record in living.items():
            value = KeyValue.decode(record).value
            sealed = parse_sealed(value)
            chosen.setdefault((sealed.provider, sealed.key_name) if sealed else ("", ""), (name, value))
        return tuple(chosen.values())


def check_canaries(found: Canaries, configuration: bytes | None, *, what: str, hint: str) -> None:
    """Raises `PreconditionFailed` for a Secret that an EncryptionConfiguration does not open. ``what`` names that."""
    for name, value in found:
        problem = why_sealed(configuration, name, value)
        if problem:
            raise PreconditionFailed(
                f"{what}: Secret {name.decode(errors='replace')} cannot be read: {problem}", hint=hint
            )
