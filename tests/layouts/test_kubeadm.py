"""Static-pod manifests as kubeadm writes them, and as people change them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from bbr.errors import UsageError
from bbr.layouts.kubeadm import EtcdAccess, discover

PKI = Path("/etc/kubernetes/pki")
API_SERVER_FLAGS = (
    "--advertise-address=10.0.0.11",
    "--client-ca-file=/etc/kubernetes/pki/ca.crt",
    "--enable-bootstrap-token-auth=true",
    "--etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt",
    "--etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt",
    "--etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key",
    "--etcd-servers=https://127.0.0.1:2379",
    "--service-cluster-ip-range=10.96.0.0/12",
)
ETCD_FLAGS = (
    "--advertise-client-urls=https://10.0.0.11:2379",
    "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
    "--client-cert-auth=true",
    "--key-file=/etc/kubernetes/pki/etcd/server.key",
    "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.11:2379",
    "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
)
MAIN = EtcdAccess(
    endpoints=("https://127.0.0.1:2379",),
    ca_file=PKI / "etcd/ca.crt",
    certificate_file=PKI / "apiserver-etcd-client.crt",
    key_file=PKI / "apiserver-etcd-client.key",
    prefix="/registry",
)


def write(folder: Path, program: str, command: Sequence[str], *, args: Sequence[str] = (), mount: str = "") -> None:
    """A static pod's manifest. ``mount`` puts this folder of the host where kubeadm has its pki in the container."""
    container: dict[str, object] = {"name": program, "image": f"registry.k8s.io/{program}:v1", "command": [*command]}
    container |= {"args": [*args]} if args else {}
    container["volumeMounts"] = [
        {"mountPath": "/etc/ssl/certs", "name": "ca-certs", "readOnly": True},
        {"mountPath": str(PKI), "name": "k8s-certs", "readOnly": True},
    ]
    volumes = [
        {"hostPath": {"path": "/etc/ssl/certs", "type": "DirectoryOrCreate"}, "name": "ca-certs"},
        {"hostPath": {"path": mount or str(PKI), "type": "DirectoryOrCreate"}, "name": "k8s-certs"},
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": program, "namespace": "kube-system"},
        "spec": {"containers": [container], "hostNetwork": True, "volumes": volumes},
    }
    (folder / f"{program}.yaml").write_text(yaml.safe_dump(pod))


def test_kubeadm_master_is_read_without_a_word_of_configuration(tmp_path: Path) -> None:
    write(tmp_path, "kube-apiserver", ["kube-apiserver", *API_SERVER_FLAGS])
    write(tmp_path, "etcd", ["etcd", *ETCD_FLAGS])
    assert discover(tmp_path) == {"main": MAIN}


def test_flags_may_stand_in_args_and_apart_from_their_values(tmp_path: Path) -> None:
    apart = [word for flag in API_SERVER_FLAGS for word in flag.split("=", 1)]
    write(tmp_path, "kube-apiserver", ["kube-apiserver", "--allow-privileged"], args=apart)
    assert discover(tmp_path) == {"main": MAIN}


def test_the_last_of_two_equal_flags_counts(tmp_path: Path) -> None:
    write(tmp_path, "kube-apiserver", ["kube-apiserver", *API_SERVER_FLAGS, "--etcd-servers=https://10.0.0.9:2379"])
    assert discover(tmp_path)["main"].endpoints == ("https://10.0.0.9:2379",)


def test_several_external_servers_and_another_prefix_are_kept(tmp_path: Path) -> None:
    flags = ["--etcd-servers=https://10.0.0.1:2379, https://10.0.0.2:2379", "--etcd-prefix=kubernetes.io/"]
    write(tmp_path, "kube-apiserver", ["kube-apiserver", *flags])
    found = discover(tmp_path)["main"]
    assert found.endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert found.prefix == "/kubernetes.io"
    assert (found.ca_file, found.certificate_file, found.key_file) == (None, None, None)


