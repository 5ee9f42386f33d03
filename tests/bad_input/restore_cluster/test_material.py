"""Keys, certificates and files that a backup lacks, or that are not what they were: what is said, what stands then.

One cluster; the tests follow each other, and the last one takes its master's place.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from bbr.lab.cluster import fast, programs
from bbr.lab.cluster.spec import ClusterSpec, host_specs
from bbr.servers.binaries import search_path
from tests.bad_input.restore_cluster.broken import begun, hosts_inventory, refused_plan, the_lab
from tests.restore.cluster.site import IDENTITY, PROGRAM, TARGET, Site, object_names, opened_site

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

ENCRYPTION = "/etc/kubernetes/encryption.yaml"
PKI = "/etc/kubernetes/pki"
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
KUBECTL = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
WAIT_S = 90.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A master with a backup, and a new machine beside it."""
    with opened_site(tmp_path_factory.mktemp("material"), masters=("m1",)) as site:
        site.kubectl("m1", "create", "namespace", "before")
        site.kubectl("m1", "-n", "before", "create", "secret", "generic", "known", "--from-literal=word=plugh")
        site.kubectl("m1", "-n", "before", "create", "serviceaccount", "robot")
        token = site.kubectl("m1", "-n", "before", "create", "token", "robot", "--duration", "24h")
        (site.folder / "token").write_text(token.strip())
        site.back_up()
        found = programs.folders(programs.FAST, search_path(bin_dir=None, environ=os.environ))
        the_lab(site).add(*host_specs(ClusterSpec(masters=("n1",)), found))
        fast.prepare(the_lab(site), ["n1"])
        yield replace(site, lab=the_lab(site))


@pytest.fixture(scope="module")
def external(site: Site) -> str:
    """The id of a backup that was taken after the CA's key had gone to its owner, as it is with an external CA."""
    (site.folder / "ca.key").write_text(site.on("m1", f"cat {PKI}/ca.key"))
    # As kubeadm writes it where it finds no key: nobody signs what nodes ask for.
    manager = "/etc/kubernetes/manifests/kube-controller-manager.yaml"
    site.on("m1", f"rm {PKI}/ca.key && sed -i -E 's/(--cluster-signing-(cert|key)-file=).*/\\1/' {manager}")
    return site.back_up()


@pytest.fixture(scope="module")
def first(site: Site) -> str:
    """The id of the first backup: the one that is whole."""
    return str(json.loads(site.bbr("list", "-o", "json").stdout)["backups"][0]["id"])


def test_an_old_master_that_runs_and_is_neither_fenced_nor_attested_stops_the_plan(site: Site) -> None:
    code, said = refused_plan(site, hosts_inventory(site), "--to", "n1", kind="fresh")
    assert code == 5
    assert "old masters that may come back with old data: m1" in said
    assert "--attest m1" in said
    check_serves(site)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ('sed -i -E \'s/("secret": ")......../\\1AAAAAAAA/\' ' + ENCRYPTION, "does not open it"),
        (f"rm {ENCRYPTION}", "there is no encryption configuration"),
    ],
    ids=["wrong", "missing"],
)
def test_a_backup_whose_encryption_configuration_opens_nothing_stops_before_the_first_step(
    site: Site, spoil: str, says: str
) -> None:
    with spoilt(site, ENCRYPTION, spoil):
        done = site.bbr("backup", "-o", "json", inside=True, check=False)
    assert done.returncode == 3, done.stderr  # it is known then already
    plan = planned(site, json.loads(done.stdout)["id"])
    done = site.apply(plan, check=False)
    assert done.returncode == 5, done.stderr
    assert "Secret /registry/secrets/" in done.stderr
    assert says in done.stderr
    assert begun(site, plan) == []
    assert "was never begun" in site.undo(plan, check=False).stderr
    check_serves(site)


def test_an_authority_that_has_expired_stops_the_plan(site: Site) -> None:
    with spoilt(site, f"{PKI}/ca.crt", f"cat >{PKI}/ca.crt", stdin=expired_authority(site)):
        done = site.bbr("backup", "-o", "json", inside=True, check=False)
    assert done.returncode == 3, done.stderr
    code, said = refused(site, json.loads(done.stdout)["id"])
    assert code == 5
    assert f"{PKI}/ca.crt has expired" in said
    # The API server had seen the other authority, and refused its clients until it saw its own again.
    wait(lambda: "known" in site.on("m1", f"{KUBECTL} -n before get secret known -o name", check=False))
    check_serves(site)


