"""The life of a lab: up, changed, down without a trace, swept when its run was killed, kept when that is wanted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bbr.errors import PreconditionFailed, ToolMissing
from bbr.lab import network, programs, remains
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from tests.lab.conftest import said, ssh, traces

UP_LIMIT_S = 30
DEADLINE_S = 20


def python(code: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Another run of bbr. Its output is a pipe."""
    line = [*before, sys.executable, "-W", "error", "-c", code, *arguments]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)


UP_AND_WAIT = """
import sys
from pathlib import Path
from bbr.lab.lab import HostSpec, Lab
lab = Lab.up([HostSpec("m1"), HostSpec("m2")], base=Path(sys.argv[1]), name=sys.argv[2])
print("up", flush=True)
sys.stdin.read()
"""


def killed_run(base: Path, name: str) -> None:
    """A run that is killed while its lab is up."""
    with python(UP_AND_WAIT, str(base), name) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        run.send_signal(signal.SIGKILL)


def test_three_hosts_come_up_in_seconds_and_nothing_is_left_of_them(base: Path) -> None:
    began = time.monotonic()
    with Lab.up([HostSpec(name) for name in ("m1", "m2", "m3")], base=base) as lab:
        took = time.monotonic() - began
        assert [one.first_process is not None for one in lab.status()] == [True, True, True]
        said(lab, "m1", "nohup sh -c 'sleep 600 & sleep 600' >/dev/null 2>&1 & mkdir -p /sys/fs/cgroup/pids/a/b")
        assert traces(lab.name, base) != []
    assert traces(lab.name, base) == []
    assert took < UP_LIMIT_S
    lab.down()  # once more does no harm


