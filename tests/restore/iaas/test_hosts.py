"""Hosts that exist: what stands on them, who cannot be asked, and what a hook's word is worth."""

from __future__ import annotations

import json
import socket
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from bbr.errors import IaasError, IaasRefused, IaasUnavailable, MachineUnreachable
from bbr.lab.lab import Lab
from bbr.machines.host import SshHost
from bbr.machines.ssh import ssh_machine
from restore.iaas import claim, hooked
from restore.iaas.iaas import MachineMade
from restore.iaas.inventory import HostEntry, HostsInventory, read_inventory
from restore.iaas.lab import ssh_host
from restore.iaas.mark import Claim
from restore.iaas.site import open_iaas
from tests.lab.conftest import said
from tests.restore.iaas.conftest import OLD, Bench, hosts_inventory, mark, refused, wanted

pytestmark = pytest.mark.parametrize("bench", ["hosts"], indirect=True)

OWNER = "/var/lib/bbr/owner.json"


def test_mark_on_a_host_is_for_root_alone_and_leaves_no_lock(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("n1"))
    assert said(bench.lab, "n1", f"stat -c '%a %U' {OWNER}; ls -A /var/lib/bbr") == "600 root\nowner.json"


def test_marks_that_are_over_or_given_back_stay_beside(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("n1", mark("first", hours=-1)))
    bench.site.iaas.ensure_machine(wanted("n1", mark("second")))
    bench.site.iaas.delete("n1", run="second")
    names = said(bench.lab, "n1", "ls /var/lib/bbr").split()
    assert {"owner-first.expired.json", "owner-second.released.json"} <= set(names)
    assert "owner.json" not in names
    said(bench.lab, "n1", "rm /var/lib/bbr/*")


def test_host_that_was_never_taken_is_not_given_back_by_a_run_that_gave_back_another(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("n1"))
    bench.site.iaas.delete("n1", run="r1")
    assert "never taken by run r1" in refused(bench.site, "n2", "r1")


def test_who_read_an_older_mark_does_not_change_the_new_one(bench: Bench) -> None:
    with ssh_machine(ssh_host(bench.lab.host("n1"))) as machine:
        claim.take(machine, Claim(mark("first"), "master", "found"), found=None)
        seen = claim.look(machine)
        assert seen is not None
        claim.take(machine, Claim(mark("second"), "master", "found"), found=seen)
        for late in (None, seen):
            with pytest.raises(IaasUnavailable, match="somebody else changed"):
                claim.take(machine, Claim(mark("late"), "master", "found"), found=late)
        with pytest.raises(IaasUnavailable, match="somebody else changed"):
            claim.give_back(machine, seen)
        held = claim.look(machine)
    assert held is not None
    assert held.claim.mark.run == "second"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("echo '{}' >owner.json", "no mark of bbr"),
        ("head -c 100000 /dev/zero >owner.json", "larger than"),
        ("mkdir owner.json", "Is a directory"),
        ("ln -s /etc/shadow owner.json", "no mark of bbr"),
    ],
)
def test_host_whose_mark_cannot_be_read_is_unknown_and_not_taken(bench: Bench, make: str, why: str) -> None:
    said(bench.lab, "n1", f"mkdir -p /var/lib/bbr; cd /var/lib/bbr; {make}")
    before = said(bench.lab, "n1", f"ls -ld {OWNER}")
    try:
        (unknown,) = bench.site.iaas.list_owned().unknown
        assert unknown.name == "n1"
        assert why in unknown.why
        assert "root:" not in unknown.why
        for act in (
            lambda: bench.site.iaas.ensure_machine(wanted("n1")),
            lambda: bench.site.iaas.delete("n1", run="r"),
        ):
            with pytest.raises(Exception, match=why):
                act()
        assert said(bench.lab, "n1", f"ls -ld {OWNER}") == before
    finally:
        said(bench.lab, "n1", f"rm -r {OWNER}")


def test_host_that_is_off_is_unknown_and_no_nothing(bench: Bench) -> None:
    bench.site.iaas.ensure_machine(wanted("n1"))
    bench.site.iaas.ensure_machine(wanted("n2"))
    bench.lab.power_off("n1")
    owned = bench.site.iaas.list_owned()
    assert [one.name for one in owned.machines] == ["n2"]
    assert [one.name for one in owned.unknown] == ["n1"]
    with pytest.raises(MachineUnreachable):
        bench.site.iaas.get("n1")
    with pytest.raises(MachineUnreachable):
        bench.site.iaas.delete("n1", run="r1")
    bad = {one.subject: one for one in bench.site.iaas.preflight() if not one.is_good}
    assert list(bad) == ["n1"]
    assert bad["n1"].hint


def test_host_with_another_role_is_refused(bench: Bench) -> None:
    with pytest.raises(IaasRefused, match="the inventory says master"):
        bench.site.iaas.ensure_machine(wanted("n1", role="worker"))
    with pytest.raises(IaasRefused, match="there is no host n9"):
        bench.site.iaas.ensure_machine(wanted("n9"))


def test_preflight_says_what_a_host_lacks(bench: Bench) -> None:
    said(bench.lab, "n1", "mv /usr/bin/flock /usr/bin/flock.away")
    try:
        (bad,) = [one for one in bench.site.iaas.preflight() if not one.is_good]
    finally:
        said(bench.lab, "n1", "mv /usr/bin/flock.away /usr/bin/flock")
    assert (bad.subject, bad.said) == ("n1", "it lacks flock")


