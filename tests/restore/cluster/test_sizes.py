"""New machines in other numbers than there were: 1 -> 3, 3 -> 1, 3 -> 3, with both adapters, fenced and attested."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from bbr.lab.host import HostSpec
from restore.iaas.lab import prepare, ssh_host
from tests.restore.cluster.site import Site, object_names, opened_site, settled
from tests.restore.cluster.test_kinds import MEANT, check, fill
from tests.restore.cluster.test_repair import reopened

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(900),
]

HOOK = """\
#!{python}
# What an operator's own program does: it lets the endpoint's name lead to the first of the addresses, and tells.
import json, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from bbr.lab.lab import Lab

asked = json.load(sys.stdin)
Path({told!r}).write_text(json.dumps(asked))
lab = Lab.open({lab!r}, base=Path({base!r}))
host = next(one for one in lab.hosts if one.address == asked["addresses"][0])
lab.point(asked["endpoint"].rpartition(":")[0], host.name)
"""


def members(site: Site, master: str) -> int:
    """How many members etcd has there, each of them with a vote."""
    pki = "/etc/kubernetes/pki/etcd"
    flags = f"--cacert {pki}/ca.crt --cert {pki}/healthcheck-client.crt --key {pki}/healthcheck-client.key"
    listed = json.loads(site.on(master, f"etcdctl --endpoints https://127.0.0.1:2379 {flags} -w json member list"))
    assert not any(one.get("isLearner") for one in listed["members"])
    return len(listed["members"])


def inventory_of_hosts(site: Site, names: list[str], lost: list[str]) -> None:
    """An inventory of the adapter `hosts`: the machines of the lab as an operator would write them down."""
    hook = site.folder / "point"
    hook.write_text(
        HOOK.format(
            python=sys.executable,
            root=str(Path(__file__).parents[3]),
            told=str(site.folder / "told.json"),
            lab=site.lab.name,
            base=str(site.lab.folder.parent),
        )
    )
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    hosts = {}
    for name in (*names, *lost):
        way = ssh_host(site.lab.host(name))
        hosts[name] = {
            "role": "master",
            "address": way.address,
            "identity_file": str(way.identity_files[0]),
            "host_key": way.host_key,
            "door": list(way.door or ()),
        }
    inventory = {"adapter": "hosts", "hosts": hosts, "endpoint": {"address": "api.lab:6443", "hook": ["./point"]}}
    (site.folder / "inventory.yaml").write_text(json.dumps(inventory))


def test_one_master_becomes_three_and_three_become_three_others(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        site.apply(site.plan("fresh", "--make", "n1", "--make", "n2", "--make", "n3"))
        assert members(site, "n2") == 3
        check(site, "n1", before)
        check(site, "n3", before)
        assert "Node//m1" not in object_names(site, "n1", "nodes")

        # On by an inventory of hosts: they are there already, and the old ones are switched off by hand.
        site = reopened(site).configure(("n1", "n2", "n3"))
        site.back_up()
        site.lab.add(*(HostSpec(name, programs=site.lab.host("n1").spec.programs) for name in ("p1", "p2", "p3")))
        prepare(site.lab, "fast", ["p1", "p2", "p3"])
        for name in ("n1", "n2", "n3"):
            site.lab.power_off(name)
        inventory_of_hosts(site, ["p1", "p2", "p3"], ["n1", "n2", "n3"])
        attested = [word for name in ("n1", "n2", "n3") for word in ("--attest", name)]
        site.apply(site.plan("fresh", "--to", "p1", "--to", "p2", "--to", "p3", *attested))
        assert members(site, "p3") == 3
        check(site, "p2", before)
        told = json.loads((site.folder / "told.json").read_text())
        assert told == {
            "endpoint": "api.lab:6443",
            "addresses": [site.lab.host(name).address for name in ("p1", "p2", "p3")],
        }


def test_three_masters_become_one(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3"), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        site.lab.power_off("m3")
        site.apply(site.plan("fresh", "--make", "n1", "--attest", "m3"))
        assert members(site, "n1") == 1
        check(site, "n1", before)
        assert not {"Node//m1", "Node//m2", "Node//m3"} & object_names(site, "n1", "nodes")
