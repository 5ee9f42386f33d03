"""Tokens, Secrets, counts and revisions, on real servers, also after the faults that they shall find."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from bbr.apiserver import proof
from bbr.apiserver.client import ApiServer
from bbr.apiserver.proof import counts, read_secrets, relist_needed, revision, secret_names
from bbr.apiserver.tokens import issue_token, review_token
from bbr.errors import Forbidden, Invalid, NotFoundObject
from bbr.servers.etcd import start_etcd
from bbr.servers.ports import LOOPBACK
from tests.apiserver.conftest import Pki, encryption, start_apiserver, wait_until, wait_until_there
from tests.conftest import QUICK


def make_account(api: ApiServer, namespace: str, name: str) -> None:
    """A service account."""
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", body)


def make_secret(api: ApiServer, namespace: str, name: str) -> None:
    """A Secret."""
    data = {"password": base64.b64encode(b"hush").decode()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    api.create(f"/api/v1/namespaces/{namespace}/secrets", body)


def test_token_is_issued_and_known(api: ApiServer, namespace: str, pki: Pki, api_port: int) -> None:
    make_account(api, namespace, "runner")
    token = issue_token(api, namespace, "runner")
    review = review_token(api, token)
    assert (review.is_valid, review.user) == (True, f"system:serviceaccount:{namespace}:runner")
    with ApiServer((LOOPBACK, api_port), pki.pem("ca.crt"), token=token) as pod, pytest.raises(Forbidden) as caught:
        pod.get("/api/v1/secrets")
    assert f"system:serviceaccount:{namespace}:runner" in str(caught.value)
    assert token not in str(caught.value)


def test_token_of_a_lost_account_or_another_key_is_not_known(api: ApiServer, namespace: str) -> None:
    make_account(api, namespace, "runner")
    token = issue_token(api, namespace, "runner")
    api.delete(f"/api/v1/namespaces/{namespace}/serviceaccounts/runner")
    make_account(api, namespace, "runner")
    review = review_token(api, token)
    assert not review.is_valid
    assert review.reason
    head, _, signature = token.rpartition(".")
    assert not review_token(api, f"{head}.{signature[::-1]}").is_valid
    assert not review_token(api, "nonsense").is_valid


def test_token_for_nobody_or_for_a_moment_is_refused(api: ApiServer, namespace: str) -> None:
    with pytest.raises(NotFoundObject):
        issue_token(api, namespace, "nobody")
    make_account(api, namespace, "runner")
    with pytest.raises(Invalid):
        issue_token(api, namespace, "runner", seconds=1)


def test_objects_are_counted_by_resource(api: ApiServer, namespace: str) -> None:
    before = counts(api)
    for name in ("a", "b", "c"):
        make_secret(api, namespace, name)
    after = counts(api)
    assert after.problems == ()
    assert after.objects["secrets"] == before.objects["secrets"] + 3
    assert after.objects["namespaces"] >= 4
    assert "clusterroles.rbac.authorization.k8s.io" in after.objects
    assert f"{namespace}/b" in secret_names(api)
    assert read_secrets(api).count == after.objects["secrets"]


def test_part_of_the_api_that_is_not_served_is_told(api: ApiServer, name: str) -> None:
    group = f"{name}.example.org"
    spec = {"group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10}
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1.{group}"},
        "spec": {**spec, "insecureSkipTLSVerify": True, "service": {"namespace": "default", "name": name}},
    }
    path = f"/apis/apiregistration.k8s.io/v1/apiservices/v1.{group}"
    api.create("/apis/apiregistration.k8s.io/v1/apiservices", body)
    try:
        seen = counts(api)
    finally:
        api.delete(path)
    assert "secrets" in seen.objects
    assert [problem.partition(":")[0] for problem in seen.problems] == [f"v1.{group}"]


def test_watch_goes_on_from_now_and_not_from_what_is_compacted(
    etcd_binary: Path, etcdctl_binary: Path, kube_apiserver: Path, pki: Pki, tmp_path: Path
) -> None:
    with start_etcd(etcd_binary, tmp_path / "etcd", flags=QUICK) as etcd:
        endpoint = etcd.endpoints[0]
        with start_apiserver(kube_apiserver, pki, endpoint, tmp_path) as (port, _), pki.client(port) as api:
            wait_until_there(api, "/api/v1/namespaces/kube-public")
            old = revision(api)
            api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "newer"}})
            assert not relist_needed(api, old)
            now = revision(api)
        compact = [str(etcdctl_binary), "--endpoints", endpoint, "compaction", str(now)]
        subprocess.run(compact, check=True, capture_output=True, timeout=30)
        with start_apiserver(kube_apiserver, pki, endpoint, tmp_path) as (port, _), pki.client(port) as api:
            assert relist_needed(api, old)


def test_watch_from_a_lost_future_is_not_told_to_list_anew(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_WATCH_S", 1)
    assert not relist_needed(api, revision(api) + 1_000_000)


def test_secret_that_no_key_decrypts_is_found(
    etcd_binary: Path, kube_apiserver: Path, pki: Pki, tmp_path: Path
) -> None:
    right, wrong = encryption(tmp_path / "right.yaml", "key1"), encryption(tmp_path / "wrong.yaml", "key2")
    flag = "--encryption-provider-config={}"
    with start_etcd(etcd_binary, tmp_path / "etcd", flags=QUICK) as etcd:
        endpoint = etcd.endpoints[0]
        with (
            start_apiserver(kube_apiserver, pki, endpoint, tmp_path, flags=[flag.format(right)]) as (port, _),
            pki.client(port) as api,
        ):
            make_secret(api, "default", "hidden")
            seen = read_secrets(api)
            assert (seen.count, seen.problem) == (1, "")
        with (
            start_apiserver(kube_apiserver, pki, endpoint, tmp_path, flags=[flag.format(wrong)], wait=False) as (
                port,
                _,
            ),
            pki.client(port) as api,
        ):
            wait_until(lambda: "failed" in api.ready().reason, "checks to fail")
            seen = read_secrets(api)
            assert seen.count == 0
            assert "key" in seen.problem
            assert not api.ready().is_ready
