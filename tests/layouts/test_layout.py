"""What every layout promises, on a real host of a lab: kubeadm's, and systemd's against a stand-in of systemctl.

etcd is the real one, with systemd; kubeadm's manifests are the real kubeadm's, and nothing runs them here.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import PreconditionFailed, UsageError
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.layouts.detect import detect, named
from bbr.layouts.layout import Layout
from bbr.layouts.processes import find_processes, wait_ended
from bbr.layouts.staticpods import StaticPods
from bbr.layouts.systemd import Systemd
from bbr.machines.machine import Machine
from bbr.machines.ssh import ssh_machine
from bbr.progress import Silent
from restore.iaas.lab import ssh_host
from tests.conftest import program
from tests.layouts.kubeadm_tree import make_tree

UNIT = """\
[Service]
EnvironmentFile=/etc/etcd.env
ExecStart={etcd} --name m1 \\
  --data-dir ${{DATA}} --listen-client-urls=${{URL}} --advertise-client-urls=${{URL}}
[Install]
WantedBy=multi-user.target
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: x}}
spec: {{containers: [{{name: {0}, image: i, command: [{0}]}}]}}
"""
RECOVERY = "bbr-recovery-apiserver"
UNITS, MANIFESTS = PurePosixPath("/etc/systemd/system"), PurePosixPath("/etc/kubernetes/manifests")


@pytest.fixture(scope="module")
def machines(
    search: tuple[Path, ...], etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Machine]]:
    """Two hosts: a kubeadm master's files, and etcd as a unit that runs."""
    base = tmp_path_factory.mktemp("layouts")
    specs = [HostSpec("pods"), HostSpec("units", programs=(etcd_binary.parent,))]
    with (
        Lab.up(specs, base=base / "labs") as lab,
        ssh_machine(ssh_host(lab.host("pods"))) as pods,
        ssh_machine(ssh_host(lab.host("units"))) as units,
    ):
        _fill_pods(pods, program("kubeadm", search, "1.37.2"), base / "tree")
        _fill_units(units)
        yield {"kubeadm": pods, "systemd": units}


def _fill_pods(machine: Machine, kubeadm: Path, tree: Path) -> None:
    tree.mkdir()
    make_tree(kubeadm, tree)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(tree / "etc/kubernetes", "etc/kubernetes")
        archive.add(tree / "opt", "opt")
        archive.add(tree / "etc/oidc", "etc/oidc")
    machine.run(["tar", "-x", "-C", "/"], stdin=packed.getvalue())
    machine.put(MANIFESTS / "kube-vip.yaml", [POD.format("kube-vip").encode()], mode=0o600)


def _fill_units(machine: Machine) -> None:
    standin = (Path(__file__).parent / "systemctl_standin.sh").read_bytes()
    machine.put(PurePosixPath("/usr/bin/systemctl"), [standin], mode=0o755)
    machine.run(["mkdir", "-p", "/etc/etcd/pki", "/srv/etcd"])
    machine.put(PurePosixPath("/etc/etcd/pki/ca.key"), [b"key\n"], mode=0o600)
    machine.put(PurePosixPath("/etc/etcd.env"), [b"DATA=/srv/etcd\nURL=http://127.0.0.1:2379\n"], mode=0o600)
    machine.run(["cp", "/bin/sleep", "/usr/local/bin/kube-apiserver"])
    etcd = "/usr/local/bin/etcd"
    machine.put(UNITS / "etcd.service", [UNIT.format(etcd=etcd).encode()], mode=0o644)
    machine.put(UNITS / "etcd-backup.service", [b"[Service]\nExecStart=/bin/sh -c 'etcdctl %H'\n"], mode=0o644)
    machine.run(["systemctl", "enable", "etcd.service"])
    machine.run(["systemctl", "start", "etcd.service"])


