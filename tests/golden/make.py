"""How the golden repository of format 1 was made, once: a base and two increments of a small real etcd.

    python -m tests.golden.make

It refuses to run where the repository is: that one stays for ever, whatever later versions write.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from bbr.etcd import write
from bbr.repository.keyfiles import write_identity
from bbr.servers.binaries import find, search_path
from bbr.servers.etcd import start_etcd
from bbr.stores.directory import DirectoryStore
from tests.making import churn, make_site, source

FOLDER = Path(__file__).parent / "format-1"


def main() -> None:
    """Make the repository, a recovery identity's file, and what each backup must restore to."""
    FOLDER.mkdir()
    (FOLDER / "repository").mkdir()
    binary = find("etcd", search=search_path(bin_dir=None, environ=os.environ), version="3.6.16").path
    expected = []
    with tempfile.TemporaryDirectory() as scratch, start_etcd(binary, Path(scratch) / "etcd") as servers:
        site = make_site(DirectoryStore(FOLDER / "repository"), Path(scratch))
        with servers.client() as client:
            lease = write.lease_grant(client, 3600)
            write.put(client, b"/registry/leases/kube-system/held", b"by a lease", lease=lease)
            write.put(client, b"/registry/secrets/default/large", b"not a secret " * 2000)
            for number in range(3):
                churn(client, number, keys=20, value_bytes=120)
                manifest = site.backup(source(servers.endpoints)).backup.manifest
                entry = manifest.etcd("main")
                expected.append(
                    {
                        "id": manifest.backup_id,
                        "revision": entry.revision,
                        "compact_revision": entry.compact_revision,
                        "hash_kv": entry.hash_kv,
                        "records": entry.records,
                    }
                )
        write_identity(FOLDER / "recovery.txt", site.recovery[0], site.trusted.pin, "golden")
    document = {"repository_id": site.trusted.repository_id, "backups": expected}
    (FOLDER / "expected.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
