"""etcd's manifest for a member that joins: the living cluster's members in it, and that it joins."""

from __future__ import annotations

import pytest

from bbr.errors import PreconditionFailed
from bbr.layouts.staticpod import parse_pod
from restore.steps.growth import joining

MEMBERS = "m1=https://10.0.0.11:2380,n1=https://10.0.0.21:2380"
POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: etcd}}
spec:
  containers:
  - name: etcd
    image: registry.k8s.io/etcd:3.6.16-0
    command:
    - etcd
{words}
"""


def manifest(*words: str) -> str:
    """kubeadm's, with these words."""
    return POD.format(words="\n".join(f"    - {word}" for word in words))


@pytest.mark.parametrize(
    "words",
    [
        ["--data-dir=/var/lib/etcd", "--initial-cluster=m1=https://10.0.0.11:2380", "--name=m1"],
        ["--initial-cluster=m1=https://10.0.0.11:2380", "--initial-cluster-state=new", "--name=m1"],
        ["--initial-cluster=m1=https://10.0.0.11:2380", "--initial-cluster-state=existing"],
        ['"--initial-cluster=m1=https://10.0.0.11:2380"', "--name=m1"],
    ],
)
def test_a_member_joins_whatever_its_manifest_said(words: list[str]) -> None:
    """A first master's manifest says nothing of a state, and etcd would then found a cluster of its own."""
    flags = parse_pod(joining(manifest(*words), MEMBERS), "etcd", what="it").flags
    assert flags["initial-cluster"] == MEMBERS
    assert flags["initial-cluster-state"] == "existing"
    assert {name for name in flags if not name.startswith("initial-cluster")} == {
        word.strip('"-').partition("=")[0] for word in words if "initial-cluster" not in word
    }


@pytest.mark.parametrize("text", [manifest("--name=m1"), manifest("--initial-cluster", "m1=https://10.0.0.11:2380")])
def test_a_manifest_that_cannot_be_changed_is_refused(text: str) -> None:
    with pytest.raises(PreconditionFailed, match="cannot change"):
        joining(text, MEMBERS)
