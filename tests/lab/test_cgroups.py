"""Which cgroups a host gets: found in what the kernel says, for version 1, version 2 and both."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbr.lab import cgroups
from bbr.lab.cgroups import Cgroup, own_cgroups
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from tests.lab.conftest import said, traces

VERSION_1 = """\
24 1 0:5 / / rw - ext4 /dev/vda rw
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
"""
HYBRID = VERSION_1 + "34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
VERSION_2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OWN_1 = "4:memory:/user/a\n3:cpu,cpuacct:/\n1:name=systemd:/user/b\n"


def test_version_1_is_a_folder_for_each_controller() -> None:
    assert own_cgroups(VERSION_1, OWN_1) == (
        Cgroup(Path("/sys/fs/cgroup/cpu,cpuacct"), "cgroup", "cpu,cpuacct", Path("/sys/fs/cgroup/cpu,cpuacct")),
        Cgroup(Path("/sys/fs/cgroup/memory"), "cgroup", "memory", Path("/sys/fs/cgroup/memory/user/a")),
        Cgroup(Path("/sys/fs/cgroup/systemd"), "cgroup", "name=systemd", Path("/sys/fs/cgroup/systemd/user/b")),
    )


def test_hybrid_counts_as_version_1() -> None:
    assert own_cgroups(HYBRID, f"{OWN_1}0::/user/c\n") == own_cgroups(VERSION_1, OWN_1)


def test_version_2_is_one_tree() -> None:
    there = own_cgroups(VERSION_2, "0::/user.slice/session-1.scope\n")
    folder = Path("/sys/fs/cgroup/user.slice/session-1.scope")
    assert there == (Cgroup(Path("/sys/fs/cgroup"), "cgroup2", "", folder),)


def test_container_that_sees_part_of_a_tree_is_found_in_it() -> None:
    mounts = "31 30 0:28 /docker/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    (there,) = own_cgroups(mounts, "4:memory:/docker/c1/inner\n")
    assert there.folder == Path("/sys/fs/cgroup/memory/inner")
    assert own_cgroups(mounts, "4:memory:/elsewhere\n") == ()


def test_host_on_version_2_sees_its_cgroup_as_root_and_has_its_processes_in_a_leaf(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much of it as a machine with version 1 can show: its version 2 tree has no controllers to hand on."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    only_2 = [line for line in mounts if " - cgroup2 " in line]
    if not only_2:
        pytest.skip("no version 2 tree is mounted")
    (there,) = own_cgroups("\n".join(only_2), Path("/proc/self/cgroup").read_text())
    monkeypatch.setattr(cgroups, "for_lab", lambda lab: (Cgroup(there.mounted_at, "cgroup2", "", there.folder / lab),))
    with Lab.up([HostSpec("m1")], base=base) as lab:
        assert said(lab, "m1", "grep ^0: /proc/self/cgroup") == "0::/init"
        assert said(lab, "m1", "cat /sys/fs/cgroup/cgroup.procs") == ""
        assert "1" in said(lab, "m1", "cat /sys/fs/cgroup/init/cgroup.procs").split()
        said(lab, "m1", "mkdir /sys/fs/cgroup/kubepods && rmdir /sys/fs/cgroup/kubepods")
    assert traces(lab.name, base) == []
