"""Authentication switched off in a scratch copy of a snapshot: then its member can be asked without a password.

Only for copies that are thrown away: what is restored keeps its users, and whether they are asked for.
"""

from __future__ import annotations

from pathlib import Path

from bbr.etcd.bolt.write import BoltWriter
from bbr.etcd.mvcc import KEY_BUCKET
from bbr.etcd.snapshot import Snapshot, append_trailer

AUTH_BUCKET = b"auth"
_ENABLED, _OFF = b"authEnabled", b"\x00"


def disable_auth(path: Path) -> None:
    """Change the snapshot file in place, trailing hash included; nothing when authentication is off already."""
    with Snapshot.open(path) as snapshot:
        small = snapshot.small_buckets()
        settings = dict(small.get(AUTH_BUCKET, []))
        if settings.get(_ENABLED, _OFF) == _OFF:
            return
        small[AUTH_BUCKET] = sorted((settings | {_ENABLED: _OFF}).items())
        with path.open("r+b") as out:
            writer = BoltWriter(out, onto=snapshot.reader)
            writer.keep_bucket(snapshot.reader, KEY_BUCKET)
            writer.finish(KEY_BUCKET, small)
    with Snapshot.open(path) as changed:
        digest = changed.digest()
    append_trailer(path, digest)
