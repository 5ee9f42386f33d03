"""The commands that docs/format.md shows: a base restored with the stock age, zstd and etcdutl programs, and by the
reader that was written from that text.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from bbr.etcd import write
from bbr.etcd.hashkv import hash_kv
from bbr.etcd.snapshot import Snapshot
from bbr.repository.keyfiles import write_identity
from bbr.servers.etcd import EtcdServers, boot_etcd
from bbr.stores.directory import DirectoryStore
from tests.making import churn, make_site, source

ROOT = Path(__file__).parents[1]
FORMAT = ROOT / "docs" / "format.md"


def test_every_block_of_commands_is_run_here() -> None:
    stock, by_hand = shell_blocks()
    assert stock.count("age -d") == 2
    assert by_hand.startswith("python3 docs/restore_by_hand.py ")
    assert by_hand.count("\n") == 1


def shell_blocks() -> list[str]:
    """The document's ``sh`` blocks, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", FORMAT.read_text(), re.MULTILINE | re.DOTALL)


def test_a_chain_is_restored_by_the_documents_reader(small_etcd: EtcdServers, tmp_path: Path) -> None:
    """A base and two increments, by the command as it stands in the document, whose capitals are replaced."""
    repository = tmp_path / "repository"
    repository.mkdir()
    site = make_site(DirectoryStore(repository), tmp_path)
    for number in range(3):
        with small_etcd.client() as client:
            churn(client, number)
        backup = site.backup(source(small_etcd.endpoints)).backup
    assert backup.manifest.sequence == 2
    write_identity(tmp_path / "recovery-2.key", site.recovery[1], site.trusted.pin, "safe")
    _, command = shell_blocks()
    stand_ins = {
        "REPOSITORY": str(repository),
        "RECOVERY_KEY_FILE": str(tmp_path / "recovery-2.key"),
        "BACKUP_ID": backup.manifest.backup_id,
        "OUTPUT_FILE": str(tmp_path / "by-hand.db"),
    }
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", " ".join(stand_ins.get(word, word) for word in command.split())],
        cwd=ROOT,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site.rebuild(backup, tmp_path / "ours.db")
    entry = backup.manifest.etcd("main")
    for name in ("by-hand.db", "ours.db"):
        with Snapshot.open(tmp_path / name) as snapshot:
            snapshot.check_trailer()
            assert hash_kv(snapshot.reader, entry.revision, entry.compact_revision) == entry.hash_kv


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

    block, _ = shell_blocks()
    folders = [age_binary.parent, zstd_binary.parent, etcd_binary.parent, Path(sys.executable).parent]
    environ = {
        "PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]),
        "MANIFEST": backup.object_name,
        "EPOCH_KEY": reader.object_name,
        "PARTS": " ".join(part.name for part in parts),
    }
    subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block],
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
