"""Service-account keys: which an API server takes, and one more for it in the manifest that kubeadm wrote."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from bbr.errors import UsageError
from bbr.layouts.signers import key_files, keys_in, with_keys
from bbr.layouts.staticpod import parse_pod

MANIFEST = """\
apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - kube-apiserver
    - --service-account-key-file=/etc/kubernetes/pki/sa.pub
    - --service-account-signing-key-file=/etc/kubernetes/pki/sa.key
    name: kube-apiserver
    volumeMounts:
    - mountPath: /etc/kubernetes/pki
      name: k8s-certs
  volumes:
  - hostPath: {path: /opt/pki, type: DirectoryOrCreate}
    name: k8s-certs
"""
POD = parse_pod(MANIFEST, "kube-apiserver", what="the manifest")
ONE = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
TWO = b"-----BEGIN PUBLIC KEY-----\nBBBB\n-----END PUBLIC KEY-----\n"


def test_keys_are_told_apart_however_they_are_written() -> None:
    assert keys_in([ONE + b"# a comment\n" + TWO]) == keys_in([TWO, ONE.replace(b"\n", b"\r\n")])
    assert len(keys_in([ONE, TWO])) == 2
    assert keys_in([b"no key"]) == frozenset()


def test_one_more_file_is_named_behind_the_last_and_nothing_else_changes() -> None:
    new = with_keys(MANIFEST, POD, [TWO], what="the manifest")
    added = set(new.manifest.splitlines()) - set(MANIFEST.splitlines())
    assert added == {f"    - --service-account-key-file=/etc/kubernetes/pki/{new.path.name}"}
    assert key_files(new.manifest)[0] == PurePosixPath("/etc/kubernetes/pki/sa.pub")
    assert new.path.parent == PurePosixPath("/opt/pki")  # as the host sees it
    assert keys_in([new.body]) == keys_in([TWO])
    assert with_keys(MANIFEST, POD, [TWO], what="the manifest") == new  # the same at a resume


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("--service-account-key-file=/etc", "--service-account-key-file\n    - /etc", "has no line"),
        ("mountPath: /etc/kubernetes/pki", "mountPath: /etc/kubernetes/pki/sa.pub", "is not mounted"),
    ],
)
def test_what_cannot_be_added_to_is_refused(old: str, new: str, says: str) -> None:
    text = MANIFEST.replace(old, new)
    with pytest.raises(UsageError, match=says):
        with_keys(text, parse_pod(text, "kube-apiserver", what="it"), [TWO], what="it")
