"""A base restored with the stock age, zstd and etcdutl programs, by the very commands that docs/format.md shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from bbr.etcd import write
from bbr.repository.keyfiles import write_identity
from bbr.servers.etcd import EtcdServers, boot_etcd
from bbr.stores.directory import DirectoryStore
from tests.making import make_site, source

FORMAT = Path(__file__).parents[1] / "docs" / "format.md"


def test_a_base_is_restored_by_the_documents_commands(
    small_etcd: EtcdServers,
    etcd_binary: Path,
    age_binary: Path,
    zstd_binary: Path,
    tmp_path: Path,
) -> None:
    written = {b"/registry/pods/default/%d" % number: os.urandom(20_000) for number in range(900)}
    with small_etcd.client() as client:
        for start in range(0, 900, 50):
            write.txn(client, dict(list(written.items())[start : start + 50]))
    repository = tmp_path / "repository"
    repository.mkdir()
    site = make_site(DirectoryStore(repository), tmp_path)
    backup = site.backup(source(small_etcd.endpoints)).backup
    write_identity(repository / "recovery-1.key", site.recovery[0], site.trusted.pin, "safe")
    parts = backup.manifest.etcd("main").parts
    assert len(parts) > 1
    reader = site.trusted.root.epoch.readers[0]
    assert reader.recipient == site.recovery[0].recipient

    block = re.search(r"^```sh\n(.*?)^```$", FORMAT.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    assert block[1].count("age -d") == 2
    folders = [age_binary.parent, zstd_binary.parent, etcd_binary.parent, Path(sys.executable).parent]
    environ = {
        "PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]),
        "MANIFEST": backup.object_name,
        "EPOCH_KEY": reader.object_name,
        "PARTS": " ".join(part.name for part in parts),
    }
    subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block[1]],
        cwd=repository,
        env=environ,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (repository / "snapshot.db").stat().st_size == backup.manifest.etcd("main").snapshot_bytes
    with boot_etcd(etcd_binary, repository / "data", name="default") as member, member.client() as client:
        found = {kv.key: kv.value for kv in client.range(b"/registry/", b"/registry0").kvs}
    assert found == written
