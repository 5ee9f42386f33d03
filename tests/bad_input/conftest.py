"""The command line as a tired person meets it: run in this process, its exit code and its words kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bbr.cli.main import run
from bbr.etcd import write
from bbr.servers.etcd import EtcdServers, start_etcd
from tests.conftest import QUICK


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Bbr = Callable[..., Ended]

PROGRAM = ("-W", "error", "-c", "from bbr.cli.main import main; main()")
"""The installed program, in this interpreter."""


@pytest.fixture
def bbr(capfd: pytest.CaptureFixture[str]) -> Bbr:
    """Runs one command line."""

    def call(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return call


@contextmanager
def started(
    *arguments: str | Path, environ: Mapping[str, str] | None = None, program: Sequence[str] = PROGRAM
) -> Iterator[subprocess.Popen[str]]:
    """One command line as a process of its own. Killed if the test leaves it running."""
    command = [sys.executable, *program, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def finished(process: subprocess.Popen[str], *, limit_s: float = 30) -> Ended:
    """Wait for a process to end, and what it said."""
    out, err = process.communicate(timeout=limit_s)
    return Ended(process.returncode, out, err)


@dataclass(frozen=True, slots=True)
class Host:
    """A folder with a repository, its key files and a state folder, as `bbr init` leaves them."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def writer_key(self) -> Path:
        return next((self.folder / "keys").glob("writer-*.key"))

    @property
    def identity(self) -> Path:
        return self.folder / "keys" / "recovery-1.txt"

    def where(self) -> list[str]:
        """The flags that lead to the repository."""
        return ["--repo", str(self.repository), "--state-dir", str(self.folder / "state")]

    def backup(self, endpoints: Sequence[str], cluster: str = "prod") -> list[str]:
        """A backup's command line."""
        flags = ["--cluster", cluster, "--endpoints", ",".join(endpoints), "--writer-key", str(self.writer_key)]
        return ["backup", *self.where(), *flags]

    def restore(self, backup: str, *target: str | Path) -> list[str]:
        """A restore's command line."""
        # As a rescue host does it, that remembers nothing of the repository.
        where = ["--repo", str(self.repository), "--state-dir", str(self.folder / "rescue")]
        words = ["restore", "etcd", backup, *where, "--identity", str(self.identity)]
        return [*words, *(str(word) for word in target)]

    def objects(self, pattern: str) -> list[Path]:
        """Stored objects, in order."""
        return sorted(self.repository.glob(pattern))


@pytest.fixture(scope="module")
def etcd(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    """An etcd with a few objects in it."""
    with start_etcd(etcd_binary, tmp_path_factory.mktemp("etcd"), flags=QUICK) as servers:
        with servers.client() as client:
            write.txn(client, {b"/registry/configmaps/default/%d" % number: b"x" * 200 for number in range(50)})
        yield servers


@pytest.fixture(scope="module")
def prepared(etcd: EtcdServers, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with a base and an increment. Copied for each test."""
    host = Host(tmp_path_factory.mktemp("host"))
    assert run(["init", *host.where(), "--keys-dir", str(host.folder / "keys"), "--writer", "host"]) == 0
    for number in range(2):
        with etcd.client() as client:
            write.put(client, b"/registry/pods/default/p", b"%d" % number)
        assert run(host.backup(etcd.endpoints)) == 0
    return host


@pytest.fixture
def host(prepared: Host, tmp_path: Path) -> Host:
    """A host of a test's own, with a base and an increment."""
    shutil.copytree(prepared.folder, tmp_path / "host")
    return Host(tmp_path / "host")


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing was lost or changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
