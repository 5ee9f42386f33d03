"""A master that is not as it should be: full, slow in its clock, of another version, without tools, switched off.

Each case says what failed, on which machine and what to do, with its exit code; and afterwards the old cluster serves,
or the same command again finishes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bbr.errors import PreconditionFailed
from bbr.etcd import write
from bbr.servers.etcd import start_etcd
from restore.steps.members import MakeMembers, StartEtcd
from tests.bad_input.restore_cluster.broken import (
    KEPT,
    MASTER,
    begun,
    check_serves,
    checked,
    hosts_inventory,
    refused_plan,
    shim,
    small_disk,
    the_lab,
)
from tests.conftest import QUICK, program
from tests.restore.cluster.site import TARGET, Site, opened_site

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

INVENTORY = "inventory.yaml"
HOME = "/var/lib/bbr"
DATA = "/var/lib/etcd"
LEFT_BYTES = 10_000_000
"""An etcd that ends gives back the 64 MB of its next WAL file; with these it is still too little for a member."""
WAIT_S = 120.0
SERVE_S = 90.0
PLAIN_PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

CLOCK = """\
#!/bin/sh
exec /root/real/date -d '{minutes:+d} minutes' "$@"
"""
OLD_TOOL = """\
#!/bin/sh
printf 'etcdutl version: 3.5.9\\nAPI version: 3.5\\n'
"""
FAILING_TOOL = """\
#!/bin/sh
[ "$1" != version ] || exec /root/real/etcdutl version
while [ "$#" -gt 0 ] && [ "$1" != --data-dir ]; do shift; done
mkdir -p "$2/member/snap" "$2/member/wal"
head -c 100000 /dev/zero >"$2/member/snap/db"
echo 'Error: the disk said no' >&2
exit 1
"""
HANGING_TOOL = """\
#!/bin/sh
[ "$1" != version ] || {on_version}
while [ "$#" -gt 0 ] && [ "$1" != --data-dir ]; do shift; done
mkdir -p "$2/member/snap"
head -c 100000 /dev/zero >"$2/member/snap/db"
: >/root/hangs
exec sleep 120
"""
ASK_VERSION = "exec /root/real/etcdutl version"
HANG = "{ : >/root/hangs; exec sleep 50; }"

# etcd on a file system of its own, as on many masters.
MOVE_DATA = """\
set -e
systemctl stop kubelet
pkill -KILL -x kube-apiserver || :
pkill -x etcd
while pgrep -x etcd >/dev/null || pgrep -x kube-apiserver >/dev/null; do sleep 0.1; done
{}
systemctl start kubelet
"""
COPY = f"rm -rf /root/data && cp -a {DATA} /root/data"
TO_DISK = MOVE_DATA.format(
    f"{COPY} && mount -t tmpfs -o size=500m,mode=700 tmpfs {DATA} && cp -a /root/data/member {DATA}/"
)
FROM_DISK = MOVE_DATA.format(f"{COPY} && umount {DATA} && rm -rf {DATA}/member && cp -a /root/data/member {DATA}/")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One master, backed up."""
    with opened_site(tmp_path_factory.mktemp("machines"), masters=(MASTER,)) as made:
        made.kubectl(MASTER, "create", "namespace", KEPT)
        made.back_up()
        yield made


def failed_apply(site: Site, plan: Path) -> tuple[int, str]:
    """An apply that fails in the middle: its exit code and its words, the master's name among them."""
    done = site.apply(plan, check=False)
    assert done.returncode != 0, done.stdout
    assert MASTER in done.stderr
    assert "hint:" in done.stderr, done.stderr
    return done.returncode, done.stderr


def undone(site: Site, plan: Path) -> None:
    """Taken back: the old cluster serves, and the machine is free for other plans."""
    site.undo(plan)
    wait_serves(site)
    assert site.on(MASTER, f"ls {HOME}/restore.holder 2>/dev/null || :") == ""


def finished(site: Site, plan: Path) -> None:
    """The same command again comes to the end, and what it left behind goes."""
    site.apply(plan)
    wait_serves(site)
    site.bbr("restore", "clean", plan, "--confirm", TARGET)


def wait_until(is_so: Callable[[], bool], what: str, limit_s: float = WAIT_S) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def wait_serves(site: Site) -> None:
    """Until the cluster works; programs that were started again need a moment."""

    def serves() -> bool:
        try:
            check_serves(site)
        except PreconditionFailed:
            return False
        return True

    wait_until(serves, "the cluster serves", SERVE_S)


def dying_apply(site: Site, plan: Path, is_moment: Callable[[], bool]) -> CompletedProcess[str]:
    """An apply whose machine is switched off at a moment, in the middle of what it does there."""
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(site.apply, plan, check=False)
        try:
            wait_until(lambda: is_moment() or running.done(), "the moment to switch it off")
        finally:
            the_lab(site).power_off(MASTER)
        done = running.result()
    assert done.returncode != 0, done.stdout
    assert MASTER in done.stderr
    return done