@pytest.fixture(params=["kubeadm", "systemd"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return named(request.param)


@pytest.fixture
def machine(layout: Layout, machines: dict[str, Machine]) -> Machine:
    return machines[layout.name]


def _new(layout: Layout, runs: str) -> str:
    return POD.format(runs) if layout.name == "kubeadm" else f"[Service]\nExecStart=/usr/local/bin/{runs} 1000\n"


def _await_process(machine: Machine, runs: str) -> None:
    deadline = time.monotonic() + 20
    while not find_processes(machine, runs):
        assert time.monotonic() < deadline, machine.run(["cat", "/var/log/etcd.service.log"]).stdout.decode()
        time.sleep(0.1)


def test_a_machine_tells_its_layout(layout: Layout, machine: Machine) -> None:
    assert detect(machine).name == layout.name


def test_programs_are_told_with_their_flags(layout: Layout, machine: Machine) -> None:
    etcd = layout.programs(machine)["etcd"]
    assert etcd.pod.flags["name"] == "m1"
    assert etcd.pod.file("data-dir") == PurePosixPath("/var/lib/etcd" if layout.name == "kubeadm" else "/srv/etcd")


def test_etcd_is_taken_out_and_put_back_as_it_was(layout: Layout, machine: Machine) -> None:
    aside = PurePosixPath("/var/lib/bbr/runs/r1/aside")
    before = layout.programs(machine)["etcd"]
    assert layout.is_in_service(machine, "etcd")
    for _ in range(2):
        layout.take_out(machine, "etcd", aside)
        assert not layout.is_in_service(machine, "etcd")
    wait_ended(machine, "etcd", progress=Silent())
    for _ in range(2):
        layout.put_back(machine, "etcd", aside)
        assert layout.is_in_service(machine, "etcd")
    assert layout.programs(machine)["etcd"] == before
    if layout.name == "systemd":
        _await_process(machine, "etcd")


def test_a_program_of_ours_comes_and_goes_and_is_kept(layout: Layout, machine: Machine) -> None:
    aside = PurePosixPath("/var/lib/bbr/runs/r2/aside")
    text = _new(layout, "kube-apiserver")
    for count in (1, 2):
        for _ in range(2):
            layout.install(machine, RECOVERY, text)
            assert layout.is_in_service(machine, RECOVERY)
        with pytest.raises(PreconditionFailed):
            layout.install(machine, RECOVERY, text + "\n")
        for _ in range(2):
            layout.remove(machine, RECOVERY, aside)
            assert not layout.is_in_service(machine, RECOVERY)
        kept = machine.run(["ls", str(aside / "removed")]).stdout.split()
        assert len(kept) == 1, count  # the same twice is kept once


def test_what_is_not_there_is_taken_out_without_an_error(layout: Layout, machine: Machine) -> None:
    layout.take_out(machine, "cloud-controller-manager", PurePosixPath("/var/lib/bbr/runs/r3"))
    layout.put_back(machine, "cloud-controller-manager", PurePosixPath("/var/lib/bbr/runs/r3"))
    assert not layout.is_in_service(machine, "cloud-controller-manager")


def test_files_are_collected(layout: Layout, machine: Machine) -> None:
    found = layout.collect(machine)
    taken = {str(file.path) for file in found.files}
    if layout.name == "kubeadm":
        assert "/opt/enc/config.yaml" in taken
    else:
        assert taken >= {"/etc/etcd.env", "/etc/etcd/pki/ca.key", "/etc/systemd/system/etcd.service"}
        assert not [path for path in taken if path.startswith("/srv/etcd")]
        assert found.problems == ()


def test_every_manifest_of_a_program_is_moved_whatever_its_name_and_no_other(machines: dict[str, Machine]) -> None:
    layout, machine, aside = StaticPods(), machines["kubeadm"], PurePosixPath("/var/lib/bbr/runs/r4/aside")
    machine.run(["cp", "-p", str(MANIFESTS / "kube-apiserver.yaml"), str(MANIFESTS / "saved.bak")])
    machine.put(MANIFESTS / f"{RECOVERY}.yaml", [POD.format("kube-apiserver").encode()], mode=0o600)
    layout.take_out(machine, "kube-apiserver", aside)
    there = machine.run(["ls", str(MANIFESTS)]).stdout.decode().split()
    assert "kube-vip.yaml" in there and f"{RECOVERY}.yaml" in there
    assert not {"kube-apiserver.yaml", "saved.bak"} & set(there)
    assert machine.run(["ls", "-A", str(aside)]).stdout.split() == [b"kube-apiserver.yaml", b"saved.bak"]
    about = machine.stat(aside / "kube-apiserver.yaml")
    assert about is not None and about.mode & 0o777 == 0o600
    layout.remove(machine, RECOVERY, aside)
    machine.run(["mv", str(aside / "saved.bak"), "/root/"])
    layout.put_back(machine, "kube-apiserver", aside)
    assert layout.is_in_service(machine, "kube-apiserver")


def test_another_file_of_that_name_is_never_written_over(machines: dict[str, Machine]) -> None:
    layout, machine, aside = StaticPods(), machines["kubeadm"], PurePosixPath("/var/lib/bbr/runs/r5/aside")
    machine.run(["mkdir", "-p", str(aside)])
    machine.put(aside / "kube-scheduler.yaml", [b"something else\n"], mode=0o600)
    with pytest.raises(PreconditionFailed, match="another file"):
        layout.take_out(machine, "kube-scheduler", aside)
    assert layout.is_in_service(machine, "kube-scheduler")


def test_aside_is_not_where_files_are_run(machines: dict[str, Machine]) -> None:
    with pytest.raises(UsageError):
        StaticPods().take_out(machines["kubeadm"], "etcd", MANIFESTS / "aside")
    with pytest.raises(UsageError):
        Systemd().take_out(machines["systemd"], "etcd", UNITS / "aside")


def test_a_move_that_was_cut_is_finished(machines: dict[str, Machine]) -> None:
    layout, machine, aside = StaticPods(), machines["kubeadm"], PurePosixPath("/var/lib/bbr/runs/r6/aside")
    machine.run(["mkdir", "-p", str(aside)])
    machine.run(["cp", "-p", str(MANIFESTS / "kube-scheduler.yaml"), str(aside)])
    layout.take_out(machine, "kube-scheduler", aside)
    assert not layout.is_in_service(machine, "kube-scheduler")
    layout.put_back(machine, "kube-scheduler", aside)
