"""What a backup's files say of the cluster that they are of."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from bbr.errors import PreconditionFailed
from bbr.repository.hostfiles import HostFile, HostFiles
from restore.oldcluster import read_old_cluster, same_minor
from restore.survey import version_of_image

ETCD = b"""\
spec:
  containers:
  - name: etcd
    image: registry.k8s.io/etcd:3.6.16-0
    command: [etcd, --name=m1, --initial-advertise-peer-urls=https://10.0.0.11:2380, --data-dir=/srv/etcd]
"""
API_SERVER = b"""\
spec:
  containers:
  - name: kube-apiserver
    image: registry.k8s.io/kube-apiserver:v1.37.2
    command: [kube-apiserver, --advertise-address=10.0.0.11]
"""
ADMIN = b"""\
clusters: [{name: prod, cluster: {server: "https://api.prod:6443"}}]
"""
KUBELET = b"""\
users: [{name: "system:node:node-one", user: {}}]
"""
MANIFESTS = "/etc/kubernetes/manifests"


def archive(files: dict[str, bytes], *, index: dict[str, Any] | None = None) -> HostFiles:
    """A backup of the one master m1."""
    placed = tuple(HostFile(PurePosixPath(path), 0o600, 0, 0, body) for path, body in files.items())
    return HostFiles(index or {}, {"m1": placed})


def test_a_master_is_told_by_its_manifests_and_kubeconfigs() -> None:
    old = read_old_cluster(
        archive(
            {
                f"{MANIFESTS}/etcd.yaml": ETCD,
                f"{MANIFESTS}/kube-apiserver.yaml": API_SERVER,
                f"{MANIFESTS}/.etcd.yaml.swp": b"not a manifest",
                "/etc/kubernetes/admin.conf": ADMIN,
                "/etc/kubernetes/kubelet.conf": KUBELET,
            }
        )
    )
    host = old.hosts["m1"]
    assert (host.node_name, host.address, host.member_name) == ("node-one", "10.0.0.11", "m1")
    assert (host.data_dir, host.layout) == ("/srv/etcd", "kubeadm")
    assert old.endpoint == "api.prod:6443"
    assert old.image_version("kube-apiserver") == "1.37.2"
    assert old.ca_sha256 == ""


def test_a_host_of_units_is_told_by_the_index() -> None:
    flags = {"name": "e1", "initial-advertise-peer-urls": "https://10.0.0.31:2380", "data-dir": "/srv/etcd"}
    index = {"hosts": {"m1": {"programs": {"etcd": {"image": "/usr/bin/etcd", "flags": flags}, "sshd": {}}}}}
    host = read_old_cluster(archive({"/etc/etcd.env": b""}, index=index)).hosts["m1"]
    assert (host.member_name, host.peer_url, host.layout) == ("e1", "https://10.0.0.31:2380", "systemd")
    assert host.programs.keys() == {"etcd"}


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"hosts": []},
        {"hosts": {"m1": {}}},
        {"hosts": {"m1": {"programs": {"etcd": {"flags": "none", "image": "/usr/bin/etcd"}}}}},
        {"hosts": {"m1": {"programs": {"sshd": {"flags": {}, "image": "/usr/sbin/sshd"}}}}},
    ],
)
def test_files_of_no_master_are_refused_whatever_the_index_says(index: dict[str, Any]) -> None:
    with pytest.raises(PreconditionFailed, match="no control-plane files"):
        read_old_cluster(archive({"/etc/etcd.env": b""}, index=index))


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("registry.k8s.io/etcd:3.6.16-0", "3.6.16"),
        ("registry.local:5000/kube-apiserver:v1.37.2", "1.37.2"),
        ("registry.local:5000/kube-apiserver", ""),
        ("registry.k8s.io/etcd@sha256:abcd", ""),
        ("", ""),
    ],
)
def test_a_version_is_told_by_an_images_tag(image: str, version: str) -> None:
    assert version_of_image(image) == version


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1.37.2", "v1.37.9", True), ("1.37.2", "1.36.2", False), ("", "1.36.2", True), ("3.6.16", "", True)],
)
def test_versions_are_of_one_minor(one: str, other: str, same: bool) -> None:
    assert same_minor(one, other) is same