def test_pod_in_namespaces_of_its_own_ends_with_its_host(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        said(lab, "m1", "setsid unshare --net --pid --mount --fork sh -c 'exec -a pod sleep 600' >/dev/null 2>&1 &")
    assert traces(lab.name, base) == []


def test_umask_of_the_user_is_not_that_of_the_hosts(base: Path) -> None:
    before = os.umask(0o077)
    try:
        with Lab.up([HostSpec("m1")], base=base) as lab:
            assert said(lab, "m1", "stat -c %a / /etc /run/lock /etc/hosts; touch /x; stat -c %a /x").split() == [
                *["755"] * 3,
                *["644"] * 2,
            ]
    finally:
        os.umask(before)


def test_lab_of_a_killed_run_is_swept_by_the_next(base: Path) -> None:
    killed_run(base, "killed")
    assert traces("killed", base) != []
    with Lab.up([], base=base, name="next"):
        assert [one.name for one in remains.labels(base)] == ["next"]
        assert [trace for trace in traces("killed", base) if not trace.endswith("/next")] == []


MOMENTS = ("label.json", "known_hosts", "/run/netns/bbr-lab-early", "/run/netns/bbr-lab-early-m1", "hosts/m2/root")


@pytest.mark.parametrize("moment", MOMENTS)
def test_run_that_is_killed_while_it_builds_leaves_nothing_that_is_not_swept(base: Path, moment: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    with python(UP_AND_WAIT, str(base), "early") as run:
        while not (base / "early" / moment).exists():
            assert run.poll() is None
            assert time.monotonic() < deadline, f"no {moment}"
        run.send_signal(signal.SIGKILL)
    # A program that it had started may still be at work, and holds the lock until it is done.
    while remains.labels(base):
        assert time.monotonic() < deadline, traces("early", base)
        remains.sweep(base)
    assert traces("early", base) == []


def test_lab_of_a_living_run_is_left_alone(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        assert remains.sweep(base) == []
        assert said(lab, "m1", "hostname") == "m1"
    assert remains.sweep(base) == []


def test_folder_of_a_run_that_was_killed_before_the_label_is_swept_and_others_stay(base: Path) -> None:
    (base / "early").mkdir(parents=True)
    (base / "early" / "lock").touch()
    (base / "early" / "label.json.17.writing").touch()
    (base / "foreign").mkdir()
    (base / "foreign" / "thesis.txt").touch()
    assert remains.sweep(base) == []
    assert [path.name for path in base.iterdir() if path.is_dir()] == ["foreign"]
    assert (base / "foreign" / "thesis.txt").exists()


def test_two_labs_at_once_have_the_same_addresses_and_do_not_meet(base: Path, tmp_path: Path) -> None:
    with (
        Lab.up([HostSpec("m1")], base=base) as one,
        Lab.up([HostSpec("m1"), HostSpec("m2")], base=tmp_path / "others") as other,
    ):
        assert one.host("m1").address == other.host("m1").address
        said(one, "m1", "echo one >/root/which")
        said(other, "m1", "echo other >/root/which")
        assert (said(one, "m1", "cat /root/which"), said(other, "m1", "cat /root/which")) == ("one", "other")
        done = ssh(one, "m1", f"timeout 10 bash -c 'exec 3<>/dev/tcp/{other.host('m2').address}/22'")
        assert done.returncode == 1
        assert "No route to host" in done.stderr
        one.down()
        assert said(other, "m2", "hostname") == "m2"


def test_host_keeps_its_disk_and_key_over_a_power_cut(base: Path) -> None:
    with Lab.up([HostSpec("m1"), HostSpec("m2")], base=base) as lab:
        said(lab, "m1", "echo kept >/etc/kept; echo kept >/var/lib/kubelet/kept; sync; echo gone >/run/gone")
        lab.power_off("m1")
        lab.power_off("m1")
        assert [one.first_process is None for one in lab.status()] == [True, False]
        assert ssh(lab, "m1", "true").returncode == 255
        lab.power_on("m1")
        assert said(lab, "m1", "cat /etc/kept /var/lib/kubelet/kept; ls -A /run/gone 2>/dev/null || :") == "kept\nkept"
        with pytest.raises(PreconditionFailed, match="m1 is on"):
            lab.power_on("m1")


def test_hosts_come_and_go_and_the_others_know(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        said(lab, "m1", "echo '10.20.30.99 api.example' >>/etc/hosts")
        lab.add(HostSpec("fresh", address="10.20.30.77"))
        assert said(lab, "m1", "getent hosts fresh").split() == ["10.20.30.77", "fresh"]
        assert said(lab, "fresh", "getent hosts m1").split() == ["10.20.30.11", "m1"]
        lab.remove("fresh")
        lab.remove("fresh")
        assert ssh(lab, "m1", "getent hosts fresh").returncode == 2
        assert said(lab, "m1", "getent hosts api.example").split() == ["10.20.30.99", "api.example"]
        assert [one.name for one in lab.hosts] == ["m1"]
        assert not (lab.folder / "hosts" / "fresh").exists()


def test_kept_lab_outlives_its_run_and_is_taken_down_by_another(base: Path) -> None:
    code = UP_AND_WAIT.replace("name=sys.argv[2]", "name=sys.argv[2], is_kept=True").replace("sys.stdin.read()", "")
    with python(code, str(base), "kept") as run:
        assert run.communicate(timeout=60)[0] == "up\n"
    assert remains.sweep(base) == []
    lab = Lab.open("kept", base=base)
    assert said(lab, "m2", "hostname") == "m2"
    lab.down()
    assert traces("kept", base) == []


def test_host_that_does_not_start_is_an_error_with_its_console_and_nothing_is_left(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PreconditionFailed, match=r"host m1 did not start; its console:\n.*mount"):
        Lab.up([HostSpec("m1", lower=(tmp_path / "empty",))], base=base, name="broken")
    assert traces("broken", base) == []


def test_programs_of_the_machine_are_on_the_path_and_cannot_be_changed(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "greet").write_text("#!/bin/sh\necho hello\n")
    (folder / "greet").chmod(0o755)
    with Lab.up([HostSpec("m1", programs=(folder,))], base=base) as lab:
        assert said(lab, "m1", "greet") == "hello"
        assert "Read-only file system" in ssh(lab, "m1", "echo exit 1 >/opt/lab/1/greet").stderr
        lab.power_off("m1")
        lab.power_on("m1")
        assert said(lab, "m1", "greet") == "hello"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (HostSpec("M1"), "'M1' is no name for a host"),
        (HostSpec("../m1"), "is no name for a host"),
        (HostSpec("m1", address="192.168.1.1"), r"192\.168\.1\.1 is no address for a host in 10\.20\.30\.0/24"),
        (HostSpec("m1", address="10.20.30.1"), r"10\.20\.30\.1 is no address for a host"),
        (HostSpec("m1", lower=(Path("/a:b"),)), "'/a:b' is no absolute path"),
        (HostSpec("m1", volumes=("/var lib",)), "'/var lib' is no absolute path"),
        (HostSpec("m1", volumes=("/a/../../b",)), "is no absolute path"),
    ],
)
def test_wrong_host_is_refused_and_nothing_is_left(base: Path, spec: HostSpec, message: str) -> None:
    with pytest.raises(PreconditionFailed, match=message):
        Lab.up([spec], base=base, name="wrong")
    assert traces("wrong", base) == []


def test_second_host_of_a_name_is_refused_and_the_first_stays(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        with pytest.raises(PreconditionFailed, match="has a host m1"):
            lab.add(HostSpec("m1"))
        with pytest.raises(PreconditionFailed, match=r"at 10\.20\.30\.11"):
            lab.add(HostSpec("m2", address="10.20.30.11"))
        assert said(lab, "m1", "hostname") == "m1"


def test_host_that_cannot_be_added_takes_the_others_of_its_call_with_it(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with Lab.up([HostSpec("m1")], base=base) as lab:
        with pytest.raises(PreconditionFailed, match="host broken did not start"):
            lab.add(HostSpec("m2"), HostSpec("broken", lower=(tmp_path / "empty",)))
        assert [one.name for one in lab.hosts] == ["m1"]
        assert network.named_for(f"bbr-lab-{lab.name}") == [f"bbr-lab-{lab.name}", f"bbr-lab-{lab.name}-m1"]
        assert [path.name for path in (lab.folder / "hosts").iterdir()] == ["m1"]
        assert said(lab, "m1", "hostname; getent hosts m2 || :") == "m1"
        lab.add(HostSpec("m2"))
        assert said(lab, "m2", "hostname") == "m2"


def test_second_lab_of_a_name_is_refused_and_the_first_stays(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base, name="twice") as lab:
        with pytest.raises(PreconditionFailed, match="there is a lab twice"):
            Lab.up([HostSpec("m1")], base=base, name="twice")
        assert said(lab, "m1", "hostname") == "m1"


@pytest.mark.parametrize("name", ["", "a-b", "../x", "UP", "seventeenletters0"])
def test_wrong_name_is_refused(base: Path, name: str) -> None:
    with pytest.raises(PreconditionFailed, match="is no name for a lab"):
        Lab.up([], base=base, name=name or "-")


def test_unknown_lab_is_refused_with_the_known_ones(base: Path) -> None:
    with Lab.up([], base=base, name="known"), pytest.raises(PreconditionFailed, match="no lab other") as caught:
        Lab.open("other", base=base)
    assert caught.value.hint == "labs that are there: known"


def test_mount_below_a_lab_stops_its_removal(base: Path) -> None:
    with Lab.up([], base=base) as lab:
        (lab.folder / "hosts").mkdir()
        subprocess.run(["/bin/mount", "-t", "tmpfs", "tmpfs", lab.folder / "hosts"], check=True, timeout=20)
        try:
            (lab.folder / "hosts" / "precious").touch()
            with pytest.raises(PreconditionFailed, match="is mounted; nothing was removed"):
                lab.down()
            assert (lab.folder / "hosts" / "precious").exists()
        finally:
            subprocess.run(["/bin/umount", lab.folder / "hosts"], check=True, timeout=20)
    assert traces(lab.name, base) == []


def test_run_inside_of_a_lab_cannot_take_it_down(base: Path) -> None:
    code = "import sys, pathlib, bbr.lab.lab as l; l.Lab.open('outer', base=pathlib.Path(sys.argv[1])).down()"
    with Lab.up([HostSpec("m1")], base=base, name="outer") as lab:
        with python(code, str(base), before=tuple(lab.entering([]))) as run:
            assert "this process runs in bbr-lab-outer itself" in run.communicate(timeout=60)[0]
        assert run.returncode == 1
        assert said(lab, "m1", "hostname") == "m1"


def test_host_whose_network_is_gone_is_not_started_and_says_why(base: Path) -> None:
    with Lab.up([HostSpec("m1")], base=base) as lab:
        lab.power_off("m1")
        network.remove(f"bbr-lab-{lab.name}-m1")  # as after a restart of the machine
        with pytest.raises(PreconditionFailed, match=r"host m1 was not started; its console:\n(.*\n)*nsenter: "):
            lab.power_on("m1")


REFUSED = """
import os, sys
from pathlib import Path
from bbr.errors import PreconditionFailed
from bbr.lab.lab import Lab
if sys.argv[2]:
    os.setresuid(*[int(sys.argv[2])] * 3)
try:
    Lab.up([], base=Path(sys.argv[1]))
except PreconditionFailed as err:
    print(err, err.hint, sep="\\n")
    sys.exit(err.exit_code)
"""


def test_not_root_is_said_with_the_way_out(base: Path) -> None:
    with python(REFUSED, str(base), "65534") as run:
        text, _ = run.communicate(timeout=60)
    assert run.returncode == 5
    assert text == ("a lab needs root, to make network namespaces and mounts; this is user 65534\nrun it with sudo\n")
    assert not base.exists()


def test_root_without_rights_is_told_so(base: Path) -> None:
    with python(REFUSED, str(base), "", before=("setpriv", "--bounding-set", "-sys_admin")) as run:
        text, _ = run.communicate(timeout=60)
    assert run.returncode == 5
    assert "CAP_SYS_ADMIN" in text
    assert "privileged" in text


def test_missing_programs_are_named_with_their_packages(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ip", "mount", "nsenter", "pivot_root", "setsid", "unshare"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(programs, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="a lab needs sshd, and this machine has not got it") as caught:
        Lab.up([], base=base)
    assert caught.value.hint == "apt-get install openssh-server, or what your distribution calls it"