def fill(path: str, left_bytes: int) -> str:
    """The command that leaves so many bytes on a file system."""
    return f"fallocate -l $(($(stat -f -c '%a * %S' {path}) - {left_bytes})) {path}/filler"


def has_begun(site: Site, plan: Path, step: str) -> bool:
    try:
        return step in begun(site, plan)
    except ValueError:  # its last line is being written
        return False


def hangs(site: Site) -> bool:
    return site.on(MASTER, "ls /root/hangs 2>/dev/null || :", check=False) != ""


def test_full_disk_is_told_by_the_plan(site: Site) -> None:
    with small_disk(site, HOME, 20):
        code, said = refused_plan(site, INVENTORY)
    assert code == 5
    assert f"{MASTER}: 21 MB are free for {HOME}, " in said
    assert "make room there" in said
    check_serves(site)


def test_disk_that_fills_before_the_upload_is_exit_5_and_undone(site: Site) -> None:
    with small_disk(site, HOME, 200):
        plan = site.plan("in-place")
        site.on(MASTER, fill(HOME, 100_000))
        code, said = failed_apply(site, plan)
        assert code == 5
        assert "make room on the machine" in said
        assert begun(site, plan)[-1] == "upload"
        check_serves(site)
        undone(site, plan)
        assert site.on(MASTER, f"find {HOME} -name 'snapshot.db*' -o -name '.bbr-*'") == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_disk_of_etcd_that_is_full_at_the_plan_or_at_apply_is_exit_5_and_undone(site: Site) -> None:
    site.on(MASTER, TO_DISK)
    try:
        wait_serves(site)
        site.on(MASTER, fill(DATA, LEFT_BYTES))
        code, said = refused_plan(site, INVENTORY)
        assert code == 5
        assert re.search(f"{MASTER}: [0-9]+ MB are free for {DATA}, ", said)
        site.on(MASTER, f"rm {DATA}/filler")
        plan = site.plan("in-place")
        site.on(MASTER, fill(DATA, LEFT_BYTES))
        code, said = failed_apply(site, plan)
        assert code == 5
        assert f"{DATA} has " in said
        assert "make room on the machine" in said
        assert begun(site, plan)[-1] == "make-members"
        undone(site, plan)
        assert site.on(MASTER, f"ls -A {DATA}").split() == ["filler", "member"]
    finally:
        site.on(MASTER, FROM_DISK)
        wait_serves(site)


@pytest.mark.parametrize(("minutes", "way"), [(10, "ahead of"), (-10, "behind")])
def test_clock_that_is_off_is_told_by_plan_and_check(site: Site, minutes: int, way: str) -> None:
    with shim(site, "date", CLOCK.format(minutes=minutes)):
        code, said = refused_plan(site, INVENTORY)
        told = checked(site, hosts_inventory(site))
    assert code == 5
    for words in (said, told):
        assert any(f"its clock is {seconds} s {way} this host's" in words for seconds in (599, 600, 601)), words
    assert f"{MASTER}: its clock" in said


@pytest.mark.parametrize(
    ("manifest", "version", "words"),
    [
        ("etcd", "3.5.21-0", "its etcd is 3.5.21, the backup was taken of 3.6."),
        ("kube-apiserver", "v1.36.4", "its Kubernetes is 1.36.4, the backup is of 1.37."),
    ],
)
def test_another_minor_version_is_exit_5(site: Site, manifest: str, version: str, words: str) -> None:
    path = f"/etc/kubernetes/manifests/{manifest}.yaml"
    # The kubelet is stopped so that it does not start what is only looked at.
    site.on(MASTER, f"systemctl stop kubelet; cp -a {path} /root/; sed -Ei 's|(image: .*:).*|\\1{version}|' {path}")
    try:
        code, said = refused_plan(site, INVENTORY)
    finally:
        site.on(MASTER, f"mv /root/{manifest}.yaml {path}; systemctl start kubelet")
    assert code == 5
    assert f"{MASTER}: {words}" in said
    assert "install that minor version" in said
    check_serves(site)


def test_etcdutl_that_is_too_old_is_exit_5_before_anything_is_stopped(site: Site, tmp_path: Path) -> None:
    environ = {"PATH": PLAIN_PATH, "XDG_CACHE_HOME": str(tmp_path / "nothing"), "KUBEBUILDER_ASSETS": ""}
    (tmp_path / "bin").mkdir()
    plan = site.plan("in-place", "--no-rehearsal")
    words = ("restore", "apply", plan, "--identity", "bbr-keys/recovery-1.txt", "--confirm", TARGET)
    with shim(site, "etcdutl", OLD_TOOL):
        done = site.bbr(*words, "--bin-dir", tmp_path / "bin", check=False, environ=environ)
    assert done.returncode == 5
    said = done.stderr
    assert f"{MASTER} ({site.lab.host(MASTER).address}): there is no etcdutl 3.6: " in said
    for place in (
        "/usr/local/bin/etcdutl: it is 3.5.9",
        "no ctr (containerd)",
        "copied from where the live etcd",
        "none on this host",
    ):
        assert place in said
    assert "install etcdutl 3.6" in said
    assert begun(site, plan)[-1] == "upload"
    check_serves(site)
    undone(site, plan)


