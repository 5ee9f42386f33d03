"""The commands of README and docs, run from the documents' own fenced blocks, against real servers.

A stage stands in for the hosts that the documents speak of: a three-member etcd with TLS, a MinIO with the bucket, a
kubeadm master's manifests. `stand_ins` says which words of the documents mean what on the stage; all else runs as it
stands there. Blocks marked ``sh`` or ``console`` (lines after ``$``) are run; what a document only shows is marked
otherwise. Commands of one document run in its order, in one folder. The blocks of docs/format.md, a stock restore and
the reader that is written from that text, are test_stock_tools.py's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bbr.etcd import write
from bbr.etcd.snapshot import Snapshot
from bbr.servers.etcd import EtcdServers, start_etcd
from bbr.servers.minio import MinioServer
from tests.conftest import QUICK

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEMBER_ADDRESSES = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
DOCUMENTS = ("README.md", "docs/commands.md", "docs/testing.md")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where commands run, with which environment, and what words of the documents mean here."""

    folder: Path
    environ: Mapping[str, str]
    stand_ins: Mapping[str, str]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        for word, meaning in self.stand_ins.items():
            command = command.replace(word, meaning)
        return subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=dict(self.environ),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def blocks(document: str, *kinds: str) -> Iterator[str]:
    """The fenced blocks of these kinds, in order."""
    for found in FENCE.finditer((ROOT / document).read_text()):
        if found[1] in kinds:
            yield found[2]


def commands(document: str) -> list[str]:
    """Every command of a document:

    lines of ``sh`` blocks, and of ``console`` blocks those after ``$``, joined at ``\\``.
    """
    found: list[str] = []
    for kind, marker in (("sh", ""), ("console", "$ ")):
        for block in blocks(document, kind):
            joined = block.replace("\\\n", " ")
            found += [line[len(marker) :] for line in joined.splitlines() if line.startswith(marker) and line.strip()]
    return found


@pytest.fixture
def stage(etcd_binary: Path, minio_server: MinioServer, tmp_path: Path, search: tuple[Path, ...]) -> Iterator[Stage]:
    """Real servers, and the files that the documents expect on their hosts."""
    with start_etcd(etcd_binary, tmp_path / "etcd", members=3, tls=True, flags=QUICK) as servers:
        with servers.client() as client:
            write.txn(client, {b"/registry/pods/default/%d" % number: b"x" * 300 for number in range(50)})
        folder = tmp_path / "stage"
        folder.mkdir()
        put_files(servers, folder, tmp_path)
        bucket = f"b{os.getpid()}x{tmp_path.name[-8:].replace('_', 'x').lower()}"
        minio_server.create_bucket(bucket)
        yield Stage(folder, environment(minio_server, folder), stand_ins(servers, folder, etcd_binary, bucket))


def put_files(servers: EtcdServers, folder: Path, base: Path) -> None:
    """Certificates as the commands name them, and the manifest of an API server that uses this etcd."""
    credentials = servers.credentials
    for name, body in {
        "ca.crt": credentials.ca,
        "client.crt": credentials.certificate,
        "client.key": credentials.key,
    }.items():
        assert body is not None
        (folder / name).write_bytes(body)
        (folder / name).chmod(0o600)
    manifests = folder / "manifests"
    manifests.mkdir()
    flags = [
        "kube-apiserver",
        f"--etcd-servers={','.join(servers.endpoints)}",
        f"--etcd-cafile={folder}/ca.crt",
        f"--etcd-certfile={folder}/client.crt",
        f"--etcd-keyfile={folder}/client.key",
    ]
    lines = "\n".join(f"    - {flag}" for flag in flags)
    (manifests / "kube-apiserver.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\n"
        f"spec:\n  containers:\n  - name: kube-apiserver\n    command:\n{lines}\n"
    )


