"""The recovery API server: what its manifest says, and that a real one serves with it where nothing else would."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from bbr.errors import UsageError
from bbr.layouts.recovery import RECOVERY_POD, RECOVERY_PORT, SERVER_NAME, recovery_manifest
from bbr.layouts.reissue import client_certificate
from bbr.layouts.staticpod import parse_pod
from bbr.servers.etcd import start_etcd
from bbr.servers.ports import free_ports
from bbr.servers.process import Process
from tests.conftest import program
from tests.layouts.masters import kubeadm_master
from tests.layouts.test_masterfiles import KUBERNETES as VERSION

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
WEBHOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "dead"},
    "webhooks": [
        {
            "name": "dead.bbr.test",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
        }
    ],
}


def manifest(*flags: str) -> str:
    words = ["kube-apiserver", "--secure-port=6443", "--advertise-address=10.0.0.1", *flags]
    probe = {"httpGet": {"host": "10.0.0.1", "port": 6443}}
    server = {"name": "kube-apiserver", "image": "api:1", "command": words, "livenessProbe": probe, "args": ["--v=2"]}
    sidecar = {"name": "kms", "image": "kms:1"}
    return yaml.safe_dump({"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [sidecar, server]}})


def flags_of(text: str) -> dict[str, str]:
    return dict(parse_pod(text, "kube-apiserver", what="recovery").flags)


def test_it_listens_on_the_loopback_alone_and_enters_itself_nowhere() -> None:
    made = recovery_manifest(manifest(), what="kube-apiserver.yaml")
    flags = flags_of(made.manifest)
    assert (flags["bind-address"], flags["secure-port"]) == ("127.0.0.1", str(RECOVERY_PORT))
    assert flags["endpoint-reconciler-type"] == "none"
    assert flags["advertise-address"] == "10.0.0.1"  # else it looks for a default route
    assert flags["v"] == "2"
    pod = yaml.safe_load(made.manifest)
    assert (pod["metadata"]["name"], pod["metadata"]["namespace"]) == (RECOVERY_POD, "kube-system")
    assert (pod["spec"]["hostNetwork"], pod["spec"]["terminationGracePeriodSeconds"]) == (True, 2)
    assert not {"livenessProbe", "args"} & {key for one in pod["spec"]["containers"] for key in one}
    assert {one["name"] for one in pod["spec"]["containers"]} == {"kms", "kube-apiserver"}
    assert made.notes == ()


def test_what_calls_out_is_left_out_and_said() -> None:
    made = recovery_manifest(
        manifest(
            "--audit-webhook-config-file=/a",
            "--audit-webhook-mode=blocking",
            "--authentication-token-webhook-config-file",
            "/b",
            "--authorization-mode=Node,Webhook,RBAC",
            "--authorization-webhook-config-file=/c",
            "--egress-selector-config-file=/d",
            "--enable-admission-plugins=NodeRestriction,ImagePolicyWebhook,MutatingAdmissionWebhook",
            "--disable-admission-plugins=X,MutatingAdmissionWebhook",
            "--service-account-key-file=/1",
            "--service-account-key-file=/2",
            "--shutdown-delay-duration=60s",
            "--feature-gates=A=true",
        ),
        what="x",
    )
    flags = flags_of(made.manifest)
    assert flags["authorization-mode"] == "Node,RBAC"
    assert flags["enable-admission-plugins"] == "NodeRestriction"
    assert flags["disable-admission-plugins"] == "X,MutatingAdmissionWebhook,ValidatingAdmissionWebhook"
    assert (flags["shutdown-delay-duration"], flags["feature-gates"]) == ("0s", "A=true")
    assert not [name for name in flags if "webhook" in name or "egress" in name]
    assert made.manifest.count("--service-account-key-file=/") == 2
    assert "/b" not in made.manifest
    assert made.notes == (
        "without the audit webhook",
        "without the token webhook",
        "without the authorization webhook",
        "without the egress selector",
        "without the admission plugin ImagePolicyWebhook",
        "without the admission plugin MutatingAdmissionWebhook",
    )


def test_an_authorization_configuration_becomes_the_modes_that_kubeadm_has() -> None:
    flags = flags_of(recovery_manifest(manifest("--authorization-config=/a.yaml"), what="x").manifest)
    assert flags["authorization-mode"] == "Node,RBAC"
    assert "authorization-config" not in flags


@pytest.mark.parametrize(
    "text", ["", "[", "a: 1", "spec: {containers: []}", manifest().replace("- kube-apiserver", "- sh")]
)
def test_what_does_not_start_an_api_server_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        recovery_manifest(text, what="x")


def test_a_real_api_server_serves_with_it_where_a_dead_webhook_refuses_everything(
    search: tuple[Path, ...], etcd_binary: Path, tmp_path: Path
) -> None:
    root = tmp_path / "m1"
    kubeadm_master(program("kubeadm", search, VERSION), root)
    (root / "opt/enc/config.yaml").write_text(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
        "resources: [{resources: [secrets], providers: [{identity: {}}]}]\n"
    )
    (root / "opt/adm/admission.yaml").write_text(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"
    )
    text = (root / "etc/kubernetes/manifests/kube-apiserver.yaml").read_text()
    pod = parse_pod(recovery_manifest(text, what="x").manifest, "kube-apiserver", what="x")
    pki = root / "etc/kubernetes/pki"
    client = client_certificate(
        (pki / "ca.crt").read_bytes(),
        (pki / "ca.key").read_bytes(),
        common_name="bbr",
        organization="system:masters",
        lifetime=timedelta(hours=1),
        now=datetime.now(UTC),
    )
    (tmp_path / "client.pem").write_bytes(b"".join(client))
    (port,) = free_ports(1)
    with start_etcd(etcd_binary, tmp_path / "etcd") as servers:
        # The same flags, but for this machine's ports, and files where they lie here.
        flags = {
            name: str(root) + str(pod.file(name)) if value.startswith("/") else value
            for name, value in pod.flags.items()
        }
        flags |= {"etcd-servers": servers.endpoints[0], "secure-port": str(port)}
        for name in ("etcd-cafile", "etcd-certfile", "etcd-keyfile"):
            del flags[name]
        api = Api(port, pki / "ca.crt", tmp_path / "client.pem")
        with api_server(program("kube-apiserver", search, VERSION), flags, api, tmp_path / "recovery.log"):
            assert api.status("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", WEBHOOK) == 201
            assert api.status(CONFIGMAPS, configmap("one")) == 201
            assert api.status("/api/v1/namespaces/default/endpoints/kubernetes") == 404
        del flags["disable-admission-plugins"]
        with api_server(program("kube-apiserver", search, VERSION), flags, api, tmp_path / "other.log"):
            assert api.status(CONFIGMAPS, configmap("two")) == 500
            assert api.status(f"{CONFIGMAPS}/one") == 200


def configmap(name: str) -> object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


@contextmanager
def api_server(binary: Path, flags: Mapping[str, str], api: Api, log: Path) -> Iterator[None]:
    """A running one, which answers."""
    with Process(
        "kube-apiserver", [str(binary), *(f"--{name}={value}" for name, value in flags.items())], log=log
    ) as one:
        one.wait_ready(lambda: api.status("/readyz") == 200, what="/readyz", limit=timedelta(seconds=90))
        yield


class Api:
    """An API server, asked as the restore will: its loopback address, and a name that its certificate holds."""

    def __init__(self, port: int, authority: Path, client: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(client)
        context.check_hostname = False
        self._context, self._url = context, f"https://127.0.0.1:{port}"
        assert SERVER_NAME == "kubernetes"

    def status(self, path: str, body: object = None) -> int:
        """The status of a request; 0 where nothing answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        try:
            with opener.open(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as err:
            err.close()
            return err.code
        except OSError:
            return 0
