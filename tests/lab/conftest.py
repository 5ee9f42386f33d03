"""A lab of three hosts, and commands on them by the stock ssh."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab

NAMES = ("m1", "m2", "m3")


@pytest.fixture(scope="session")
def root() -> None:
    """Skips what cannot run without root: there is no other way to make namespaces and mounts."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")


@pytest.fixture
def base(tmp_path: Path, root: None) -> Path:
    """A base folder for labs of this test alone."""
    return tmp_path / "labs"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, root: None) -> Iterator[Lab]:
    """Three hosts, for the tests of one module."""
    with Lab.up([HostSpec(name) for name in NAMES], base=tmp_path_factory.mktemp("labs")) as there:
        yield there


def ssh(lab: Lab, host: str, command: str) -> subprocess.CompletedProcess[str]:
    """What a command on a host does, by the ssh_config that the lab wrote."""
    line = ["/usr/bin/ssh", "-F", str(lab.ssh_config), host, command]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def said(lab: Lab, host: str, command: str) -> str:
    """What a command on a host prints; it must succeed."""
    done = ssh(lab, host, command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def traces(name: str, base: Path) -> list[str]:
    """What there is of a lab on this machine: processes, namespaces, mounts, cgroups, files."""
    marks = (f"{base}/", f"bbr-lab-{name}")
    found = [str(path) for path in Path("/run/netns").glob(f"bbr-lab-{name}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/bbr-lab-{name}")]
    found += [str(path) for path in base.glob("*") if path.is_dir()]
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            mounts, command = (process / "mountinfo").read_text(), (process / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        lines = [*mounts.splitlines(), command]
        found += [f"{process.name}: {line}" for line in lines if any(mark in line for mark in marks)]
    return found
