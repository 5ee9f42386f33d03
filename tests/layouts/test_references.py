"""Which files a configuration names, whatever its kind."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from bbr.layouts.references import BODY_LIMIT_BYTES, named_files

HERE = PurePosixPath("/etc/kubernetes/some.conf")

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", certificate-authority: pki/ca.crt}}]
users: [{name: u, user: {client-certificate: /var/lib/kubelet/pki/now.pem, client-key: keys/u.key}}]
"""
ADMISSION = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: PodSecurity
    path: /etc/kubernetes/admission/pod-security.yaml
  - name: ImagePolicyWebhook
    configuration: {imagePolicy: {kubeConfigFile: /etc/kubernetes/admission/webhook.kubeconfig}}
"""
ENCRYPTION = """
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - kms: {apiVersion: v2, name: vault, endpoint: "unix:///var/run/kms.sock"}
      - aescbc: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}
"""
CLOUD = """
[Global]
auth-url = "https://keystone:5000/v3"
ca-file = /etc/kubernetes/cloud-ca.pem
tls-insecure=false
[Networking]
cert-file="/etc/kubernetes/cloud cert.pem"
"""


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (KUBECONFIG, {"/etc/kubernetes/pki/ca.crt", "/var/lib/kubelet/pki/now.pem", "/etc/kubernetes/keys/u.key"}),
        (ADMISSION, {"/etc/kubernetes/admission/pod-security.yaml", "/etc/kubernetes/admission/webhook.kubeconfig"}),
        (ENCRYPTION, set[str]()),
        (CLOUD, {"/etc/kubernetes/cloud-ca.pem"}),
        ("a: /x\n---\nb: [/y, {c: /z}]\n", {"/x", "/y", "/z"}),
        ("a: /etc/kubernetes/some.conf\n", set[str]()),
        ("root: /\n", set[str]()),
        ("-----BEGIN CERTIFICATE-----\n/x\n", set[str]()),
        ("[" * 5000, set[str]()),
        ("a: [\n", set[str]()),
        ("", set[str]()),
    ],
)
def test_named_files(body: str, names: set[str]) -> None:
    assert named_files(HERE, body.encode()) == {PurePosixPath(name) for name in names}


def test_what_is_no_text_names_nothing() -> None:
    assert named_files(HERE, bytes(range(256))) == frozenset()


def test_what_is_no_configuration_by_its_size_is_not_read() -> None:
    assert named_files(HERE, b"a: /x\n#" + b"x" * BODY_LIMIT_BYTES) == frozenset()
