"""A new master's files must be what kubeadm itself makes for it with the same authorities."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest
import yaml
from cryptography import x509

from bbr.errors import PreconditionFailed, UsageError
from bbr.layouts.kubeconfig import read_kubeconfig
from bbr.layouts.leaves import LEAVES, authority_problems
from bbr.layouts.newmaster import NewMaster, make_master
from bbr.layouts.pki import PKI, check_pki
from bbr.layouts.renaming import MasterName
from bbr.repository.hostfiles import HostFile
from tests.conftest import program
from tests.layouts.masters import (
    KUBERNETES,
    M1,
    M9,
    V1,
    V9,
    Files,
    backed_up,
    by_path,
    changed,
    kubeadm_again,
    kubeadm_master,
)
from tests.layouts.test_masterfiles import KUBERNETES as VERSION

NOW = datetime.now(UTC) + timedelta(hours=2)  # after what kubeadm makes later in the same run
MANIFESTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
HAPROXY = """apiVersion: v1
kind: Pod
metadata: {name: haproxy}
spec:
  containers:
  - name: haproxy
    image: haproxy:3
    command: ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
    livenessProbe: {httpGet: {host: 10.77.0.11, port: 8443}}
    volumeMounts: [{name: conf, mountPath: /usr/local/etc/haproxy}]
  volumes: [{name: conf, hostPath: {path: /etc/haproxy}}]
"""
VIP_ENV = """    env:
    - name: vip_interface
      value: eth0
"""
HAPROXY_CFG = """# the masters
backend api
  server m1 10.77.0.11:6443 check
  server m11 10.77.0.111:6443 check
  server m2 10.77.0.12:6443 check
  stats auth admin:geheim
