"""One sshd for the run, and what tests about machines share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bbr.machines.local import local_machine
from bbr.machines.shell import ShellMachine
from bbr.machines.ssh import ssh_machine
from tests.machines.sshd import OPERATOR, OPERATOR_ID, Sshd, start_sshd

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: a user, a disk or an owner of its own")


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A real sshd."""
    with start_sshd() as running:
        yield running


@pytest.fixture
def folder(sshd: Sshd) -> Iterator[Path]:
    """An empty folder on the machine, which every user may write to."""
    path = sshd.work / "test"
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def machine(request: pytest.FixtureRequest, sshd: Sshd, folder: Path) -> Iterator[ShellMachine]:
    """A machine of the kind that the test is run for."""
    kind = getattr(request, "param", "ssh")
    sshd.let_sudo("yes")
    if kind == "local":
        made = local_machine()
    elif kind == "ssh":
        made = ssh_machine(sshd.host())
    elif kind == "jump":
        made = ssh_machine(sshd.host(jump=sshd.host(name="jump")))
    else:
        made = ssh_machine(sshd.host(user=OPERATOR), sudo=True)
        os.chown(folder, OPERATOR_ID, OPERATOR_ID)
    with made:
        yield made


every_machine = pytest.mark.parametrize(
    "machine", ["local", "ssh", "jump", pytest.param("sudo", marks=needs_root)], indirect=True
)
