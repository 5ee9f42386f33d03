"""An inventory is read strictly, and what is wrong is named with its line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bbr.errors import UsageError
from restore.iaas.inventory import HostsInventory, LabInventory, read_inventory

HOSTS = f"""\
adapter: hosts
defaults: {{user: ops, sudo: true, identity_file: keys/id, known_hosts: known_hosts, jump: bastion}}
hosts:
  m1: {{role: master, address: 10.0.0.11, node_name: cp-1, node_address: 10.1.0.11}}
  m2: {{role: master, address: 10.0.0.12, port: 2222, user: root, sudo: false, host_key: ssh-ed25519 AAAA}}
  w1: {{role: worker, address: 10.0.0.13, jump: inner}}
  inner: {{role: jump, address: 10.0.0.2, jump: bastion}}
  bastion: {{role: jump, address: gate.example.com, user: gate}}
endpoint: {{address: "api.example.com:6443", hook: [{sys.executable}, -c, pass]}}
fence: [./fence, --now]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "inventory.yaml"
    path.write_text(text)
    path.chmod(0o600)
    (folder / "fence").write_text("#!/bin/sh\n")
    (folder / "fence").chmod(0o700)
    return path


def wrong(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as raised:
        read_inventory(written(folder, text))
    return f"{raised.value} ({raised.value.hint})".removeprefix(f"{folder}/")


def test_hosts_are_read_with_what_holds_for_all(tmp_path: Path) -> None:
    inventory = read_inventory(written(tmp_path, HOSTS))
    assert isinstance(inventory, HostsInventory)
    m1, m2, w1 = inventory.hosts
    assert (m1.name, m1.role, m1.sudo, m1.node_name, m1.node_address) == ("m1", "master", True, "cp-1", "10.1.0.11")
    assert (m1.ssh.user, m1.ssh.port, m1.ssh.identity_files) == ("ops", 22, (tmp_path / "keys/id",))
    assert (m1.ssh.known_hosts, m1.ssh.host_key) == (tmp_path / "known_hosts", None)
    assert [one.name for one in m1.ssh.route()] == ["bastion", "m1"]
    assert (m2.ssh.user, m2.ssh.port, m2.sudo) == ("root", 2222, False)
    assert (m2.ssh.known_hosts, m2.ssh.host_key) == (None, "ssh-ed25519 AAAA")
    assert (m2.node_name, m2.node_address) == ("m2", "10.0.0.12")
    assert [(one.name, one.user) for one in w1.ssh.route()] == [("bastion", "gate"), ("inner", "ops"), ("w1", "ops")]
    assert inventory.endpoint == "api.example.com:6443"
    assert inventory.endpoint_hook == (sys.executable, "-c", "pass")
    assert inventory.fence_hook == (str(tmp_path / "fence"), "--now")


def test_host_with_a_door_needs_no_way_through_others(tmp_path: Path) -> None:
    inventory = read_inventory(written(tmp_path, HOSTS.replace("jump: inner", "door: [/bin/true, x]")))
    assert isinstance(inventory, HostsInventory)
    (w1,) = [one for one in inventory.hosts if one.name == "w1"]
    assert (w1.ssh.door, w1.ssh.jump) == (("/bin/true", "x"), None)


def test_lab_is_read(tmp_path: Path) -> None:
    inventory = read_inventory(written(tmp_path, "adapter: lab\nlab: rehearsal\nbase: labs\ntier: fast\n"))
    assert inventory == LabInventory(tmp_path / "inventory.yaml", "rehearsal", tmp_path / "labs", "fast")


@pytest.mark.parametrize(("text", "tier"), [("true", "true"), ('"true"', "true"), ("fast", "fast"), ("hosts", "hosts")])
def test_a_tier_is_a_word_also_where_yaml_has_another_meaning_for_it(tmp_path: Path, text: str, tier: str) -> None:
    inventory = read_inventory(written(tmp_path, f"adapter: lab\nlab: rehearsal\ntier: {text}\n"))
    assert isinstance(inventory, LabInventory)
    assert inventory.tier == tier
    assert "tier should be" in wrong(tmp_path, "adapter: lab\nlab: rehearsal\ntier: false\n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("adapter: hosts\n", "", "line 1: adapter should be hosts or lab"),
        ("adapter: hosts", "adapter: cloud", "line 1: adapter should be hosts or lab"),
        ("adapter: hosts", "adapter: [", "not YAML"),
        ("port: 2222", "prot: 2222", "line 5: unknown key 'hosts.m2.prot' (did you mean 'port'?)"),
        ("sudo: true", "sudoo: true", "line 2: unknown key 'defaults.sudoo' (did you mean 'sudo'?)"),
        ("hook:", "hok:", "line 9: unknown key 'endpoint.hok' (did you mean 'hook'?)"),
        ("port: 2222", 'port: "22"', "line 5: hosts.m2.port should be a valid integer"),
        ("port: 2222", "port: 70000", "line 5: hosts.m2.port should be less than or equal to 65535"),
        ("role: worker", "role: node", "line 6: hosts.w1.role should be 'master', 'worker', 'etcd' or 'jump'"),
        ("role: worker, ", "", "line 6: hosts.w1.role is missing"),
        ("  m2:", "  m1:", "line 5: 'm1' is given twice"),
        ("identity_file: keys/id, ", "", "line 4: hosts.m1 has no identity_file"),
        ("known_hosts: known_hosts, ", "", "line 4: hosts.m1 has neither host_key nor known_hosts"),
        ("port: 2222", "known_hosts: other", "line 5: hosts.m2 has both host_key and known_hosts"),
        ("jump: inner", "jump: inner, door: [/bin/true]", "line 6: hosts.w1 has both door and jump"),
        ("jump: inner", "jump: outer", "line 6: hosts.w1: 'outer' is no host of this file"),
        ("address: gate.example.com", "address: gate, jump: inner", "would be jumped through to reach itself"),
        ("10.0.0.13, jump: inner", "10.0.0.11", "line 6: hosts.w1 and hosts.m1 are the same machine"),
        ("./fence", "./fences", "line 10: fence: there is no program './fences'"),
        ("fence: [./fence, --now]", "fence: []", "line 10: fence: List should have at least 1 item"),
        ("api.example.com:6443", "api.example.com", "line 9: endpoint.address: String should match"),
        ("  m1:", "  M1:", "hosts.M1"),
        ("keys/id", "~nobody-of-that-name/id", "write paths without ~"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in HOSTS
    assert said in wrong(tmp_path, HOSTS.replace(old, new, 1))


def test_programs_of_a_file_that_others_can_write_are_not_run(tmp_path: Path) -> None:
    path = written(tmp_path, HOSTS)
    path.chmod(0o620)
    with pytest.raises(UsageError, match="names a program, and other users can write this file"):
        read_inventory(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "text", "a: &a [*a]\n", "[" * 3000, "hosts: " + "{a: " * 12 + "1" + "}" * 12]
)
def test_a_file_that_is_no_inventory_is_refused(tmp_path: Path, text: str) -> None:
    assert wrong(tmp_path, text)


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_inventory(tmp_path / "inventory.yaml")
    assert "larger than" in wrong(tmp_path, "#" * 1_100_000)
