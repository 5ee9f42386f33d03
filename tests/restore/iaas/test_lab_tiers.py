"""A host that the lab's adapter makes is ready to be a node, in the way of the lab's tier."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bbr.lab.cluster import programs
from bbr.lab.cluster.spec import VOLUMES
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.lab.programs import SYSTEM_PATH
from restore.iaas.iaas import machine_of
from restore.iaas.inventory import read_inventory
from restore.iaas.site import open_iaas
from tests.restore.iaas.conftest import lab_inventory, wanted


@pytest.fixture
def fast_lab(search: tuple[Path, ...], tmp_path: Path) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    folders = programs.folders(programs.FAST, search)
    with Lab.up([HostSpec("old", programs=folders)], base=tmp_path / "labs", name="fast") as there:
        yield there


def test_host_of_the_fast_tier_has_what_a_restore_commands(fast_lab: Lab, tmp_path: Path) -> None:
    iaas = open_iaas(read_inventory(lab_inventory(fast_lab, tmp_path, tier="fast"))).iaas
    made = iaas.ensure_machine(wanted("v1"))
    assert (made.state, made.mark) == ("on", iaas.list_owned().machines[0].mark)
    with machine_of(made) as machine:
        machine.run(["kubelet-standin", "--check"])
        machine.run(["test", "-d", "/etc/kubernetes/manifests"])
        machine.run(["systemctl", "start", "kubelet"])
        machine.run(["systemctl", "is-active", "kubelet"])
        for program in ("kubeadm", "etcd", "etcdutl", "kube-apiserver"):
            machine.run(["sh", "-c", 'command -v "$1"', "bbr", program])
    iaas.delete("v1", run="r1")
    assert iaas.list_owned().machines == ()


@pytest.mark.slow
def test_host_of_the_true_tier_has_a_container_runtime_and_images(search: tuple[Path, ...], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    if shutil.which("runc", path=SYSTEM_PATH) is None:
        pytest.skip("containers need Debian's runc")
    spec = HostSpec("old", programs=programs.folders(programs.TRUE, search), volumes=VOLUMES)
    with Lab.up([spec], base=tmp_path / "labs", name="real") as there:
        iaas = open_iaas(read_inventory(lab_inventory(there, tmp_path, tier="true"))).iaas
        with machine_of(iaas.ensure_machine(wanted("v1"))) as machine:
            machine.run(["systemctl", "is-active", "containerd"])
            images = machine.run(["ctr", "--namespace", "k8s.io", "images", "ls", "--quiet"]).stdout.decode()
            assert "/kube-apiserver:" in images
            assert "/etcd:" in images
        iaas.delete("v1", run="r1")
        assert iaas.list_owned().machines == ()
