"""Old addresses in objects become new ones, and nothing else does."""

from __future__ import annotations

import pytest

from bbr.apiserver.addresses import HOLDERS, change, changes, replaced
from bbr.apiserver.client import ApiServer
from bbr.errors import Conflict
from tests.apiserver.conftest import wait_until_there

CLUSTER = """\
apiServer: {certSANs: [10.77.0.11, 10.77.0.111]}
controlPlaneEndpoint: api.lab:6443
etcd: {external: {endpoints: ["https://10.77.0.11:2379"]}}
"""


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("server: https://10.0.0.1:6443", "server: https://10.9.9.9:6443"),
        ("10.0.0.11 110.0.0.1 10.0.0.1.2 x10.0.0.1", "10.0.0.11 110.0.0.1 10.0.0.1.2 x10.0.0.1"),
        ("It is 10.0.0.1.", "It is 10.9.9.9."),
        ('["10.0.0.1","10.0.0.2"]', '["10.9.9.9","10.0.0.1"]'),
        ("api.lab:6443 my-api.lab api.lab.org api.lab-2", "new.lab:7443 my-api.lab api.lab.org api.lab-2"),
        ("api.lab:64430 api.lab", "other.lab:64430 other.lab"),
        ("https://[fd00::1]:6443 fd00::1:2 1:fd00::1", "https://[fd00::9]:6443 fd00::1:2 1:fd00::1"),
    ],
)
def test_address_is_replaced_only_where_it_stands_alone(text: str, result: str) -> None:
    addresses = {
        "10.0.0.1": "10.9.9.9",
        "10.0.0.2": "10.0.0.1",
        "api.lab": "other.lab",
        "api.lab:6443": "new.lab:7443",
        "fd00::1": "fd00::9",
    }
    assert replaced(text, addresses) == result


def test_no_addresses_change_nothing() -> None:
    assert replaced("any text", {}) == "any text"


def test_objects_of_kubeadm_are_changed_with_a_diff(api: ApiServer) -> None:
    addresses = {"10.77.0.11": "10.77.0.21", "api.lab:6443": "api2.lab:6443"}
    assert changes(api, addresses) == ()
    wait_until_there(api, "/api/v1/namespaces/kube-public")
    kubeconfig = "clusters: [{cluster: {server: 'https://api.lab:6443'}}]\n"
    for path, data in zip(
        HOLDERS, ({"ClusterConfiguration": CLUSTER}, {"kubeconfig": kubeconfig}, {"a": "b"}), strict=True
    ):
        collection, _, name = path.rpartition("/")
        api.create(collection, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
    first, second = changes(api, addresses)
    assert first.diff.splitlines()[3:] == [
        "-apiServer: {certSANs: [10.77.0.11, 10.77.0.111]}",
        "-controlPlaneEndpoint: api.lab:6443",
        '-etcd: {external: {endpoints: ["https://10.77.0.11:2379"]}}',
        "+apiServer: {certSANs: [10.77.0.21, 10.77.0.111]}",
        "+controlPlaneEndpoint: api2.lab:6443",
        '+etcd: {external: {endpoints: ["https://10.77.0.21:2379"]}}',
    ]
    change(api, first)
    with pytest.raises(Conflict):
        change(api, first)
    change(api, second)
    assert changes(api, addresses) == ()
    assert "https://api2.lab:6443" in api.get(HOLDERS[1])["data"]["kubeconfig"]
    for path in HOLDERS:
        api.delete(path)