"""


@pytest.fixture(scope="module")
def roots(search: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[MasterName, Path]:
    """Trees of kubeadm for each of the names, all with the same authorities."""
    kubeadm, folder = program("kubeadm", search, VERSION), tmp_path_factory.mktemp("masters")
    made = {M1: folder / "m1", M9: folder / "m9", V1: folder / "v1", V9: folder / "v9"}
    kubeadm_master(kubeadm, made[M1])
    for master in (M9, V1, V9):
        kubeadm_again(kubeadm, made[M1], made[master], master)
    return made


@pytest.fixture(scope="module")
def source(roots: dict[MasterName, Path]) -> tuple[HostFile, ...]:
    return backed_up(roots[M1])


def make(
    source: tuple[HostFile, ...],
    *,
    old: MasterName = M1,
    new: MasterName = M9,
    others: dict[MasterName, MasterName] | None = None,
    endpoint: str | None = None,
    now: datetime = NOW,
) -> NewMaster:
    address = f"[{new.address}]" if ":" in new.address else new.address
    cluster = [(new.name, f"https://{address}:2380")]
    return make_master(source, old=old, new=new, others=others or {}, etcd_cluster=cluster, endpoint=endpoint, now=now)


def text(files: Files, path: PurePosixPath | str) -> str:
    return files[PurePosixPath(path)].body.decode()


@pytest.mark.parametrize(("old", "new"), [(M1, M9), (V1, V9), (M1, V9), (V1, M9)])
def test_manifests_are_those_that_kubeadm_makes(
    roots: dict[MasterName, Path], old: MasterName, new: MasterName
) -> None:
    made = by_path(make(backed_up(roots[old]), old=old, new=new).files)
    wanted = by_path(backed_up(roots[new]))
    if (":" in old.address) != (":" in new.address):
        # What else the family of addresses decides (the loopback, service addresses) is not this host's affair.
        api_server = yaml.safe_load(text(made, KUBERNETES / "manifests/kube-apiserver.yaml"))
        theirs = yaml.safe_load(text(wanted, KUBERNETES / "manifests/kube-apiserver.yaml"))
        assert api_server["metadata"] == theirs["metadata"]
        assert f"--advertise-address={new.address}" in api_server["spec"]["containers"][0]["command"]
        return
    for name in MANIFESTS:
        path = KUBERNETES / f"manifests/{name}.yaml"
        assert text(made, path).splitlines() == text(wanted, path).splitlines()
    assert f"--node-ip={new.address}" in text(made, "/var/lib/kubelet/kubeadm-flags.env") or old is V1


@pytest.mark.parametrize(("old", "new"), [(M1, M9), (V1, V9)])
def test_certificates_say_what_those_of_kubeadm_say(
    roots: dict[MasterName, Path], old: MasterName, new: MasterName
) -> None:
    made, wanted = by_path(make(backed_up(roots[old]), old=old, new=new).files), by_path(backed_up(roots[new]))
    for name, signer in LEAVES.items():
        ours = x509.load_pem_x509_certificate(made[PKI / f"{name}.crt"].body)
        theirs = x509.load_pem_x509_certificate(wanted[PKI / f"{name}.crt"].body)
        assert said(ours) == said(theirs), name
        authority = x509.load_pem_x509_certificate(made[PKI / f"{signer}.crt"].body)
        ours.verify_directly_issued_by(authority)
        assert authority.not_valid_before_utc <= ours.not_valid_before_utc < NOW
        assert NOW + timedelta(days=360) < ours.not_valid_after_utc <= authority.not_valid_after_utc
    assert check_pki({"m9": {path: file.body for path, file in made.items()}}, now=NOW).problems == ()


def said(certificate: x509.Certificate) -> object:
    """All that a certificate says, but for its key, number and dates."""
    extensions = {
        one.oid: (one.critical, set(one.value) if isinstance(one.value, x509.SubjectAlternativeName) else one.value)
        for one in certificate.extensions
    }
    return certificate.subject, certificate.issuer, certificate.public_key().key_size, extensions  # type: ignore[union-attr]


def test_kubeconfigs_are_those_that_kubeadm_makes_but_for_keys(
    roots: dict[MasterName, Path], source: tuple[HostFile, ...]
) -> None:
    made, wanted = by_path(make(source).files), by_path(backed_up(roots[M9]))
    for name in ("admin", "super-admin", "controller-manager", "scheduler", "kubelet"):
        ours, theirs = (yaml.safe_load(text(files, KUBERNETES / f"{name}.conf")) for files in (made, wanted))
        certificates = []
        for config in (ours, theirs):
            user = config["users"][0]["user"]
            user.pop("client-key-data")
            body = base64.b64decode(user.pop("client-certificate-data"))
            certificates.append(said(x509.load_pem_x509_certificate(body)))
        assert ours == theirs, name
        assert certificates[0] == certificates[1], name
    assert made[KUBERNETES / "admin.conf"] == by_path(source)[KUBERNETES / "admin.conf"]


def test_what_all_masters_share_is_kept_byte_for_byte(source: tuple[HostFile, ...]) -> None:
    made, old = by_path(make(source).files), by_path(source)
    assert set(made) == set(old)
    kept = {str(path) for path in old if made[path] == old[path]}
    assert {f"{PKI}/{name}" for name in ("ca.crt", "ca.key", "etcd/ca.key", "front-proxy-ca.key", "sa.key")} < kept
    assert {"/opt/enc/config.yaml", "/opt/adm/admission.yaml", "/etc/oidc/ca.pem", f"{PKI}/sa.pub"} < kept
    assert {f"{PKI}/apiserver-etcd-client.crt", f"{PKI}/front-proxy-client.key"} < kept
    assert all((made[path].mode, made[path].uid) == (old[path].mode, old[path].uid) for path in old)


def test_a_master_that_stays_what_it_is_gets_its_files_as_they_were(source: tuple[HostFile, ...]) -> None:
    made = make(source, new=M1)
    assert made == NewMaster(source, (), (), ())


def test_diffs_show_only_what_changes_and_no_keys(source: tuple[HostFile, ...]) -> None:
    made = make(source)
    shown = "\n".join(made.diffs)
    assert shown.count("\n-    ") + shown.count("\n-        ") == 7 + 5 + 3  # the three probes are counted twice
    assert f"{PKI}/apiserver.crt: re-issued, SANs m1, 10.77.0.11 -> m9, 10.77.0.19" in made.diffs
    assert "PRIVATE" not in shown
    assert "LS0t" not in shown
    assert made.notes == ()
    assert "PRIVATE" not in repr(make(changed(source, {f"{PKI}/ca.key": None})).requests)


def test_the_kubelet_gets_no_key_file_of_the_old_node(source: tuple[HostFile, ...]) -> None:
    """After its first rotation the kubelet's kubeconfig names a file, also on a master that keeps its name."""
    config = yaml.safe_load(text(by_path(source), KUBERNETES / "kubelet.conf"))
    pem = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    config["users"][0]["user"] = {"client-certificate": pem, "client-key": pem}
    rotated = changed(source, {str(KUBERNETES / "kubelet.conf"): yaml.safe_dump(config), pem: "a key\n"})
    for new in (M1, M9):
        made = make(rotated, new=new)
        assert PurePosixPath(pem) not in by_path(made.files)
        assert any(pem in note for note in made.notes)
        kubelet = read_kubeconfig(text(by_path(made.files), KUBERNETES / "kubelet.conf"), what="kubelet.conf")
        assert not kubelet.names_files
        subject = x509.load_pem_x509_certificate(kubelet.clients[0]).subject.rfc4514_string()
        assert subject == f"CN=system:node:{new.name},O=system:nodes"


