"""Hosts of a lab: made for a run, removed with it, and found again whenever it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bbr.errors import IaasError, IaasRefused, IaasUnavailable, NotOurs, PreconditionFailed
from bbr.lab.lab import Lab
from restore.iaas import lab as adapter
from restore.iaas.iaas import machine_of
from restore.iaas.inventory import LabInventory
from restore.iaas.lab import LabIaas
from tests.lab.conftest import said
from tests.restore.iaas.conftest import OLD, Bench, mark, wanted

pytestmark = pytest.mark.parametrize("bench", ["lab"], indirect=True)
ROOT = Path(__file__).parents[3]


def names(bench: Bench) -> set[str]:
    return {one.name for one in Lab.open(bench.lab.name, base=bench.lab.folder.parent).hosts}


@pytest.mark.parametrize("seen", ["hosts/v1", "hosts/v1/upper/etc/hostname", "hosts/v1/console.log"])
def test_host_that_a_killed_run_began_is_made_anew_or_removed(bench: Bench, seen: str) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-m", "tests.restore.iaas.ensuring", str(bench.inventory), "v1", "r1"], cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not (bench.lab.folder / seen).exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    begun = bench.owned()["v1"]
    assert (begun.state, begun.mark and begun.mark.run) == ("begun", "r1")
    made = bench.site.iaas.ensure_machine(wanted("v1"))
    assert made.state == "on"
    with machine_of(made) as machine:
        assert machine.run(["hostname"]).stdout == b"v1\n"
    bench.site.iaas.delete("v1", run="r1")
    assert bench.owned() == {}
    assert "v1" not in names(bench)
    assert not (bench.lab.folder / "hosts/v1").exists()


def test_claim_of_a_host_that_was_never_begun_is_found_and_goes(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("v1"))
    body = bench.sign_of("v1").read_bytes().replace(b'"made"', b'"begun"')
    bench.site.iaas.delete("v1", run="r1")
    bench.sign_of("v1").write_bytes(body)
    one = bench.owned()["v1"]
    assert (one.state, one.ssh, one.address) == ("begun", None, "")
    with pytest.raises(IaasUnavailable, match="begun and never finished"):
        machine_of(one)
    bench.site.iaas.delete("v1", run="r1")
    assert bench.owned() == {}


def test_host_that_cannot_be_made_ready_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lab: Lab, tier: str, hosts: list[str]) -> None:
        assert said(lab, hosts[0], "hostname") == "v1"
        raise PreconditionFailed("no images")

    monkeypatch.setattr(adapter, "prepare", fail)
    before = names(bench)
    with pytest.raises(PreconditionFailed, match="no images"):
        bench.site.iaas.ensure_machine(wanted("v1"))
    assert names(bench) == before
    assert bench.owned() == {}


def test_hosts_are_made_side_by_side_like_the_first(bench: Bench) -> None:
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(bench.site.iaas.ensure_machine, [wanted(f"v{number}") for number in range(3)]))
    assert len({one.address for one in made}) == 3
    there = Lab.open(bench.lab.name, base=bench.lab.folder.parent)
    assert {there.host(one.name).spec.programs for one in made} == {there.host(OLD).spec.programs}
    assert said(there, "v0", "getent hosts v2").split() == [made[2].address, "v2"]


def test_a_made_host_that_is_off_is_switched_on(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("v1"))
    Lab.open(bench.lab.name, base=bench.lab.folder.parent).power_off("v1")
    assert bench.owned()["v1"].state == "off"
    made = bench.site.iaas.ensure_machine(wanted("v1"))
    with machine_of(made) as machine:
        machine.run(["true"])


def test_a_name_that_is_a_path_is_refused(bench: Bench) -> None:
    for name in ("../label", "a/b", "", ".", "A"):
        with pytest.raises(IaasRefused, match="no name for a host"):
            bench.site.iaas.ensure_machine(wanted(name))


def test_claim_that_cannot_be_read_is_unknown_and_stays(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("v1"))
    sign = bench.sign_of("v1")
    body = sign.read_bytes()
    sign.write_bytes(b"{}")
    assert [one.name for one in bench.site.iaas.list_owned().unknown] == ["v1"]
    with pytest.raises(IaasError, match="no mark of bbr"):
        bench.site.iaas.delete("v1", run="r1")
    assert sign.read_bytes() == b"{}"
    sign.write_bytes(body)


def test_endpoint_leads_to_the_first_address(bench: Bench) -> None:
    assert bench.site.endpoint is not None
    old, other = bench.lab.host(OLD), bench.lab.host("n1")
    bench.site.endpoint.point("api.lab:6443", [other.address, old.address])
    assert said(bench.lab, "n2", "getent hosts api.lab").split()[0] == other.address
    bench.site.endpoint.point("api.lab:6443", [old.address])
    assert said(bench.lab, "n2", "getent hosts api.lab").split()[0] == old.address
    for addresses in ([], ["10.9.9.9"]):
        with pytest.raises(IaasRefused, match="has no host at"):
            bench.site.endpoint.point("api.lab:6443", addresses)


def test_lab_that_is_not_there_is_said_and_is_no_empty_list(bench: Bench, tmp_path: Path) -> None:
    nowhere = LabIaas(LabInventory(tmp_path / "lab.yaml", "nowhere", tmp_path, "hosts"))
    with pytest.raises(PreconditionFailed, match="there is no lab nowhere"):
        nowhere.list_owned()
    (finding,) = nowhere.preflight()
    assert not finding.is_good


def test_made_host_of_a_run_whose_mark_is_over_is_still_removed_by_who_took_it(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("v1", mark("first", hours=-1)))
    bench.site.iaas.ensure_machine(wanted("v1", mark("second")))
    with pytest.raises(NotOurs):
        bench.site.iaas.delete("v1", run="first")
    bench.site.iaas.delete("v1", run="second")
    assert "v1" not in names(bench)
