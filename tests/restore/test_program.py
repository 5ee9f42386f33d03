"""etcd's programs found on a machine: on its PATH, in containerd's image, with a live etcd, uploaded."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import BbrError, ToolMissing
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.machines.local import local_machine
from bbr.machines.shell import ShellMachine
from bbr.machines.ssh import ssh_machine
from bbr.servers.etcd import EtcdServers
from restore import member
from restore.iaas.lab import ssh_host
from restore.member import MemberSpec
from restore.program import Program, find_program
from restore.rehearsal import rehearse
from tests.conftest import program
from tests.restore.members import PEER, RUN, script, take

NO_ETCD = PurePosixPath("/nonexistent")
IMAGE = "registry.k8s.io/etcd:3.6.16-0"
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="a lab needs root")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ShellMachine]:
    """This machine, with a PATH that a test may fill: no program of etcd is on it."""
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    with local_machine() as here:
        yield here


@pytest.fixture
def run(tmp_path: Path) -> PurePosixPath:
    return PurePosixPath(tmp_path / "runs/r1")


def answering(tmp_path: Path, version: str) -> Path:
    """An etcdutl on the PATH that says to be of a version."""
    return script(tmp_path / "path/etcdutl", f"echo 'etcdutl version: {version}'; echo 'API version: 3'")


def works(machine: ShellMachine, found: Program) -> None:
    assert b"3.6.16" in machine.run(found.command(["version"])).stdout
    assert machine.run(found.ending()).exit_code == 0


def test_one_on_the_path_is_taken(
    machine: ShellMachine, run: PurePosixPath, tmp_path: Path, etcdutl_binary: Path
) -> None:
    (tmp_path / "path/etcdutl").symlink_to(etcdutl_binary)
    found = find_program(machine, "etcdutl", wanted="3.6.4", image=None, run=run, data_dir=NO_ETCD)
    assert (found.version, found.where) == ("3.6.16", str(tmp_path / "path/etcdutl"))
    works(machine, found)
    assert not Path(run).exists()


@pytest.mark.parametrize(
    ("version", "wanted", "told"),
    [
        ("3.5.9", "3.5.20", "3.5.9, which cannot bump revisions"),
        ("3.7.3", "3.6.16", "it is 3.7.3"),
        ("", "3.6.16", "does not run, or is no etcdutl"),
    ],
)
def test_another_version_is_passed_over_and_told(
    machine: ShellMachine, run: PurePosixPath, tmp_path: Path, version: str, wanted: str, told: str
) -> None:
    answering(tmp_path, version)
    upload = tmp_path / "none"
    with pytest.raises(ToolMissing) as caught:
        find_program(machine, "etcdutl", wanted=wanted, image=IMAGE, run=run, upload=upload, data_dir=NO_ETCD)
    for expected in (told, "ctr", "no live etcd", str(upload)):
        assert expected in str(caught.value)
    assert caught.value.hint


def test_uploaded_when_the_machine_has_none_and_found_again(
    machine: ShellMachine, run: PurePosixPath, tmp_path: Path, etcdutl_binary: Path
) -> None:
    answering(tmp_path, "3.5.9")
    found = find_program(
        machine, "etcdutl", wanted="3.6.16", image=None, run=run, upload=etcdutl_binary, data_dir=NO_ETCD
    )
    assert "uploaded" in found.where
    works(machine, found)
    assert Path(found.path).stat().st_mode & 0o777 == 0o700
    assert (
        hashlib.sha256(Path(found.path).read_bytes()).digest() == hashlib.sha256(etcdutl_binary.read_bytes()).digest()
    )
    again = find_program(machine, "etcdutl", wanted="3.6.16", image=None, run=run, data_dir=NO_ETCD)
    assert "earlier" in again.where
    Path(found.path).write_bytes(etcdutl_binary.read_bytes()[:100_000])  # damaged since
    with pytest.raises(ToolMissing, match="does not run"):
        find_program(machine, "etcdutl", wanted="3.6.16", image=None, run=run, data_dir=NO_ETCD)


def test_copied_from_the_live_etcd_that_has_the_database_open(
    machine: ShellMachine, run: PurePosixPath, small_etcd: EtcdServers, tmp_path: Path
) -> None:
    """A process that only calls itself etcd is nobody to take a program from."""
    data = PurePosixPath(small_etcd.members[0].data_dir)
    (tmp_path / "path/etcd").symlink_to("/usr/bin/sleep")
    posing = subprocess.Popen([tmp_path / "path/etcd", "300", f"--data-dir={data}"], stderr=subprocess.DEVNULL)
    try:
        found = find_program(machine, "etcdutl", wanted="3.6.16", image=None, run=run, data_dir=data)
    finally:
        posing.kill()
        posing.wait()
    assert f"process {small_etcd.members[0].pid}" in found.where
    works(machine, found)


@needs_root
@pytest.mark.slow
def test_run_by_containerd_in_etcds_image(
    search: tuple[Path, ...], small_etcd: EtcdServers, etcd_binary: Path, tmp_path: Path
) -> None:
    runc = shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if runc is None:
        pytest.skip("runc is not on this machine (Debian: apt-get install runc)")
    containerd = program("containerd", search)
    run = PurePosixPath("/var/lib/bbr/runs") / RUN
    taken = take(small_etcd, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(runc, tools / "runc")
    for one in containerd.parent.iterdir():
        shutil.copy(one, tools / one.name)
    archive(tmp_path / "image.tar", [etcd_binary.with_name(name) for name in ("etcd", "etcdctl", "etcdutl")])
    spec = HostSpec("m1", programs=(tools,))
    with Lab.up([spec], base=tmp_path / "labs") as lab, ssh_machine(ssh_host(lab.host("m1"))) as machine:
        # Until it is in a session of its own it would be ended with the command that started it.
        begin = "setsid containerd </dev/null >/var/log/containerd.log 2>&1 & "
        machine.run(["sh", "-c", begin + "while [ ! -S /run/containerd/containerd.sock ]; do sleep 0.1; done"])
        wait(lambda: machine.run(["ctr", "version"], expect=range(256)).exit_code == 0)
        machine.run(["mkdir", "-p", str(run)])
        snapshot, image = run / "snapshot.db", run / "image.tar"
        machine.put(snapshot, [taken.path.read_bytes()], mode=0o600)
        machine.put(image, [(tmp_path / "image.tar").read_bytes()], mode=0o600)
        with pytest.raises(ToolMissing, match="does not hold the image"):
            find_program(machine, "etcdutl", wanted="3.6.16", image=IMAGE, run=run)
        machine.run(["ctr", "-n", "k8s.io", "images", "import", str(image)])

        etcdutl, etcd, etcdctl = (
            find_program(machine, name, wanted="3.6.16", image=IMAGE, run=run)
            for name in ("etcdutl", "etcd", "etcdctl")
        )
        assert etcdutl.where == f"the image {IMAGE}"
        answered = rehearse(
            machine, snapshot, etcdutl, etcd, etcdctl, revision=taken.revision, hash_kv=taken.hash_kv, run=run
        )
        assert answered == taken.hash_kv
        its = MemberSpec("m1", PEER, f"m1={PEER}", "t", PurePosixPath("/srv/etcd"), PurePosixPath("/srv/etcd-wal"))
        member.move_aside(machine, its, RUN)
        member.make(machine, its, RUN, snapshot, etcdutl, bump=1_000_000_000)
        assert member.look(machine, its, RUN).is_ours
        assert containers(machine) == []

        # A kill that reaches `ctr` alone leaves its container; the next call ends it.
        serving = etcd.command(["--data-dir", "/srv/left"], network=True)
        held = threading.Thread(target=run_until_killed, args=(machine, serving))
        held.start()
        wait(lambda: "etcd\n" in machine.run(["sh", "-c", "cat /proc/[0-9]*/comm"], expect=(0, 1)).stdout.decode())
        machine.run(["sh", "-c", "kill -9 $(grep -lx ctr /proc/[0-9]*/comm | cut -d/ -f3)"])
        held.join(30)
        assert not held.is_alive()
        assert len(containers(machine)) == 1
        machine.run(etcd.ending())
        assert containers(machine) == []


def containers(machine: ShellMachine) -> list[str]:
    return machine.run(["ctr", "-n", "k8s.io", "containers", "ls", "-q"]).stdout.decode().split()


def run_until_killed(machine: ShellMachine, command: Sequence[str]) -> None:
    with suppress(BbrError):
        machine.run(command)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def archive(path: Path, programs: Sequence[Path]) -> None:
    """An image of these programs and the libraries that they need, as `docker save` writes one."""
    files = {f"usr/local/bin/{one.name}": one for one in programs}
    for one in programs:
        said = subprocess.run(["/usr/bin/ldd", one], capture_output=True, text=True, check=False).stdout
        files |= {library.lstrip("/"): Path(library) for library in re.findall(r"(/\S+) \(0x", said)}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, source in files.items():
            add(tar, name, source.read_bytes())
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        add(tar, "manifest.json", json.dumps(manifest).encode())
        add(tar, "config.json", json.dumps(config).encode())
        add(tar, "layer.tar", layer.getvalue())


def add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(body), 0o755
    tar.addfile(entry, io.BytesIO(body))