def test_load_balancers_on_the_host_get_all_new_masters(source: tuple[HostFile, ...]) -> None:
    added = {"/etc/kubernetes/manifests/haproxy.yaml": HAPROXY, "/etc/haproxy/haproxy.cfg": HAPROXY_CFG}
    others = {MasterName("m2", "10.77.0.12"): MasterName("m8", "10.77.0.11")}
    made = make(changed(source, added), others=others)
    files = by_path(made.files)
    assert text(files, "/etc/haproxy/haproxy.cfg") == (
        HAPROXY_CFG.replace("m1 10.77.0.11:", "m9 10.77.0.19:").replace("m2 10.77.0.12", "m8 10.77.0.11")
    )
    manifest = text(files, "/etc/kubernetes/manifests/haproxy.yaml")
    assert manifest.replace("'10.77.0.19'", "10.77.0.11") == HAPROXY
    assert "geheim" not in "\n".join(made.diffs)
    assert "-  server m2 10.77.0.12:6443 check" in "\n".join(made.diffs)


def test_interfaces_and_provider_ids_that_only_a_person_can_judge_are_noted(source: tuple[HostFile, ...]) -> None:
    vip = HAPROXY.replace("haproxy", "kube-vip").replace("    volumeMounts", VIP_ENV + "    volumeMounts")
    added = {
        "/etc/kubernetes/manifests/kube-vip.yaml": vip,
        "/etc/kube-vip/keepalived.conf": "vrrp_instance x {\n  interface ens3\n}\n",
        "/etc/default/kubelet": 'KUBELET_EXTRA_ARGS="--provider-id=aws:///i-1"\n',
    }
    assert set(make(changed(source, added)).notes) == {
        "/etc/kubernetes/manifests/kube-vip.yaml names the network interface eth0: the new host must have it",
        "/etc/kube-vip/keepalived.conf names the network interface ens3: the new host must have it",
        "/etc/default/kubelet sets a provider id, which is the old machine's",
    }


def test_what_a_kms_plugin_has_is_not_touched(source: tuple[HostFile, ...]) -> None:
    plugin = HAPROXY.replace("haproxy", "kms").replace("/etc/kms", "/opt/kms")
    encryption = "kind: EncryptionConfiguration\nresources: [{providers: [{kms: {name: x, endpoint: unix:///opt/kms/s.sock}}]}]\n"
    added = {
        "/etc/kubernetes/manifests/kms.yaml": plugin,
        "/opt/kms/vault.yaml": "address: https://10.77.0.11:8200\n",
        "/opt/enc/config.yaml": encryption,
    }
    made = make(changed(source, added))
    files = by_path(made.files)
    assert {path: text(files, path) for path in added} == added
    assert "/opt/kms/vault.yaml names an old master (10.77.0.11), and is kept as it is" in made.notes


