"""The way to a master is wrong: its key, its host key, its user. Refused before anything is done, by plan and apply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input.restore_cluster.broken import (
    KEPT,
    MASTER,
    begun,
    check_serves,
    checked,
    hosts_inventory,
    other_key,
    refused_plan,
)
from tests.restore.cluster.site import IDENTITY, Site, opened_site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")

USER = "ops"
ADD_USER = f"""\
id -u {USER} >/dev/null 2>&1 || useradd -m -p '*' -s /bin/sh {USER}
install -d -m 700 -o {USER} -g {USER} ~{USER}/.ssh
install -m 600 -o {USER} -g {USER} /root/.ssh/authorized_keys ~{USER}/.ssh/authorized_keys
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One master, backed up."""
    with opened_site(tmp_path_factory.mktemp("access"), masters=(MASTER,)) as made:
        made.kubectl(MASTER, "create", "namespace", KEPT)
        made.back_up()
        yield made


def refused_apply(site: Site, plan: Path) -> tuple[int, str]:
    """An apply that must not begin: its exit code and its words. Nothing was begun, and the cluster serves."""
    done = site.apply(plan, check=False)
    assert done.returncode != 0, done.stdout
    assert begun(site, plan) == []
    assert "hint:" in done.stderr, done.stderr
    check_serves(site)
    return done.returncode, done.stderr


def good_plan(site: Site, inventory: Path) -> Path:
    """A plan by an inventory that is good, still."""
    out = site.folder / "plan.json"
    out.unlink(missing_ok=True)
    line: list[str | Path] = [
        "restore",
        "plan",
        "latest",
        "--kind",
        "in-place",
        "--inventory",
        inventory,
        *IDENTITY,
        "--out",
        out,
    ]
    site.bbr(*line)
    return out


def test_wrong_ssh_key_is_exit_12_and_named(site: Site) -> None:
    key, _ = other_key(site.folder, "stranger")
    inventory = hosts_inventory(site, identity=key)
    code, said = refused_plan(site, inventory)
    assert code == 12
    assert f"{MASTER} ({site.lab.host(MASTER).address}) refused to let root in with {key}" in said
    assert "authorized_keys" in said
    assert "refused to let root in" in checked(site, inventory)


def test_ssh_key_that_others_can_read_is_exit_12(site: Site) -> None:
    key, _ = other_key(site.folder, "open")
    key.chmod(0o644)
    inventory = hosts_inventory(site, identity=key)
    code, said = refused_plan(site, inventory)
    assert code == 12
    assert str(key) in said
    assert "chmod" in said
    assert str(key) in checked(site, inventory)


def test_changed_host_key_is_exit_12_with_both_prints(site: Site) -> None:
    _, public = other_key(site.folder, "imposter")
    inventory = hosts_inventory(site, host_key=public)
    code, said = refused_plan(site, inventory)
    assert code == 12
    assert f"{MASTER} ({site.lab.host(MASTER).address}) showed ssh-ed25519 SHA256:" in said
    assert said.count("SHA256:") == 2
    assert "nothing was sent" in said
    assert "showed ssh-ed25519" in checked(site, inventory)


def test_host_key_that_changes_after_the_plan_stops_apply(site: Site) -> None:
    inventory = hosts_inventory(site)
    plan = good_plan(site, inventory)
    known = inventory.with_suffix(".known")
    _, public = other_key(site.folder, "imposter")
    known.write_text(f"{site.lab.host(MASTER).address} {public}\n")
    code, said = refused_apply(site, plan)
    assert code == 12
    assert f"{MASTER} " in said
    assert "nothing was sent" in said


def test_key_that_is_refused_after_the_plan_stops_apply(site: Site) -> None:
    key, public = other_key(site.folder, "mine")
    site.on(MASTER, "cat >> /root/.ssh/authorized_keys", stdin=f"{public}\n")
    plan = good_plan(site, hosts_inventory(site, identity=key))
    site.on(MASTER, "sed -i '$d' /root/.ssh/authorized_keys")
    code, said = refused_apply(site, plan)
    assert code == 12
    assert f"{MASTER} ({site.lab.host(MASTER).address}) refused to let root in" in said


@pytest.mark.parametrize("sudo", [False, True], ids=["not asked for", "asked for"])
def test_user_who_is_not_root_and_has_no_sudo_is_exit_5(site: Site, sudo: bool) -> None:
    site.on(MASTER, ADD_USER)
    inventory = hosts_inventory(site, user=USER, sudo=sudo)
    code, said = refused_plan(site, inventory)
    assert code == 5
    assert f"{MASTER}" in said
    assert ("sudo" if sudo else "root") in said
    assert "sudo" in checked(site, inventory)
    check_serves(site)


def test_user_who_has_sudo_can_plan(site: Site) -> None:
    if not site.on(MASTER, "command -v sudo || :"):
        pytest.skip("this machine has no sudo; tests/machines shows it with a stand-in")
    site.on(MASTER, ADD_USER)
    site.on(MASTER, f"echo '{USER} ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}")
    try:
        assert good_plan(site, hosts_inventory(site, user=USER, sudo=True)).exists()
    finally:
        site.on(MASTER, f"rm /etc/sudoers.d/{USER}")


def test_host_that_is_missing_in_known_hosts_is_exit_12(site: Site) -> None:
    inventory = hosts_inventory(site)
    inventory.with_suffix(".known").write_text("")
    code, said = refused_plan(site, inventory)
    assert code == 12
    assert f"{site.lab.host(MASTER).address} is not in" in said
    assert "is not in" in checked(site, inventory)
