"""Control-plane files of real hosts, over SSH: a lab of two masters that kubeadm made, backed up from a third place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.servers.process import Process
from tests.conftest import QUICK, program
from tests.layouts.kubeadm_tree import CONFIGURATION, PHASES
from tests.layouts.test_masterfiles import KUBERNETES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")

PROGRAM = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"
ENDPOINT = "http://127.0.0.1:2379"
MASTERS = ("m1", "m2")


@dataclass(frozen=True, slots=True)
class Site:
    """A lab of two masters, a folder with a repository and a bbr.yaml, and an etcd in the lab's own network."""

    lab: Lab
    folder: Path

    def bbr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command line, run where the masters can be reached."""
        command = self.lab.entering([sys.executable, "-c", PROGRAM, *words])
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=90, cwd=self.folder, env={**os.environ}
        )

    def on(self, host: str, *words: str, stdin: bytes = b"") -> None:
        """Run a command on a host as a person would."""
        command = ["ssh", "-F", str(self.lab.ssh_config), host, *words]
        subprocess.run(command, input=stdin, check=True, capture_output=True, timeout=60)

    def show(self) -> dict[str, object]:
        """The newest backup, opened."""
        shown = self.bbr("show", "latest", "--identity", "bbr-keys/recovery-1.txt", "-o", "json")
        assert shown.returncode == 0, shown.stderr
        return dict(json.loads(shown.stdout))


@pytest.fixture(scope="module")
def site(search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("masters")
    kubeadm = program("kubeadm", search, KUBERNETES)
    specs = [HostSpec(name, programs=(kubeadm.parent,)) for name in MASTERS]
    with Lab.up(specs, base=folder / "labs") as lab, _etcd(program("etcd", search, "3.6.16"), lab, folder):
        site = Site(lab, folder)
        made = site.bbr("init", "--repo", "repository", "--writer", "bastion", "--state-dir", "state")
        assert made.returncode == 0, made.stderr
        for name in MASTERS:
            _make_master(site, name)
        _write_configuration(site)
        yield site


@contextmanager
def _etcd(binary: Path, lab: Lab, folder: Path) -> Iterator[None]:
    flags = ["--data-dir", str(folder / "etcd"), "--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT]
    with Process("etcd", lab.entering([str(binary), *flags, *QUICK]), log=folder / "etcd.log") as process:
        process.wait_ready(lambda: "ready to serve client requests" in process.log.read_text(), what=ENDPOINT)
        yield


def _make_master(site: Site, name: str) -> None:
    """What kubeadm writes on a master; the second gets the first one's authorities, as a join would give it."""
    address = site.lab.host(name).address
    own = CONFIGURATION.replace("10.77.0.11", address).replace("name: m1", f"name: {name}")
    site.on(name, "cat > /root/kubeadm.yaml", stdin=own.encode())
    site.on(name, "mkdir -p /opt/enc /opt/adm && echo 'resources: []' > /opt/enc/config.yaml")
    site.on(name, "echo 'plugins: []' > /opt/adm/admission.yaml")
    if name != MASTERS[0]:
        shared = "pki/ca.* pki/sa.* pki/front-proxy-ca.* pki/etcd/ca.*"
        reading = ["ssh", "-F", str(site.lab.ssh_config), MASTERS[0], f"cd /etc/kubernetes && tar -cf - {shared}"]
        packed = subprocess.run(reading, check=True, capture_output=True, timeout=60).stdout
        site.on(name, "mkdir -p /etc/kubernetes && cd /etc/kubernetes && tar -xf -", stdin=packed)
    for phase in PHASES:
        site.on(name, f"kubeadm init phase {phase} --config /root/kubeadm.yaml")


def _write_configuration(site: Site) -> None:
    masters = {
        name: {
            "address": site.lab.host(name).address,
            "identity_file": str(site.lab.host(name).identity),
            "known_hosts": str(site.lab.known_hosts),
        }
        for name in MASTERS
    }
    (key,) = (site.folder / "bbr-keys").glob("writer-*.key")
    configuration = {
        "repository": "repository",
        "state_dir": "state",
        "cluster": "prod",
        "writer_key": str(key),
        "etcd": {"main": {"endpoints": [ENDPOINT]}},
        "masters": masters,
    }
    (site.folder / "bbr.yaml").write_text(json.dumps(configuration))  # JSON is YAML


def test_a_backup_takes_the_files_of_every_master(site: Site) -> None:
    done = site.bbr("backup", "-o", "json")
    assert done.returncode == 0, done.stderr
    shown = site.show()
    masters = shown["masters"]
    assert isinstance(masters, dict)
    assert set(masters["files"]) == set(MASTERS)
    for name in MASTERS:
        files = set(masters["files"][name])
        assert {"/etc/kubernetes/pki/sa.key", "/etc/kubernetes/manifests/etcd.yaml", "/opt/enc/config.yaml"} <= files
        flags = masters["index"]["hosts"][name]["programs"]["kube-apiserver"]["flags"]
        assert flags["advertise-address"] == site.lab.host(name).address
    table = site.bbr("show", "latest", "--identity", "bbr-keys/recovery-1.txt").stdout
    assert "MASTER" in table
    assert "kube-apiserver:v1.37.2" in table
    verified = site.bbr("verify", "latest", "--level", "readable", "--identity", "bbr-keys/recovery-1.txt")
    assert verified.returncode == 0, verified.stdout
    assert "control plane" in verified.stdout


def test_a_master_that_is_down_makes_the_backup_partial_and_the_other_is_taken(site: Site) -> None:
    site.lab.power_off("m2")
    try:
        ended = site.bbr("backup")
    finally:
        site.lab.power_on("m2")
    assert ended.returncode == 3
    assert "the files of master m2 are missing: m2 (" in ended.stderr
    listed = json.loads(site.bbr("list", "-o", "json").stdout)["backups"][-1]
    assert listed["status"] == "partial"
    shown = json.loads(site.bbr("show", listed["id"], "--identity", "bbr-keys/recovery-1.txt", "-o", "json").stdout)
    assert set(shown["masters"]["files"]) == {"m1"}


def test_without_the_control_plane_no_master_is_asked(site: Site) -> None:
    assert site.bbr("backup", "--no-control-plane").returncode == 0
    assert site.show()["masters"] is None


def test_a_host_key_that_is_not_the_pinned_one_is_never_talked_to(site: Site) -> None:
    configuration = json.loads((site.folder / "bbr.yaml").read_text())
    known = (site.lab.known_hosts).read_text().splitlines()
    first, second = (next(line for line in known if line.split()[0].startswith(name)) for name in MASTERS)
    address = site.lab.host("m1").address
    forged = site.folder / "known_hosts"
    forged.write_text(f"{address} {' '.join(second.split()[1:])}\n")
    assert first.split()[1:] != second.split()[1:]
    configuration["masters"]["m1"]["known_hosts"] = str(forged)
    (site.folder / "forged.yaml").write_text(json.dumps(configuration))
    ended = site.bbr("backup", "--config", "forged.yaml")
    assert ended.returncode == 3
    assert "the files of master m1 are missing" in ended.stderr
    assert f"m1 ({address}) showed ssh-ed25519 SHA256:" in ended.stderr