def test_an_external_authority_is_asked_instead(source: tuple[HostFile, ...]) -> None:
    made = make(changed(source, {f"{PKI}/ca.key": None, f"{PKI}/etcd/ca.key": None}))
    asked = {str(one.path): x509.load_pem_x509_csr(one.request) for one in made.requests}
    assert set(asked) == {
        f"{PKI}/apiserver.crt",
        f"{PKI}/etcd/server.crt",
        f"{PKI}/etcd/peer.crt",
        "/etc/kubernetes/kubelet.conf",
    }
    alternatives = asked[f"{PKI}/apiserver.crt"].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"m9", "api.lab"} <= set(alternatives.get_values_for_type(x509.DNSName))
    assert asked["/etc/kubernetes/kubelet.conf"].subject.rfc4514_string() == "CN=system:node:m9,O=system:nodes"
    assert all(one.is_signature_valid for one in asked.values())
    assert not {PurePosixPath(path) for path in asked} & set(by_path(made.files))
    assert not {PurePosixPath(path).with_suffix(".key") for path in asked} & set(by_path(made.files))


def test_clients_certificates_that_end_soon_are_renewed(source: tuple[HostFile, ...]) -> None:
    later = NOW + timedelta(days=350)
    made = make(source, new=M1, now=later)
    files = by_path(made.files)
    for name in LEAVES:
        assert x509.load_pem_x509_certificate(files[PKI / f"{name}.crt"].body).not_valid_after_utc > later + timedelta(
            300
        )
    for name in ("admin", "super-admin", "controller-manager", "scheduler", "kubelet"):
        (client,) = read_kubeconfig(text(files, KUBERNETES / f"{name}.conf"), what=name).clients.values()
        assert x509.load_pem_x509_certificate(client).not_valid_after_utc > later + timedelta(300)
    assert len(made.diffs) == len(LEAVES) + 5


def test_a_new_endpoint_is_where_people_go_and_what_the_api_server_is_named(source: tuple[HostFile, ...]) -> None:
    files = by_path(make(source, endpoint="new.lab:8443").files)
    for name, server in (("admin", "https://new.lab:8443"), ("scheduler", "https://10.77.0.19:6443")):
        assert read_kubeconfig(text(files, KUBERNETES / f"{name}.conf"), what=name).servers == (server,)
    leaf = x509.load_pem_x509_certificate(files[PKI / "apiserver.crt"].body)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"new.lab", "api.lab"} <= set(names.get_values_for_type(x509.DNSName))
    with pytest.raises(UsageError, match=r"'new\.lab' is no endpoint"):
        make(source, endpoint="new.lab")


def test_an_authority_that_has_ended_issues_nothing(source: tuple[HostFile, ...]) -> None:
    after = NOW + timedelta(days=4000)
    with pytest.raises(PreconditionFailed, match="nothing that it issues would be trusted"):
        make(source, now=after)
    assert authority_problems(source, NOW) == ()
    assert len(authority_problems(source, after)) == 3
    other = by_path(source)[PKI / "etcd/ca.key"].body
    (problem,) = authority_problems(changed(source, {f"{PKI}/ca.key": other}), NOW)
    assert problem == "the key of /etc/kubernetes/pki/ca.crt is not the key of its certificate"
    (problem,) = authority_problems(changed(source, {f"{PKI}/ca.key": None}), NOW)
    assert "an external authority" in problem


def test_an_etcd_without_a_member_for_the_host_is_refused(source: tuple[HostFile, ...]) -> None:
    with pytest.raises(UsageError, match=r"the new etcd has no member at 10\.77\.0\.19"):
        make_master(
            source, old=M1, new=M9, others={}, etcd_cluster=[("m8", "https://10.77.0.18:2380")], endpoint=None, now=NOW
        )


@pytest.mark.parametrize("path", ["manifests/etcd.yaml", "admin.conf", "kubelet.conf", "pki/apiserver.crt"])
@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b"[" * 5000, b"a: &a [*a, *a]\n", b"clusters: [{cluster: geheim}]\n"]
)
def test_files_that_are_not_what_their_names_say_are_refused(
    source: tuple[HostFile, ...], path: str, body: bytes
) -> None:
    with pytest.raises((UsageError, PreconditionFailed)) as caught:
        make(changed(source, {str(KUBERNETES / path): body}))
    assert "geheim" not in str(caught.value) or path.startswith("manifests")
