"""What a restored cluster brings along, and what is done about it, on a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.apiserver import extensions as outside
from bbr.apiserver.backends import api_endpoints
from bbr.apiserver.client import ApiServer
from bbr.apiserver.leases import leader_leases, node_leases, server_leases, stale_leases
from bbr.apiserver.nodes import CONTROL_PLANE, ensure_master, nodes, stale_nodes
from bbr.apiserver.objects import delete_all, put_back, read, saved_from_text
from bbr.apiserver.triage import triage
from bbr.apiserver.volumes import ATTACHMENTS, attachments, attachments_of
from bbr.apiserver.webhooks import Webhook, to_quarantine, webhooks
from bbr.errors import ApiServerError, Conflict
from bbr.servers.etcd import start_etcd
from tests.apiserver.conftest import Pki, start_apiserver, wait_until, wait_until_there
from tests.apiserver.making import (
    make_crd,
    make_lease,
    make_node,
    make_service,
    make_webhook,
    service,
)
from tests.conftest import QUICK


@pytest.fixture
def node_namespace(api: ApiServer) -> str:
    """kube-node-lease, which the API server makes by itself a moment after it is ready."""
    wait_until_there(api, "/api/v1/namespaces/kube-node-lease")
    return "kube-node-lease"


def test_nodes_are_told_with_role_and_address(api: ApiServer, name: str) -> None:
    make_node(api, name, worker="")
    (node,) = [one for one in nodes(api) if one.name == name]
    assert (node.addresses, node.is_ready, node.roles) == (("10.77.0.99",), True, ("worker",))
    assert (node.provider_id, node.is_master) == (f"lab://{name}", False)


def test_stale_nodes_go_with_their_leases_and_can_be_put_back(api: ApiServer, name: str, node_namespace: str) -> None:
    make_node(api, name, **{"control-plane": ""})
    make_lease(api, node_namespace, name, holder=name)
    saved = stale_nodes(api, [name, "never-was"])
    assert [one.path.rpartition("/")[2] for one in saved] == [name, name]
    assert delete_all(api, saved) == 2
    assert name not in {one.name for one in nodes(api)}
    assert name not in node_leases(api)
    assert delete_all(api, saved) == 0
    assert [put_back(api, saved_from_text(one.path, one.text())) for one in saved] == [True, True]
    assert [put_back(api, one) for one in saved] == [False, False]
    (node,) = [one for one in nodes(api) if one.name == name]
    assert node.is_master
    assert node_leases(api)[name].holder == name


def test_node_that_registered_anew_is_not_deleted(api: ApiServer, name: str) -> None:
    make_node(api, name)
    saved = stale_nodes(api, [name])
    api.delete(f"/api/v1/nodes/{name}")
    make_node(api, name)
    with pytest.raises(Conflict):
        delete_all(api, saved)


def test_master_is_made_beforehand_with_label_and_taint(api: ApiServer, name: str) -> None:
    node = ensure_master(api, name, provider_id="lab://new")
    assert node.is_master
    assert not node.is_ready
    body = api.get(f"/api/v1/nodes/{name}")
    assert {"key": CONTROL_PLANE, "effect": "NoSchedule"} in body["spec"]["taints"]
    assert node.provider_id == "lab://new"
    ensure_master(api, name)
    assert api.get(f"/api/v1/nodes/{name}")["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"]


def test_new_master_has_the_capacity_of_a_node_until_its_kubelet_reports(api: ApiServer, name: str) -> None:
    make_node(api, f"{name}-old")
    api.patch(f"/api/v1/nodes/{name}-old/status", {"status": {"capacity": {"cpu": "7"}, "allocatable": {"cpu": "6"}}})
    ensure_master(api, f"{name}-old")
    ensure_master(api, name)
    status = api.get(f"/api/v1/nodes/{name}")["status"]
    assert (status["capacity"], status["allocatable"]) == ({"cpu": "7"}, {"cpu": "6"})
    assert "conditions" not in status


def test_node_that_is_there_becomes_a_master_and_keeps_what_it_has(api: ApiServer, name: str) -> None:
    body = make_node(api, name, worker="")
    body["spec"]["taints"] = [{"key": "mine", "effect": "NoExecute"}]
    api.replace(f"/api/v1/nodes/{name}", body)
    node = ensure_master(api, name, provider_id="another")
    assert set(node.roles) == {"worker", "control-plane"}
    assert node.provider_id == f"lab://{name}"
    taints = {(one["key"], one["effect"]) for one in api.get(f"/api/v1/nodes/{name}")["spec"]["taints"]}
    assert {("mine", "NoExecute"), (CONTROL_PLANE, "NoSchedule")} <= taints


def test_leases_of_dead_leaders_and_servers_are_found(api: ApiServer, name: str) -> None:
    make_lease(api, "kube-system", "kube-scheduler", holder="old_1")
    make_lease(api, "kube-system", f"apiserver-{name}", hostname=name)
    make_lease(api, "kube-system", f"apiserver-{name}-2", hostname="lives")
    make_lease(api, "kube-system", name)
    (leader,) = leader_leases(api)
    assert (leader.name, leader.holder) == ("kube-scheduler", "old_1")
    assert leader.renewed is not None
    assert leader.renewed.year == 2026
    assert {one.hostname for one in server_leases(api)} >= {name, "lives"}
    saved = stale_leases(api, gone_hosts=[name])
    assert {one.path.rpartition("/")[2] for one in saved} == {"kube-scheduler", f"apiserver-{name}"}
    assert delete_all(api, saved) == 2
    assert leader_leases(api) == ()
    assert put_back(api, saved[0])
    api.delete(saved[0].path)


def found(api: ApiServer, name: str, *gone: str) -> Webhook:
    """The webhook of that configuration."""
    (one,) = [hook for hook in webhooks(api, gone=gone) if hook.configuration == name]
    return one


def test_webhook_whose_service_is_missing_would_block(api: ApiServer, namespace: str) -> None:
    make_webhook(api, "Validating", namespace, client=service(namespace, "nobody"))
    hook = found(api, namespace)
    assert hook.would_block
    assert hook.problem == f"there is no Service {namespace}/nobody"


@pytest.mark.parametrize("kind", ["Validating", "Mutating"])
def test_webhook_without_ready_endpoint_would_block(api: ApiServer, namespace: str, kind: str) -> None:
    make_service(api, namespace, "idle", unready=2)
    make_webhook(api, kind, namespace, client=service(namespace, "idle"))
    assert "no endpoint" in found(api, namespace).problem


def test_webhook_on_nodes_that_are_gone_would_block(api: ApiServer, namespace: str) -> None:
    make_service(api, namespace, "ran", ready_on=["m1", "m2"])
    make_webhook(api, "Mutating", namespace, client=service(namespace, "ran"))
    assert not found(api, namespace, "m1").would_block
    assert found(api, namespace, "m1", "m2").would_block


def test_webhook_that_may_fail_or_has_a_url_does_not_block(api: ApiServer, namespace: str, name: str) -> None:
    make_webhook(api, "Validating", namespace, client=service(namespace, "nobody"), policy="Ignore")
    make_webhook(api, "Mutating", f"{name}-url", client={"url": "https://127.0.0.1:1/hook"})
    assert found(api, namespace).problem
    assert not found(api, namespace).would_block
    assert not found(api, f"{name}-url").would_block
    warnings = " ".join(triage(api).warnings())
    assert f"webhook {namespace}/hook.example.org is skipped" in warnings
    assert f"{name}-url/hook.example.org is asked at https://127.0.0.1:1/hook" in warnings


def test_quarantine_takes_blocking_webhooks_whole_and_puts_them_back(api: ApiServer, namespace: str) -> None:
    make_webhook(api, "Validating", namespace, client=service(namespace, "nobody"))
    ours = [hook for hook in triage(api).blocking if hook.configuration == namespace]
    (saved,) = to_quarantine(api, ours)
    assert delete_all(api, [saved]) == 1
    assert to_quarantine(api, ours) == ()
    kept = saved_from_text(saved.path, saved.text())
    assert put_back(api, kept)
    assert not put_back(api, kept)
    again = read(api, saved.path)
    assert again.object["webhooks"] == saved.object["webhooks"]
    assert again.object["metadata"]["uid"] != saved.object["metadata"]["uid"]


def test_dead_conversion_is_a_warning_and_suspended_only_on_request(api: ApiServer, name: str) -> None:
    plural = name.replace("-", "")
    crd = make_crd(api, plural, client=service("default", "nobody"))
    (one,) = [conversion for conversion in outside.conversions(api) if conversion.crd == crd]
    assert one.problem == "there is no Service default/nobody"
    assert any(crd in warning for warning in triage(api).warnings())
    saved = read(api, one.path)
    outside.suspend_conversion(api, saved)
    assert api.get(one.path)["spec"]["conversion"] == {"strategy": "None"}
    outside.resume_conversion(api, saved)
    outside.resume_conversion(api, saved)
    assert api.get(one.path)["spec"]["conversion"] == saved.object["spec"]["conversion"]
    api.delete(one.path)


def test_dead_api_service_is_a_warning_and_can_be_taken_away(api: ApiServer, name: str) -> None:
    group = f"{name}.example.org"
    spec = {"group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10}
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1.{group}"},
        "spec": {**spec, "insecureSkipTLSVerify": True, "service": {"namespace": "default", "name": name}},
    }
    api.create(outside.API_SERVICES, body)
    (one,) = [extension for extension in outside.extensions(api) if extension.name == f"v1.{group}"]
    assert (one.problem, one.is_available) == (f"there is no Service default/{name}", False)
    assert any(f"v1.{group} is not served" in warning for warning in triage(api).warnings())
    saved = read(api, one.path)
    assert delete_all(api, [saved]) == 1
    assert put_back(api, saved)
    api.delete(one.path)


def test_only_attachments_of_fenced_nodes_are_deleted(api: ApiServer, name: str) -> None:
    for node in ("fenced", "lives"):
        body = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": f"{name}-{node}"},
            "spec": {"attacher": "csi.lab", "nodeName": f"{name}-{node}", "source": {"persistentVolumeName": node}},
        }
        api.create(ATTACHMENTS, body)
    saved = attachments_of(api, [f"{name}-fenced"])
    assert delete_all(api, saved) == 1
    (left,) = [one for one in attachments(api) if one.name.startswith(name)]
    assert (left.node, left.volume, left.attacher, left.is_attached) == (f"{name}-lives", "lives", "csi.lab", False)


def test_server_that_reconciles_nothing_has_no_endpoint(api: ApiServer) -> None:
    assert api_endpoints(api) == ()


def test_triage_of_everything_at_once(api: ApiServer, name: str) -> None:
    make_node(api, name)
    seen = triage(api, gone=[name])
    assert name in {one.name for one in seen.nodes}


def test_quarantine_ends_a_deadlock_of_a_server_with_webhooks(
    etcd_binary: Path, kube_apiserver: Path, pki: Pki, tmp_path: Path
) -> None:
    maps = "/api/v1/namespaces/default/configmaps"

    def write(api: ApiServer, name: str) -> str:
        try:
            api.create(maps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
        except ApiServerError as err:
            return str(err)
        return ""

    with (
        start_etcd(etcd_binary, tmp_path / "etcd", flags=QUICK) as etcd,
        start_apiserver(kube_apiserver, pki, etcd.endpoints[0], tmp_path, flags=()) as (port, _),
        pki.client(port) as api,
    ):
        wait_until_there(api, "/api/v1/namespaces/default")
        make_webhook(api, "Validating", "default", client=service("default", "nobody"))
        wait_until(lambda: "failed calling webhook" in write(api, "blocked"), "the webhook to block")
        saved = to_quarantine(api, webhooks(api))
        delete_all(api, saved)
        wait_until(lambda: not write(api, "free"), "the webhook to be forgotten")
        put_back(api, saved[0])
        wait_until(lambda: "failed calling webhook" in write(api, "blocked-again"), "the webhook to block again")