def test_etcd_of_the_events_is_a_second_one(tmp_path: Path) -> None:
    override = "--etcd-servers-overrides=/events#https://10.0.0.1:2381;https://10.0.0.2:2381"
    write(tmp_path, "kube-apiserver", ["kube-apiserver", *API_SERVER_FLAGS, override])
    found = discover(tmp_path)
    assert list(found) == ["main", "events"]
    assert found["events"].endpoints == ("https://10.0.0.1:2381", "https://10.0.0.2:2381")
    assert found["events"].ca_file == MAIN.ca_file


def test_resources_that_share_an_etcd_make_one_etcd(tmp_path: Path) -> None:
    overrides = ",".join(
        [
            "/events#https://b:2381;https://a:2381",
            "events.k8s.io/events#https://a:2381;https://b:2381",
            "apps/deployments#https://c:2379",
            "/secrets#https://127.0.0.1:2379",
        ]
    )
    write(
        tmp_path,
        "kube-apiserver",
        ["kube-apiserver", *API_SERVER_FLAGS, f"--etcd-servers-overrides={overrides}"],
    )
    assert list(discover(tmp_path)) == ["main", "events", "apps-deployments"]


def test_files_are_where_the_host_has_them(tmp_path: Path) -> None:
    write(tmp_path, "kube-apiserver", ["kube-apiserver", *API_SERVER_FLAGS], mount="/var/lib/other/pki")
    found = discover(tmp_path)["main"]
    assert found.ca_file == Path("/var/lib/other/pki/etcd/ca.crt")
    assert found.key_file == Path("/var/lib/other/pki/apiserver-etcd-client.key")


def test_a_host_of_etcd_alone_shows_its_own_certificate(tmp_path: Path) -> None:
    write(tmp_path, "etcd", ["etcd", *ETCD_FLAGS])
    assert discover(tmp_path) == {
        "main": EtcdAccess(
            ("https://10.0.0.11:2379",),
            PKI / "etcd/ca.crt",
            PKI / "etcd/server.crt",
            PKI / "etcd/server.key",
            "/registry",
        )
    }


def test_a_host_of_etcd_alone_prefers_the_certificate_for_health_checks(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    (pki / "etcd").mkdir(parents=True)
    for name in ("healthcheck-client.crt", "healthcheck-client.key"):
        (pki / "etcd" / name).write_text("PEM")
    write(tmp_path, "etcd", ["etcd", *ETCD_FLAGS], mount=str(pki))
    found = discover(tmp_path)["main"]
    assert found.certificate_file == pki / "etcd/healthcheck-client.crt"
    assert found.key_file == pki / "etcd/healthcheck-client.key"


def test_a_folder_without_manifests_is_told_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"neither kube-apiserver\.yaml nor etcd\.yaml") as caught:
            discover(folder)
        assert "endpoints" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        "spec: {containers: []}",
        "spec: {containers: [text]}",
        "spec: {containers: [{name: kube-apiserver, volumeMounts: [7]}]}",
        "\x00",
        "spec: {containers: 7}",
    ],
)
def test_what_is_no_manifest_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "kube-apiserver.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"kube-apiserver\.yaml is not the manifest"):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("program", "flags", "words"),
    [
        ("kube-apiserver", (), "no --etcd-servers"),
        ("kube-apiserver", ("--etcd-servers=https://a:1", "--etcd-servers-overrides=/events"), "names no servers"),
        ("kube-apiserver", ("--etcd-servers=https://a:1", "--etcd-servers-overrides=/events#;"), "names no servers"),
        ("etcd", (), "no --advertise-client-urls"),
    ],
)
def test_flags_that_do_not_tell_are_named(program: str, flags: Sequence[str], words: str, tmp_path: Path) -> None:
    write(tmp_path, program, [program, *flags])
    with pytest.raises(UsageError, match=words):
        discover(tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "kube-apiserver.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="not the manifest"):
        discover(tmp_path)