def test_keys_that_were_exchanged_since_the_backup_are_merged_and_an_undo_takes_that_back(
    site: Site, first: str
) -> None:
    """kubernetes#53301, charmed-kubernetes#582: without the old keys no Secret can be read, and no token is taken."""
    old_key = secret_of(site)
    rotate(site)
    site.kubectl("m1", "create", "namespace", "after")
    disk = {path: site.on("m1", f"cat {path}") for path in (ENCRYPTION, MANIFEST)}
    plan = in_place(site, first, "merge.json")
    shown = plan.read_text()
    assert f"+++ {ENCRYPTION}" in shown
    assert "--service-account-key-file=/etc/kubernetes/pki/sa-" in shown
    assert not [key for key in (old_key, secret_of(site)) if key in shown]

    killed_after(site, plan, "merge-keys")
    assert old_key in site.on("m1", f"cat {ENCRYPTION}")
    site.undo(plan)
    assert {path: site.on("m1", f"cat {path}") for path in disk} == disk
    assert "Namespace//after" in object_names(site, "m1", "namespaces")
    check_serves(site)

    site.apply(in_place(site, first, "again.json"))
    assert "Namespace//after" not in object_names(site, "m1", "namespaces")
    check_serves(site)
    check_token(site, "m1")
    providers = json.dumps(encryption_of(site)["resources"][0]["providers"])
    assert providers.index("key2") < providers.index("key1")  # what is written with stays


def test_an_external_authority_is_asked_and_its_certificates_are_used(site: Site, external: str) -> None:
    folder = str(site.folder / "asked")
    code, said = refused(site, external)
    assert code == 5
    assert "--csr-dir" in said
    asking = (external, "--csr-dir", folder)
    code, said = refused(site, *asking)
    assert code == 5
    names = sorted(path.name for path in Path(folder, "n1").glob("*.csr"))
    assert names == ["apiserver.csr", "kubelet.conf.csr"]
    assert all(f"{folder}/n1/{name}" in said for name in names)
    keys = {path: path.read_bytes() for path in Path(folder, "n1").glob("*.key")}
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    refused(site, *asking)
    assert {path: path.read_bytes() for path in keys} == keys  # they may have been sent

    giving = ("--certificates", folder)
    sign(site, Path(folder, "n1"), by=ec.generate_private_key(ec.SECP256R1()))
    code, said = refused(site, external, *giving)
    assert code == 5
    assert "the cluster's authority did not sign it" in said
    sign(site, Path(folder, "n1"))
    plan = planned(site, external, *giving)
    done = site.apply(plan, check=False)
    assert done.returncode == 5
    assert "--certificates DIR" in done.stderr
    assert begun(site, plan) == []
    configuration = site.on("m1", f"cat {ENCRYPTION}")

    site.apply(plan, *giving)
    check_token(site, "n1")
    assert "known" in site.kubectl("n1", "-n", "before", "get", "secret", "known", "-o", "name")
    assert site.on("n1", f"openssl verify -CAfile {PKI}/ca.crt {PKI}/apiserver.crt").endswith("OK\n")
    # What only flags name was there before anything ran.
    steps = begun(site, plan)
    assert steps.index("files") < steps.index("start-etcd") < steps.index("start-api-servers")
    assert "key1" in site.on("n1", f"cat {ENCRYPTION}")
    assert configuration != ""


def check_serves(site: Site, host: str = "m1") -> None:
    """The cluster answers, and what was encrypted is read."""
    word = site.kubectl(host, "-n", "before", "get", "secret", "known", "-o", "jsonpath={.data.word}")
    assert word == "cGx1Z2g="


def check_token(site: Site, host: str) -> None:
    """A token that was issued before everything is taken."""
    token = (site.folder / "token").read_text()
    server = f"--server https://api.lab:6443 --certificate-authority={PKI}/ca.crt"
    said = site.on(host, f"kubectl --kubeconfig /dev/null {server} --token {token} auth whoami")
    assert "system:serviceaccount:before:robot" in said


def refused(site: Site, backup: str, *words: str | Path) -> tuple[int, str]:
    """A plan for the new machine that must not be made, of one backup: its exit code and its words."""
    out = site.folder / "refused.json"
    line = ("restore", "plan", backup, "--kind", "fresh", "--inventory", "inventory.yaml", *IDENTITY)
    done = site.bbr(*line, "--to", "n1", "--out", out, *words, check=False)
    assert done.returncode != 0, done.stdout
    assert not out.exists()
    assert "hint:" in done.stderr, done.stderr
    return done.returncode, done.stderr


def planned(site: Site, backup: str, *words: str | Path) -> Path:
    """A plan for the new machine, of one backup."""
    return plan_of(site, backup, "fresh", f"{backup}.json", "--to", "n1", *words)