def test_fence_that_says_off_of_a_host_that_answers_is_not_believed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooked, "OFF_TIME", timedelta(seconds=1))
    inventory = read_inventory(bench.inventory)
    assert isinstance(inventory, HostsInventory)
    with pytest.raises(IaasError, match="still answers"):
        hooked.HookFence(inventory, ["/bin/true"]).fence(OLD)


def test_host_that_hangs_is_not_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooked, "OFF_TIME", timedelta(seconds=0))
    monkeypatch.setattr(hooked, "_ASK_TIME", timedelta(seconds=1))
    inventory = read_inventory(bench.inventory)
    assert isinstance(inventory, HostsInventory)
    said(bench.lab, OLD, "kill -STOP $(pgrep -o -x sshd)")
    try:
        with pytest.raises(IaasError, match="still answers"):
            hooked.HookFence(inventory, ["/bin/true"]).fence(OLD)
    finally:
        bench.lab.power_off(OLD)


def test_silence_is_no_proof_where_the_way_to_a_host_is_broken(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "door"
    broken.write_text("#!/bin/sh\n")
    broken.chmod(0o700)
    bench.inventory.write_text(bench.inventory.read_text().replace(sys.executable, str(broken)))
    inventory = read_inventory(bench.inventory)
    assert isinstance(inventory, HostsInventory)
    broken.unlink()
    with pytest.raises(IaasUnavailable, match="cannot be seen"):
        hooked.HookFence(inventory, ["/bin/true"]).fence(OLD)


@pytest.mark.parametrize("is_listening", [True, False])
def test_host_without_a_door_is_off_when_nobody_listens(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_listening: bool
) -> None:
    monkeypatch.setattr(hooked, "OFF_TIME", timedelta(seconds=0))
    monkeypatch.setattr(hooked, "_ASK_TIME", timedelta(seconds=1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = SshHost("here", "127.0.0.1", (tmp_path / "id",), port=server.getsockname()[1], host_key="ssh-ed25519 AA")
        inventory = HostsInventory(tmp_path, (HostEntry("here", "master", here, False, "here", "127.0.0.1"),))
        if not is_listening:
            server.close()
            hooked.HookFence(inventory, ["/bin/true"]).fence("here")
            return
        with pytest.raises(IaasError, match="still answers"):
            hooked.HookFence(inventory, ["/bin/true"]).fence("here")


def test_fence_that_fails_is_not_taken_for_success_by_silence(bench: Bench) -> None:
    inventory = read_inventory(bench.inventory)
    assert isinstance(inventory, HostsInventory)
    bench.lab.power_off(OLD)
    with pytest.raises(IaasError, match="ended with code 1"):
        hooked.HookFence(inventory, ["/bin/false"]).fence(OLD)


def test_endpoint_hook_gets_what_is_wanted(bench: Bench, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    code = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    words = json.dumps([sys.executable, "-c", code, str(kept)])
    extra = f', "endpoint": {{"address": "api.lab:6443", "hook": {words}}}'
    site = open_iaas(read_inventory(hosts_inventory(bench.lab, tmp_path, extra=extra)))
    assert site.endpoint is not None
    assert site.endpoint_address == "api.lab:6443"
    site.endpoint.point("api.lab:6443", ["10.20.30.11", "10.20.30.12"])
    assert json.loads(kept.read_bytes()) == {"endpoint": "api.lab:6443", "addresses": ["10.20.30.11", "10.20.30.12"]}
    with pytest.raises(IaasRefused, match=r"not other\.lab"):
        site.endpoint.point("other.lab:6443", ["10.20.30.11"])


def test_what_an_inventory_does_not_offer_is_none(bench: Bench) -> None:
    assert (bench.site.endpoint, bench.site.endpoint_address) == (None, None)


def test_host_behind_a_jump_is_taken_and_its_silence_is_proof_only_while_the_jump_answers(
    bench: Bench, tmp_path: Path
) -> None:
    jump, behind = ssh_host(bench.lab.host("n1")), ssh_host(bench.lab.host("n2"))
    path = tmp_path / "jump.yaml"
    power_off = tmp_path / "power_off"
    body = {
        "adapter": "hosts",
        "defaults": {"identity_file": str(bench.lab.host("n1").identity), "jump": "gate"},
        "hosts": {
            "n2": {"role": "master", "address": behind.address, "host_key": behind.host_key},
            "gate": {
                "role": "jump",
                "address": jump.address,
                "host_key": jump.host_key,
                "door": list(jump.door or ()),
            },
        },
        "fence": [str(power_off)],
    }
    path.write_text(json.dumps(body))
    path.chmod(0o600)
    site = open_iaas(read_inventory(path))
    made = site.iaas.ensure_machine(wanted("n2"))
    assert isinstance(made, MachineMade)
    assert bench.owned()["n2"].mark == made.mark
    assert site.fence is not None
    bench.lab.power_off("n1")
    with pytest.raises(IaasUnavailable, match="cannot be seen"):
        site.fence.fence("n2")
    Lab.open(bench.lab.name, base=bench.lab.folder.parent).power_on("n1")
    site.fence.fence("n2")
