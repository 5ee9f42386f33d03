"""The control plane in a backup: taken from what the real kubeadm wrote, stored once while unchanged, read back."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import KeyRefused, PartialBackup
from bbr.etcd import write
from bbr.repository.hostfiles import HostFiles
from bbr.servers.etcd import EtcdServers
from bbr.stores.memory import MemoryStore
from tests.conftest import program
from tests.layouts.kubeadm_tree import Rooted, make_tree
from tests.layouts.test_masterfiles import KUBERNETES
from tests.layouts.test_pki import OTHER, certificate
from tests.making import Site, make_site, source
from tests.objects.test_encryption import RIGHT, WRONG, configuration, sealed_cbc

CA_KEY = PurePosixPath("/etc/kubernetes/pki/ca.key")


@pytest.fixture(scope="module")
def made(search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("master")
    make_tree(program("kubeadm", search, KUBERNETES), root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "m1", symlinks=True)
    return tmp_path / "m1"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(MemoryStore(), tmp_path)


def stored(site: Site) -> HostFiles:
    archive = site.archive()
    found = archive.control_plane(archive.catalog.backups[-1])
    assert found is not None
    return found


def test_the_files_of_a_master_come_back_as_they_lay(module_etcd: EtcdServers, site: Site, root: Path) -> None:
    site.backup(source(module_etcd.endpoints), masters={"m1": Rooted(root)})
    found = stored(site)
    files = {file.path: file for file in found.hosts["m1"]}
    for path in root.rglob("*"):
        name = PurePosixPath("/", path.relative_to(root))
        if path.is_file() and name.is_relative_to("/etc/kubernetes"):
            assert files[name].body == path.read_bytes()
            assert files[name].mode == path.stat().st_mode & 0o7777
    assert found.index["cluster"] == {
        "cluster_name": "kubernetes",
        "pod_cidr": "10.244.0.0/16",
        "service_account_issuer": "https://kubernetes.default.svc.cluster.local",
        "service_cidr": "10.96.0.0/12",
    }
    assert found.index["hosts"]["m1"]["programs"]["etcd"]["image"] == "registry.k8s.io/etcd:3.6.16-0"
    assert site.failed_checks(root.parent) == []


def test_no_key_of_the_control_plane_lies_in_the_store_in_the_clear(
    module_etcd: EtcdServers, site: Site, root: Path
) -> None:
    site.backup(source(module_etcd.endpoints), masters={"m1": Rooted(root)})
    secret = (root / "etc/kubernetes/pki/ca.key").read_bytes().splitlines()[1]
    bodies = [site.store.get(entry.name, limit_bytes=1 << 30) for entry in site.store.list("")]
    assert not [body for body in bodies if secret in body or b"ca.key" in body]
    archive = site.archive(())
    with pytest.raises(KeyRefused):
        archive.control_plane(archive.catalog.backups[-1])


def test_what_did_not_change_is_stored_once_in_a_generation(module_etcd: EtcdServers, site: Site, root: Path) -> None:
    masters = {"m1": Rooted(root)}
    first = site.backup(source(module_etcd.endpoints), masters=masters).backup.manifest
    second = site.backup(source(module_etcd.endpoints), masters=masters).backup.manifest
    assert second.sequence == 1
    assert second.control_plane == first.control_plane
    (root / "etc/kubernetes/admin.conf").write_text("kind: Config\n")
    third = site.backup(source(module_etcd.endpoints), masters=masters).backup.manifest
    assert third.control_plane != first.control_plane
    fresh = site.backup(source(module_etcd.endpoints), masters=masters, new_generation=True).backup.manifest
    assert fresh.control_plane is not None
    assert third.control_plane is not None
    assert fresh.control_plane.sha256 == third.control_plane.sha256
    assert fresh.control_plane.parts != third.control_plane.parts
    assert site.failed_checks(root.parent) == []


def test_masters_that_do_not_belong_together_make_the_backup_partial(
    module_etcd: EtcdServers, site: Site, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "m2"
    shutil.copytree(root, other, symlinks=True)
    manifest = other / "etc/kubernetes/manifests/kube-scheduler.yaml"
    manifest.write_text(manifest.read_text().replace(f"v{KUBERNETES}", "v1.37.3"))
    (other / "etc/kubernetes/pki/sa.pub").write_bytes((root / "etc/kubernetes/pki/sa.pub").read_bytes() + b"#\n")
    with pytest.raises(PartialBackup, match="an upgrade is under way") as raised:
        site.backup(source(module_etcd.endpoints), masters={"m1": Rooted(root), "m2": Rooted(other)})
    assert raised.value.exit_code == 3
    assert "sa.pub differs between m1 and m2" in str(raised.value)
    assert set(stored(site).hosts) == {"m1", "m2"}


@pytest.mark.parametrize("opens", [True, False])
def test_a_secret_that_the_captured_configuration_does_not_open_makes_the_backup_partial(
    module_etcd: EtcdServers, site: Site, root: Path, *, opens: bool
) -> None:
    configured = RIGHT if opens else WRONG
    (root / "opt/enc/config.yaml").write_bytes(configuration("aescbc", configured))
    key = b"/registry/secrets/default/canary"
    with module_etcd.client() as client:
        write.put(client, key, sealed_cbc(RIGHT))
        try:
            outcome = "complete"
            site.backup(source(module_etcd.endpoints), masters={"m1": Rooted(root)})
        except PartialBackup as err:
            outcome = str(err)
        finally:
            write.delete(client, key)
    if opens:
        assert outcome == "complete"
    else:
        assert "m1: Secret /registry/secrets/default/canary cannot be read with these files" in outcome
        assert "aescbc key 'key1' of the configuration does not open it" in outcome


def test_an_authority_that_is_not_the_one_in_etcd_makes_the_backup_partial(
    module_etcd: EtcdServers, site: Site, root: Path
) -> None:
    key = b"/registry/configmaps/kube-public/cluster-info"
    right = (root / "etc/kubernetes/pki/ca.crt").read_bytes()
    with module_etcd.client() as client:
        try:
            for body, complete in ((right, True), (certificate(OTHER), False)):
                write.put(client, key, b"k8s\0 certificate-authority-data: " + base64.b64encode(body) + b"\n")
                if complete:
                    site.backup(source(module_etcd.endpoints), masters={"m1": Rooted(root)})
                    continue
                with pytest.raises(PartialBackup, match=r"ca.crt is not the CA that etcd's cluster-info names"):
                    site.backup(source(module_etcd.endpoints), masters={"m1": Rooted(root)})
        finally:
            write.delete(client, key)