def in_place(site: Site, backup: str, name: str) -> Path:
    """A plan for the master itself."""
    return plan_of(site, backup, "in-place", name, "--to", "m1")


def plan_of(site: Site, backup: str, kind: str, name: str, *words: str | Path) -> Path:
    path = site.folder / name
    path.unlink(missing_ok=True)
    line = ("restore", "plan", backup, "--kind", kind, "--inventory", "inventory.yaml", *IDENTITY)
    site.bbr(*line, "--out", path, *words)
    return path


@contextmanager
def spoilt(site: Site, path: str, script: str, *, stdin: str = "") -> Iterator[None]:
    """A file of the master spoilt for a while. What runs has read it long ago."""
    site.on("m1", f"cp -a {path} /root/spoilt")
    site.on("m1", script, stdin=stdin)
    try:
        yield
    finally:
        site.on("m1", f"cp -a /root/spoilt {path}.new && mv -T {path}.new {path}")


def encryption_of(site: Site) -> dict[str, list[dict[str, object]]]:
    """The encryption configuration on the master, whoever wrote it."""
    document = next(iter(yaml.safe_load_all(site.on("m1", f"cat {ENCRYPTION}"))))
    assert isinstance(document, dict)
    return document


def secret_of(site: Site) -> str:
    """The key that the master writes with, as it stands in the file."""
    text = json.dumps(encryption_of(site)["resources"][0]["providers"])
    return text.partition('"secret": "')[2].partition('"')[0]


def rotate(site: Site) -> None:
    """Exchange both keys, as it is done with care: everything is written anew, and the old key goes."""
    old = encryption_of(site)
    new_key = {"name": "key2", "secret": base64.b64encode(os.urandom(32)).decode()}
    entry = old["resources"][0]
    behind = list(entry["providers"])  # type: ignore[call-overload]
    for providers in ([{"aescbc": {"keys": [new_key]}}, *behind], [{"aescbc": {"keys": [new_key]}}, {"identity": {}}]):
        entry["providers"] = providers
        make = f"openssl genrsa -out {PKI}/sa.key 2048 && openssl rsa -in {PKI}/sa.key -pubout -out {PKI}/sa.pub"
        site.on("m1", f"mv {MANIFEST} /root/ && cat >{ENCRYPTION} && {make}", stdin=json.dumps(old))
        wait(lambda: not site.on("m1", "pgrep -x kube-apiserver || true"))
        site.on("m1", f"mv /root/kube-apiserver.yaml {MANIFEST}")
        wait(lambda: "ok" in site.on("m1", f"{KUBECTL} get --raw /readyz", check=False))
        site.on("m1", f"{KUBECTL} get secrets,configmaps -A -o json | {KUBECTL} replace -f -")


def killed_after(site: Site, plan: Path, step: str) -> None:
    """An apply that is killed once a step is done."""
    command = [sys.executable, "-c", PROGRAM, "restore", "apply", plan, *IDENTITY, "--confirm", TARGET]
    with subprocess.Popen([*map(str, command)], cwd=site.folder, stderr=subprocess.DEVNULL) as process:
        try:
            wait(
                lambda: {"done", "found"} & {str(e["event"]) for e in site.journal(plan) if e["step"] == step} != set()
            )
        finally:
            process.send_signal(signal.SIGKILL)
    site.on("m1", "true")


def expired_authority(site: Site) -> str:
    """The cluster's CA as it will be in many years."""
    old = x509.load_pem_x509_certificate(site.on("m1", f"cat {PKI}/ca.crt").encode())
    key = load_pem_private_key(site.on("m1", f"cat {PKI}/ca.key").encode(), password=None)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
    builder = builder.not_valid_before(now - timedelta(days=90)).not_valid_after(now - timedelta(days=1))
    for one in old.extensions:
        builder = builder.add_extension(one.value, one.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]


def sign(site: Site, folder: Path, *, by: ec.EllipticCurvePrivateKey | None = None) -> None:
    """Be the authority: sign every request of a folder, with the CA's key or with another."""
    authority = x509.load_pem_x509_certificate(site.on("m1", f"cat {PKI}/ca.crt").encode())
    key = by or load_pem_private_key((site.folder / "ca.key").read_bytes(), password=None)
    now = datetime.now(UTC)
    for path in folder.glob("*.csr"):
        asked = x509.load_pem_x509_csr(path.read_bytes())
        assert asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        builder = x509.CertificateBuilder(authority.subject, asked.subject, asked.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(days=300))
        for one in asked.extensions:
            builder = builder.add_extension(one.value, one.critical)
        signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
        path.with_suffix(".crt").write_bytes(signed.public_bytes(Encoding.PEM))


def wait(is_so: Callable[[], bool]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
