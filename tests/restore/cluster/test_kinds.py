"""Each kind of restore from beginning to end, on clusters of the lab's fast tier, by the command line over SSH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.restore.cluster.site import Site, object_names, opened_site, settled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")

TOKEN = "/root/token"
MEANT = ("namespaces", "configmaps", "secrets", "serviceaccounts", "clusterroles")


def fill(site: Site, master: str) -> None:
    """Objects that must be there afterwards, and a token that a pod could hold."""
    site.kubectl(master, "create", "namespace", "before")
    site.kubectl(master, "-n", "before", "create", "secret", "generic", "known", "--from-literal=word=plugh")
    site.kubectl(master, "-n", "before", "create", "serviceaccount", "robot")
    token = site.kubectl(master, "-n", "before", "create", "token", "robot", "--duration", "24h")
    (site.folder / "token").write_text(token.strip())


def check(site: Site, master: str, before: set[str]) -> None:
    """What must hold after every restore."""
    assert object_names(site, master, *MEANT) == before
    secret = site.kubectl(master, "-n", "before", "get", "secret", "known", "-o", "jsonpath={.data.word}")
    assert secret == "cGx1Z2g="
    token = (site.folder / "token").read_text()
    ca = "--certificate-authority=/etc/kubernetes/pki/ca.crt"
    ask = f"kubectl --kubeconfig /dev/null --server https://api.lab:6443 {ca} --token {token} auth whoami"
    assert "system:serviceaccount:before:robot" in site.on(master, ask)


def test_three_masters_go_back_in_place(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3"), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        site.kubectl("m1", "create", "namespace", "after")
        site.kubectl("m1", "delete", "namespace", "before")
        site.apply(site.plan("in-place"))
        check(site, "m1", before)
        check(site, "m3", before)


def test_a_lost_master_comes_back_on_a_new_machine(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        site.kubectl("m1", "create", "namespace", "after")
        site.apply(site.plan("fresh", "--make", "n1"))
        check(site, "n1", before)
        assert "Node//m1" not in object_names(site, "n1", "nodes")