def test_snapshot_of_a_newer_etcd_is_exit_5(site: Site, search: tuple[Path, ...], tmp_path: Path) -> None:
    newer = program("etcd", search, "3.7.3")
    where = ("--config", tmp_path / "bbr.yaml", "--repo", tmp_path / "repository", "--state-dir", tmp_path / "state")
    (tmp_path / "bbr.yaml").write_text("{}")
    site.bbr("init", *where, "--keys-dir", tmp_path / "keys", "--writer", "newer")
    (key,) = (tmp_path / "keys").glob("writer-*.key")
    with start_etcd(newer, tmp_path / "etcd", flags=QUICK) as servers:
        with servers.client() as client:
            write.put(client, b"/registry/configmaps/default/one", b"x")
        site.bbr("backup", *where, "--cluster", "newer", "--endpoints", servers.endpoints[0], "--writer-key", key)
    identity = ("--identity", tmp_path / "keys" / "recovery-1.txt")
    code, said = refused_plan(site, INVENTORY, *where, kind="etcd-only", identity=identity)
    assert code == 5
    assert f"{MASTER}: its etcd is 3.6.16, the backup was taken of 3.7.3: install that minor version" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_etcdutl_that_fails_and_leaves_files_puts_nothing_in_place(site: Site) -> None:
    plan = site.plan("in-place", "--no-rehearsal", "--no-backup")
    with shim(site, "etcdutl", FAILING_TOOL):
        code, said = failed_apply(site, plan)
    assert code == 1
    assert f"{MASTER} ({site.lab.host(MASTER).address}): etcdutl snapshot restore: the disk said no" in said
    assert "nothing was put in place" in said
    assert begun(site, plan)[-1] == MakeMembers.name
    left = site.on(MASTER, f"ls -A {DATA}").split()
    assert "member" not in left
    assert not [name for name in left if name.endswith("-new")]
    finished(site, plan)


def test_host_that_is_off_is_told_by_plan_check_and_apply(site: Site) -> None:
    plan = site.plan("in-place")
    the_lab(site).power_off(MASTER)
    try:
        code, said = refused_plan(site, INVENTORY)
        assert code == 5
        assert f"{MASTER} ({site.lab.host(MASTER).address}) is off" in said
        assert "switch it on" in said
        code, said = refused_plan(site, hosts_inventory(site))
        assert code == 5
        assert f"{MASTER} ({site.lab.host(MASTER).address}) cannot be reached" in said
        assert "cannot be reached" in checked(site, hosts_inventory(site))
        code, said = failed_apply(site, plan)
        assert code == 1
        assert "cannot be reached" in said
        assert begun(site, plan) == []
    finally:
        the_lab(site).power_on(MASTER)
    wait_serves(site)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_host_that_dies_while_its_member_is_made_is_undone(site: Site) -> None:
    plan = site.plan("in-place", "--no-rehearsal")
    site.on(MASTER, "rm -f /root/hangs")
    with shim(site, "etcdutl", HANGING_TOOL.format(on_version=ASK_VERSION)):
        done = dying_apply(site, plan, lambda: hangs(site))
        the_lab(site).power_on(MASTER)
    assert done.returncode == 1
    assert "connection was lost" in done.stderr or "cannot be reached" in done.stderr
    left = site.on(MASTER, f"ls -A {DATA}").split()
    assert "member" not in left
    assert any(name.endswith("-new") for name in left)
    undone(site, plan)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_host_that_dies_in_one_step_after_the_other_is_restored_in_the_end(site: Site) -> None:
    plan = site.plan("in-place", "--no-rehearsal", "--no-backup")
    for on_version in (HANG, ASK_VERSION):  # in the upload, and in the making of the member
        site.on(MASTER, "rm -f /root/hangs")
        with shim(site, "etcdutl", HANGING_TOOL.format(on_version=on_version)):
            done = dying_apply(site, plan, lambda: hangs(site))
            the_lab(site).power_on(MASTER)
        assert done.returncode == 1, done.stderr
    assert begun(site, plan)[-1] == MakeMembers.name
    for step in (StartEtcd.name, "start-recovery"):
        done = dying_apply(site, plan, lambda step=step: has_begun(site, plan, step))  # type: ignore[misc]
        the_lab(site).power_on(MASTER)
        assert done.returncode == 1, done.stderr
    finished(site, plan)