def environment(minio: MinioServer, folder: Path) -> dict[str, str]:
    """The stage's bbr first on the PATH, S3 at the MinIO server, and a home of its own."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "AWS_ENDPOINT_URL": minio.endpoint,
        "LANG": "C.UTF-8",
    }


def stand_ins(servers: EtcdServers, folder: Path, etcd_binary: Path, bucket: str) -> dict[str, str]:
    """Words of the documents, and what they mean here. Longer ones first."""
    meaning = {
        f"https://{address}:2379": endpoint
        for address, endpoint in zip(MEMBER_ADDRESSES, servers.endpoints, strict=True)
    }
    meaning |= {
        "/mnt/backups": f"{folder}/mnt/backups",
        "/root/bbr-keys": f"{folder}/root-keys",
        "/etc/bbr/bbr.yaml": f"{folder}/bbr.yaml",
        "/opt/etcd/bin": str(etcd_binary.parent),
        "/var/lib/etcd": f"{folder}/var-lib-etcd",
        "s3://backups/": f"s3://{bucket}/",
        "--objects 100000": "--objects 1000",
        "-o etcd -g etcd ": "",  # no such user is here
        "bbr init": "bbr init --writer master-1",
        "2026-01-02T03:00:00Z": f"{datetime.now(UTC):%Y-%m-%d}T23:59:59Z",
        "2026-01-02T03:04:05Z": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",  # a revocation may not lie ahead
    }
    return meaning


def check_commands(stage: Stage, found: list[str]) -> None:
    """Each command ends with 0; what failed is shown with what it said."""
    for command in found:
        ended = stage.run(command)
        assert ended.returncode == 0, f"$ {command}\n{ended.stdout}{ended.stderr}"


@pytest.mark.timeout(300)
def test_commands_of_the_readme_run(stage: Stage) -> None:
    make: list[str] = []
    bbr: list[str] = []
    for block in blocks("README.md", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            (make if line.startswith("make ") else bbr).append(line)
    assert make == ["make demo", "make test"]
    check_commands(stage, bbr)
    # The restore that is shown first, on a host that has one of the keys that were made, and no etcd.db yet.
    shutil.copy(stage.folder / "bbr-keys" / "recovery-1.txt", stage.folder / "recovery-1.txt")
    (restored := stage.folder / "etcd.db").unlink()
    shown = list(blocks("README.md", "console"))
    assert shown[0].startswith("$ bbr restore etcd latest ")
    for block in shown:
        check_console(stage, block)
    with Snapshot.open(restored) as snapshot:
        snapshot.check_trailer()


def check_console(stage: Stage, block: str) -> None:
    """The block's commands run, and say what it shows, line for line, except for figures."""
    said: list[str] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            ended = stage.run(line.removeprefix("$ "))
            assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
            # A path is printed whole, from the folder that the document stands in.
            said += ended.stdout.replace(f"{stage.folder}/", "").splitlines()
        elif line.strip():
            assert said, f"nothing more is said, and the document shows {line!r}"
            assert re.fullmatch(but_for_figures(line), said[0]), f"{line!r} is shown, {said[0]!r} is said"
            del said[0]
    assert said == []


def but_for_figures(line: str) -> str:
    """A pattern of the line, in which any figure, with its unit, may be another one."""
    words = re.split(r"( +)", re.sub(r"(\d) ([kMG]?B)\b", r"\1\2", line))
    return "".join(
        " +" if word.isspace() else r"\S+(?: [kMG]?B\)?)?" if re.search(r"\d", word) else re.escape(word)
        for word in words
    )


def test_make_targets_of_the_documents_exist() -> None:
    text = "\n".join((ROOT / document).read_text() for document in DOCUMENTS)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)(?:$|`)", text, re.MULTILINE))
    assert {"demo", "test", "bench", "flips", "lint", "quick"} <= named
    for target in sorted(named):
        planned = subprocess.run(
            ["/usr/bin/make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert planned.returncode == 0, planned.stderr


CONFIGURATION = """
repository: s3://backups/clusters
cluster: production
writer_key: bbr-keys/writer-master-1.key
manifests_dir: manifests
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_of_the_command_reference_run(stage: Stage) -> None:
    """The page's own order; its files are copied to where the commands name them, as its text tells."""
    bucket_words = CONFIGURATION
    for word, meaning in stage.stand_ins.items():
        bucket_words = bucket_words.replace(word, meaning)
    (stage.folder / "bbr.yaml").write_text(bucket_words)
    (stage.folder / ".zfunc").mkdir()
    (stage.folder / ".config/fish/completions").mkdir(parents=True)
    found = commands("docs/commands.md")
    assert len(found) >= 25
    for command in found:
        if "--to-snapshot etcd.db" in command:
            (stage.folder / "etcd.db").unlink(missing_ok=True)
        writer = "writer.key" if "--writer-key writer.key" in command else ""
        if writer:  # that example is of another repository, on a folder
            shutil.copy(next((stage.folder / "mnt-keys").glob("writer-*.key")), stage.folder / writer)
        if command.startswith("bbr init --repo /mnt/backups"):
            command += " --keys-dir mnt-keys"
        check_commands(stage, [command])
        keys = stage.folder / "bbr-keys"
        if keys.exists() and not (stage.folder / "recovery-1.txt").exists():
            for key in keys.iterdir():
                shutil.copy(key, stage.folder / key.name)
