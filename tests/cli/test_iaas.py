"""`bbr iaas` as a person uses it: real hosts are looked at, listed, and given back, with honest exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from restore.iaas.iaas import Iaas, MachineWanted
from restore.iaas.inventory import read_inventory
from restore.iaas.lab import ssh_host
from restore.iaas.mark import Mark, Purpose
from restore.iaas.site import open_iaas

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")

PROGRAM = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"
ROOT = Path(__file__).parents[2]


def bbr(*words: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    """A process of its own, with nobody to answer unless ``stdin`` is somebody."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90, cwd=ROOT, stdin=stdin)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.up([HostSpec("h1"), HostSpec("h2")], base=tmp_path_factory.mktemp("labs"), name="cli") as there:
        yield there


@pytest.fixture
def inventory(lab: Lab, tmp_path: Path) -> Path:
    """The two hosts, as hosts that exist."""
    hosts = {
        one.name: {"role": "master", "address": one.address, "host_key": one.host_key, "door": list(one.door or ())}
        for one in map(ssh_host, lab.hosts)
    }
    path = tmp_path / "inventory.yaml"
    defaults = {"identity_file": str(lab.hosts[0].identity)}
    path.write_text(json.dumps({"adapter": "hosts", "defaults": defaults, "hosts": hosts}))
    path.chmod(0o600)
    return path


@pytest.fixture
def iaas(inventory: Path) -> Iterator[Iaas]:
    """The adapter, to take hosts with; they are given back."""
    adapter = open_iaas(read_inventory(inventory)).iaas
    yield adapter
    for one in adapter.list_owned().machines:
        assert one.mark is not None
        adapter.delete(one.name, run=one.mark.run)


def take(iaas: Iaas, name: str, run: str, *, hours: int, purpose: Purpose = "drill") -> None:
    mark = Mark(run, "prod", purpose, datetime.now(UTC) + timedelta(hours=hours))
    iaas.ensure_machine(MachineWanted(name, "master", mark))


def held(iaas: Iaas) -> list[str]:
    return [one.name for one in iaas.list_owned().machines]


def test_hosts_that_are_well_are_exit_0_and_each_is_named(inventory: Path) -> None:
    said = bbr("iaas", "check", inventory)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [
        "WHAT  STATE  FOUND",
        "h1    ok     answers as root, free",
        "h2    ok     answers as root, free",
    ]


def test_host_that_is_off_is_exit_5_when_checked_and_3_when_listed(iaas: Iaas, inventory: Path, lab: Lab) -> None:
    take(iaas, "h2", "r1", hours=1)
    lab.power_off("h1")
    try:
        check, listed = bbr("iaas", "check", inventory), bbr("iaas", "list", inventory, "-o", "json")
        swept = bbr("iaas", "sweep", inventory, "--run", "r1", "--yes", "-o", "json")
    finally:
        lab.power_on("h1")
    assert (check.returncode, listed.returncode, swept.returncode) == (5, 3, 3)
    assert "h1    NOT OK" in check.stdout
    assert "1 could not be asked: h1" in listed.stderr
    body = json.loads(listed.stdout)
    assert [one["name"] for one in body["machines"]] == ["h2"]
    assert [one["name"] for one in body["unknown"]] == ["h1"]
    assert json.loads(swept.stdout)["given_back"] == ["h2"]


def test_nothing_held_is_said_in_words(inventory: Path) -> None:
    assert bbr("iaas", "list", inventory).stdout == "no run holds a machine\n"
    assert bbr("iaas", "sweep", inventory).stdout == "nothing to give back\n"


def test_what_is_listed_says_for_whom_and_until_when(iaas: Iaas, inventory: Path) -> None:
    take(iaas, "h1", "drill-1", hours=-1)
    rows = [line.split() for line in bbr("iaas", "list", inventory).stdout.splitlines()]
    assert rows[1][:6] == ["h1", "drill-1", "prod", "drill", "10.20.30.11", "on"]
    assert rows[1][-1] == "(over)"


def test_only_drills_that_are_over_are_swept_unasked_for(iaas: Iaas, inventory: Path) -> None:
    take(iaas, "h1", "drill-1", hours=-1)
    take(iaas, "h2", "restore-1", hours=-1, purpose="restore")
    said = bbr("iaas", "sweep", inventory, "--yes")
    assert (said.returncode, said.stdout) == (0, "given back: h1 (run drill-1)\n"), said.stderr
    assert held(iaas) == ["h2"]
    said = bbr("iaas", "sweep", inventory, "--yes", "--run", "restore-1")
    assert (said.returncode, said.stdout) == (0, "given back: h2 (run restore-1)\n"), said.stderr
    assert held(iaas) == []


def test_a_drill_that_goes_on_is_not_swept(iaas: Iaas, inventory: Path) -> None:
    take(iaas, "h1", "drill-1", hours=1)
    assert bbr("iaas", "sweep", inventory, "--yes").stdout == "nothing to give back\n"
    assert bbr("iaas", "sweep", inventory, "--yes", "--run", "other").stdout == "nothing to give back\n"
    assert held(iaas) == ["h1"]


def test_without_an_answer_nothing_is_given_back(iaas: Iaas, inventory: Path) -> None:
    take(iaas, "h1", "drill-1", hours=-1)
    said = bbr("iaas", "sweep", inventory)
    assert said.returncode == 5
    assert "nobody is there to be asked" in said.stderr
    assert "--yes" in said.stderr
    assert held(iaas) == ["h1"]


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 5, ["h1"]), ("y", 0, [])])
def test_a_person_is_asked_and_heard(iaas: Iaas, inventory: Path, answer: str, code: int, left: list[str]) -> None:
    take(iaas, "h1", "drill-1", hours=-1)
    person, terminal = pty.openpty()
    try:
        os.write(person, f"{answer}\n".encode())
        said = bbr("iaas", "sweep", inventory, stdin=terminal)
    finally:
        os.close(person)
        os.close(terminal)
    assert said.returncode == code, said.stderr
    assert "h1  10.20.30.11  run drill-1" in said.stderr
    assert held(iaas) == left


def test_a_file_that_is_wrong_is_exit_2_with_its_line(inventory: Path) -> None:
    inventory.write_text("adapter: lab\nlba: x\n")
    said = bbr("iaas", "check", inventory)
    assert said.returncode == 2
    assert said.stderr.startswith(f"bbr: {inventory}, line ")
