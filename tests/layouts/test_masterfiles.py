"""Which files of a master are taken: the tree is the real kubeadm's, the machine this one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import UsageError
from bbr.layouts.masterfiles import MasterFiles, collect
from bbr.layouts.pki import check_pki
from bbr.machines.machine import TRANSFER_TIME
from tests.conftest import program
from tests.layouts.kubeadm_tree import Rooted, make_tree
from tests.layouts.test_pki import NOW

KUBERNETES = "1.37.2"


@pytest.fixture(scope="module")
def made(search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("master")
    make_tree(program("kubeadm", search, KUBERNETES), root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    shutil.copytree(made, tmp_path / "root", symlinks=True)
    return tmp_path / "root"


def whys(found: MasterFiles) -> dict[str, str]:
    return {str(file.path): file.why for file in found.files}


def test_everything_that_a_master_is_made_of_is_taken_and_nothing_else(root: Path) -> None:
    found = collect(Rooted(root))
    assert found.problems == ()
    assert set(found.pods) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
    taken = whys(found)
    for name in ("pki/ca.key", "pki/etcd/ca.key", "pki/sa.key", "admin.conf", "manifests/etcd.yaml"):
        assert taken[f"/etc/kubernetes/{name}"] == "kubeadm"
    assert taken["/var/lib/kubelet/kubeadm-flags.env"] == taken["/etc/cni/net.d/10-lab.conflist"] == "kubeadm"
    # What flags name is the container's path; where it lies is the mount's affair.
    assert taken["/opt/enc/config.yaml"] == "kube-apiserver --encryption-provider-config"
    assert taken["/opt/adm/admission.yaml"] == "kube-apiserver --admission-control-config-file"
    # And what those files name.
    assert taken["/etc/oidc/plugin.yaml"] == "/opt/adm/admission.yaml names it"
    assert taken["/etc/oidc/ca.pem"] == "/etc/oidc/plugin.yaml names it"
    assert not {path for path in taken if path.startswith(("/var/lib/etcd", "/var/log", "/var/lib/kubelet/pki"))}
    assert not {path for path in taken if path.startswith(("/etc/ssl", "/usr/share"))}


def test_bodies_modes_and_owners_are_those_of_the_master(root: Path) -> None:
    key = next(file for file in collect(Rooted(root)).files if file.path.name == "sa.key")
    on_disk = root / "etc/kubernetes/pki/sa.key"
    about = on_disk.stat()
    assert (key.body, key.mode) == (on_disk.read_bytes(), 0o600)
    assert key.owner == f"{about.st_uid}:{about.st_gid}"


def test_the_pki_that_kubeadm_made_holds_together(root: Path) -> None:
    files = {file.path: file.body for file in collect(Rooted(root)).files}
    assert check_pki({"m1": files}, now=NOW).problems == ()


def test_a_link_is_taken_as_a_link_and_so_is_what_it_leads_to(root: Path) -> None:
    (root / "etc/kubernetes/audit.yaml").symlink_to("/opt/audit/now.yaml")
    (root / "opt/audit").mkdir()
    (root / "opt/audit/now.yaml").write_text("kind: Policy\n")
    found = collect(Rooted(root))
    link = next(file for file in found.files if file.path.name == "audit.yaml")
    assert (link.link, link.body) == ("/opt/audit/now.yaml", b"")
    assert whys(found)["/opt/audit/now.yaml"] == "/etc/kubernetes/audit.yaml leads to it"


def _remove_encryption(root: Path) -> None:
    shutil.rmtree(root / "opt/enc")


def _grow_a_file(root: Path) -> None:
    (root / "etc/kubernetes/dump").write_bytes(bytes(5_000_000))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_remove_encryption, "m1: /opt/enc/config.yaml is not there, which kube-apiserver --encryption-provider"),
        (_grow_a_file, "m1: /etc/kubernetes/dump is left out: 5,000,000 bytes"),
    ],
)
def test_what_is_missing_or_too_large_is_a_problem(root: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(root)
    assert any(problem.startswith(says) for problem in collect(Rooted(root)).problems)


def test_what_changes_while_it_is_read_is_a_problem(root: Path) -> None:
    """`kubeadm upgrade` replaces manifests one by one."""

    class Upgraded(Rooted):
        def get(self, path: PurePosixPath, *, limit_bytes: int, timeout: timedelta = TRANSFER_TIME) -> Iterator[bytes]:
            if path.name == "kube-scheduler.yaml":
                (root / "etc/kubernetes/manifests/etcd.yaml").chmod(0o644)
            return super().get(path, limit_bytes=limit_bytes, timeout=timeout)

    (problem,) = collect(Upgraded(root)).problems
    assert problem == "m1: changed while they were read: /etc/kubernetes/manifests/etcd.yaml"


def test_a_host_that_is_no_master_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc/kubernetes").mkdir(parents=True)
    with pytest.raises(UsageError, match="m1 has no static pods in /etc/kubernetes/manifests"):
        collect(Rooted(tmp_path))


def test_a_file_in_the_manifests_folder_whose_name_begins_with_a_dot_is_no_pod(root: Path) -> None:
    (root / "etc/kubernetes/manifests/.etcd.yaml").write_text("not: a pod\n")
    assert set(collect(Rooted(root)).pods) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
