"""What a host is: reached over SSH with its key pinned, a machine of its own, connected to its lab and nothing else."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from bbr.lab import keys
from bbr.lab.lab import Lab
from tests.lab.conftest import NAMES, said, ssh


def plain_ssh(lab: Lab, host: str, known_hosts: Path, command: str) -> subprocess.CompletedProcess[str]:
    """The stock ssh with no configuration but the pinned keys, from inside the lab's network."""
    one = lab.host(host)
    options = ["-F", "/dev/null", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known_hosts}"]
    options += ["-o", "BatchMode=yes", "-i", str(one.identity), "-p", str(one.ssh_port)]
    line = lab.entering(["/usr/bin/ssh", *options, f"root@{one.address}", command])
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("name", NAMES)
def test_host_answers_to_its_name_with_its_pinned_key(lab: Lab, name: str) -> None:
    done = plain_ssh(lab, name, lab.known_hosts, "hostname; id -u")
    assert (done.returncode, done.stdout) == (0, f"{name}\n0\n"), done.stderr
    assert said(lab, name, "hostname") == name


def test_host_with_another_key_than_the_pinned_one_is_refused(lab: Lab, tmp_path: Path) -> None:
    forged = tmp_path / "known_hosts"
    forged.write_text(f"{lab.host('m1').address} {keys.generate().public}\n")
    done = plain_ssh(lab, "m1", forged, "true")
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_every_host_has_a_key_and_an_address_of_its_own(lab: Lab) -> None:
    assert len({host.host_key for host in lab.hosts}) == len({host.address for host in lab.hosts}) == len(NAMES)
    assert [host.address for host in lab.hosts] == ["10.20.30.11", "10.20.30.12", "10.20.30.13"]


def test_a_socket_of_this_process_reaches_a_host_and_leaves_us_where_we_are(lab: Lab) -> None:
    before = Path("/proc/self/ns/net").readlink()
    with lab.connect("m2") as connection:
        assert connection.recv(4) == b"SSH-"
    assert Path("/proc/thread-self/ns/net").readlink() == before


def test_hosts_reach_each_other_by_name(lab: Lab) -> None:
    for name in NAMES:
        others = " ".join(other for other in NAMES if other != name)
        greetings = said(
            lab, name, f'for h in {others}; do timeout 5 bash -c "exec 3<>/dev/tcp/$h/22; head -c 4 <&3"; done'
        )
        assert greetings == "SSH-SSH-"


def test_hosts_reach_nothing_outside(lab: Lab) -> None:
    with socket.create_server(("", 0)) as listener:  # on all addresses of this machine
        port = listener.getsockname()[1]
        addresses = ["127.0.0.1", "10.20.30.1", *machine_addresses()]
        assert len(addresses) > 2, "this machine has no address to try"
        for address in addresses:
            done = ssh(lab, "m1", f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'")
            assert done.returncode == 1, f"{address}: {done.stdout}{done.stderr}"
            assert "refused" in done.stderr or "unreachable" in done.stderr
    assert said(lab, "m1", "ip -o route show") == "10.20.30.0/24 dev eth0 proto kernel scope link src 10.20.30.11"


def machine_addresses() -> list[str]:
    lines = subprocess.run(
        ["/sbin/ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    found = [line.split()[3].split("/")[0] for line in lines.splitlines()]
    return [address for address in found if not address.startswith("127.")]


def test_file_of_one_host_is_not_seen_by_another_nor_by_the_machine(lab: Lab) -> None:
    said(lab, "m1", "echo mine >/etc/only-here; echo mine >/var/lib/kubelet/only-here; echo changed >/etc/issue")
    for name in ("m2", "m3"):
        assert ssh(lab, name, "cat /etc/only-here || cat /var/lib/kubelet/only-here").returncode == 1
        assert said(lab, name, "cat /etc/issue") != "changed"
    assert not Path("/etc/only-here").exists()
    assert not Path("/var/lib/kubelet/only-here").exists()
    assert Path("/etc/issue").read_text() != "changed\n"


def test_secrets_of_the_machine_are_not_on_a_host(lab: Lab) -> None:
    assert said(lab, "m1", "ls -A /root /home /tmp /etc/kubernetes 2>/dev/null; ls /etc/ssh").split() == [
        "/home:",
        "/root:",
        ".ssh",
        "/tmp:",
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
        "sshd_config",
    ]
    assert "vda" not in said(lab, "m1", "ls /dev")


def test_host_has_processes_and_cgroups_of_its_own(lab: Lab) -> None:
    commands = said(lab, "m1", "ps -e -o comm=").split()
    assert commands[:3] == ["sh", "sshd", "sleep"]
    assert "pytest" not in commands
    assert {line.split(":")[2] for line in said(lab, "m1", "cat /proc/self/cgroup").splitlines()} == {"/"}
    said(lab, "m1", "for h in /sys/fs/cgroup/*/; do mkdir $h/pod && rmdir $h/pod || exit 1; done")


@pytest.mark.parametrize("setting", ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom"])
def test_kernel_setting_that_a_kubelet_writes_stays_on_its_host(lab: Lab, setting: str) -> None:
    path = Path("/proc/sys") / setting
    before = path.read_text().strip()
    assert said(lab, "m1", f"cat {path}") == before
    other = "0" if before == "1" else "1"
    assert said(lab, "m1", f"echo {other} >{path}; sysctl -n {setting.replace('/', '.')}") == other
    assert path.read_text().strip() == said(lab, "m2", f"cat {path}") == before


def test_orphans_are_collected(lab: Lab) -> None:
    said(lab, "m1", "for n in 1 2 3 4 5; do (sleep 0.1 &) ; done")
    deadline = time.monotonic() + 20
    while said(lab, "m1", "ps -e -o comm=").split().count("sleep") > 1:  # the one that number 1 keeps
        assert time.monotonic() < deadline


def test_mounts_of_the_machine_are_left_behind(lab: Lab) -> None:
    targets = said(lab, "m1", "cut -d' ' -f5 /proc/self/mountinfo").splitlines()
    assert not [target for target in targets if target.startswith(("/run/", "/mnt", "/sys/fs/cgroup/unified"))]
    assert "shared:" in said(lab, "m1", "grep ' / / ' /proc/self/mountinfo")
