"""Undo at every step before the point of no return, killed itself in every way: the old cluster serves as it did.

Old means what was there when the restore began, with everything that was made after the backup.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bbr.errors import PreconditionFailed
from bbr.lab.lab import Lab
from restore.iaas.lab import prepare
from tests.restore.cluster.killed_run import Point, killed, stopped
from tests.restore.cluster.site import IDENTITY, TARGET, Site, object_names, opened_site, settled
from tests.restore.cluster.test_killed import IN_SERVICE, apply_words, killed_at
from tests.restore.cluster.test_kinds import MEANT, check, fill

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(3000),
]

MASTERS = ("m1", "m2", "m3")
UNDO_POINTS = ("inside", "taken-back", "undone")
DRIFT, CHANGED, HELD = 5, 4, 11
SERVED_S = 60.0
LEFT_OVER = "pgrep -f 'bbr-recover[y]'; ls /var/lib/bbr/restore.holder 2>/dev/null"
FILES = "find /etc/kubernetes -type f -exec sha256sum {} + | sort"
TREE = (
    "find /etc/kubernetes /var/lib/kubelet /var/lib/etcd -name '.bbr-*' -prune -o ! -type d -printf '%p %y %m %u\\n' | "
    f"sort; {FILES}; systemctl is-active kubelet; pgrep -x 'etcd|kube-apiserver'"
)
"""What is on a machine before a restore. What runs put aside, and empty folders, are not looked at."""

_ETCDCTL = (
    "etcdctl --cacert /etc/kubernetes/pki/etcd/ca.crt --cert /etc/kubernetes/pki/etcd/healthcheck-client.crt "
    "--key /etc/kubernetes/pki/etcd/healthcheck-client.key member list -w json"
)


def test_an_undo_at_each_step_in_place_brings_back_what_was_there(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        site.back_up()
        site.kubectl("m1", "create", "namespace", "after")
        before, old = settled(site, "m1", *MEANT), identity_of(site, "m1")
        plan = site.plan("in-place")
        names = before_no_return(plan)
        for number, name in enumerate(names):
            kill_until(site, plan, name, at="inside" if number % 2 else "done")
            # One way of being killed for each: all ways come by turns.
            undone = begun_and_undoable(site, plan)
            if undone:
                kill_undo(site, plan, Point(UNDO_POINTS[number % 3], undone[number % len(undone)], nth=1 + number % 2))
            site.undo(plan)
            check_serves(site, before, old)
            refused = site.apply(plan, check=False)
            assert (refused.returncode, "was undone" in refused.stderr) == (DRIFT, True), refused.stderr
            plan = site.plan("in-place")
        site.apply(plan)
        assert "Namespace//after" not in object_names(site, "m1", "namespaces")


def test_an_undo_in_place_of_three_masters_that_is_killed_everywhere_is_finished_by_the_same_command(
    tmp_path: Path,
) -> None:
    with opened_site(tmp_path, masters=MASTERS, workers=("w1",)) as site:
        fill(site, "m1")
        site.back_up()
        site.kubectl("m1", "create", "namespace", "after")
        before, old = settled(site, "m1", *MEANT), identity_of(site, *MASTERS)
        plan = site.plan("in-place")
        kill_until(site, plan, before_no_return(plan)[-1], at="done")
        for name in begun_and_undoable(site, plan):
            for at in UNDO_POINTS:
                kill_undo(site, plan, Point(at, name, nth=2))
        site.undo(plan)
        check_serves(site, before, old)


def test_an_undo_of_a_rebuild_gives_back_the_new_machine_and_switches_the_old_one_on(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        backed_up = settled(site, "m1", *MEANT)
        site.back_up()
        site.kubectl("m1", "create", "namespace", "after")
        before, old = settled(site, "m1", *MEANT), identity_of(site, "m1")
        add_machine(site, "n1")
        plan = site.plan("fresh", "--to", "n1")
        empty = site.on("n1", TREE, check=False)
        for number, name in enumerate(before_no_return(plan)):
            # Each undo gives the machine back as it was, so the next one begins with what this one left.
            kill_until(site, plan, name, at="done" if number % 2 else "inside")
            assert "m1" in powered_off(site)
            undone = begun_and_undoable(site, plan)
            kill_undo(site, plan, Point(UNDO_POINTS[number % 3], undone[number % len(undone)], nth=1 + number % 2))
            site.undo(plan)
            assert powered_off(site) == set()
            assert site.on("n1", TREE, check=False) == empty
            check_serves(site, before, old)
            plan = plan_again(site, plan)
        site.apply(plan)
        check(site, "n1", backed_up)


def test_two_operators_with_one_plan_the_later_one_takes_over(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        plan = site.plan("in-place")
        shutil.copytree(site.folder / "state", site.folder / "laptop")
        # The first one is stopped in the middle, as by a hanging terminal; nothing of it may go on once it wakes.
        with stopped(site, "stop-control-plane", *apply_words(plan)) as first:
            second = site.apply(plan, check=False)
            assert (second.returncode, "on this host" in second.stderr) == (HELD, True), second.stderr
            other = site.apply(site.plan("in-place", name="other.json"), check=False)
            assert (other.returncode, "bbr restore undo" in other.stderr) == (HELD, True), other.stderr
            site.apply(plan, "--state-dir", "laptop")
            first.send_signal(signal.SIGCONT)
            _, said = first.communicate(timeout=120)
        assert (first.returncode, "took this machine over" in said) == (HELD, True), said
        check(site, "m1", before)
        # What the other one did is known here now: no undo, and nothing is done twice.
        late = site.bbr("restore", "undo", plan, "--confirm", TARGET, check=False)
        assert (late.returncode, "point of no return" in late.stderr) == (DRIFT, True), late.stderr
        check(site, "m1", before)


def test_a_run_goes_on_from_a_host_that_knows_nothing_of_it(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        old = identity_of(site, "m1")
        for name in ("laptop", "desk", "phone"):
            shutil.copytree(site.folder / "state", site.folder / name)
        plan = site.plan("in-place")
        journal = f"/var/lib/bbr/runs/{run_of(plan)}/journal.jsonl"
        kill_until(site, plan, "make-members", at="inside")
        site.on("m1", f"cp {journal} /root/journal")
        for wrong in ("echo nothing >", "sed -i s/make-members/make-money/", "fallocate -l 3M"):
            site.on("m1", f"{wrong} {journal} && cp {journal} /root/wrong")
            done = site.apply(plan, "--state-dir", "phone", check=False)
            assert (done.returncode, "/var/lib/bbr/runs" in done.stderr) == (CHANGED, True), done.stderr
            assert site.on("m1", f"cmp {journal} /root/wrong && cp /root/journal {journal}") == ""
        # Taken back from one host; what it put back is known at the next one.
        back = site.bbr("restore", "undo", plan, "--confirm", TARGET, "--state-dir", "laptop")
        assert "came from its machines" in back.stderr
        check_serves(site, before, old)
        refused = site.apply(plan, "--state-dir", "desk", check=False)
        assert (refused.returncode, "was undone" in refused.stderr) == (DRIFT, True), refused.stderr
        # And finished from another one.
        plan = site.plan("in-place")
        kill_until(site, plan, "start-etcd", at="done")
        site.apply(plan, "--state-dir", "desk")
        check(site, "m1", before)
        assert not (site.folder / "desk" / "restores" / run_of(plan) / "safety.db").exists()


def test_what_changed_since_the_plan_was_made_stops_it_before_anything_is_done(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",)) as site:
        fill(site, "m1")
        site.back_up()
        plan = site.plan("in-place")
        manifest, signers = "/etc/kubernetes/manifests/kube-scheduler.yaml", "/etc/kubernetes/pki/sa.pub"
        changes = (
            (f"cp {manifest} /root/kept; sed -i s/leader-elect=true/leader-elect=false/", manifest),
            (f"cp {signers} /root/kept; openssl genrsa 2048 2>/dev/null | openssl rsa -pubout -out", signers),
        )
        for change, path in changes:
            site.on("m1", f"{change} {path} 2>/dev/null; ! cmp -s {path} /root/kept")
            check_refused(site, plan)
            site.on("m1", f"cp /root/kept {path}")
        # A file that a copy took the place of is another one: whoever put it there may have put other data there.
        data = "/var/lib/etcd"
        site.on("m1", f"mv {data}/member {data}/moved && cp -a {data}/moved {data}/member")
        check_refused(site, plan)
        site.on("m1", f"mv {data}/member {data}/copied && mv {data}/moved {data}/member && rm -r {data}/copied")
        with opened_site(tmp_path / "other", masters=("o1",)) as other:
            words = ("--kind", "in-place", "--inventory", other.folder / "inventory.yaml", *IDENTITY, "--out", "x.json")
            done = site.bbr("restore", "plan", "latest", *words, check=False)
            assert (done.returncode, "another cluster" in done.stderr) == (DRIFT, True), done.stderr
            inventory = site.folder / "inventory.yaml"
            kept = inventory.read_bytes()
            inventory.write_bytes((other.folder / "inventory.yaml").read_bytes())
            done = site.apply(plan, check=False)
            assert (done.returncode, "was changed since" in done.stderr) == (DRIFT, True), done.stderr
            inventory.write_bytes(kept)
        edited = site.folder / "edited.json"
        edited.write_text(plan.read_text().replace('"is_rehearsed": true', '"is_rehearsed": false'))
        done = site.apply(edited, check=False)
        assert (done.returncode, "changed after it was written" in done.stderr) == (CHANGED, True), done.stderr
        assert site.journal(plan) == []
        site.apply(plan)


def check_refused(site: Site, plan: Path) -> None:
    """Nothing was done, and nobody holds the machine."""
    done = site.apply(plan, check=False)
    assert (done.returncode, "somebody worked on m1" in done.stderr) == (DRIFT, True), done.stderr
    assert site.journal(plan) == []
    assert site.on("m1", "ls /var/lib/bbr/restore.holder /var/lib/bbr/runs 2>/dev/null", check=False) == ""


def kill_until(site: Site, plan: Path, step: str, *, at: str) -> None:
    """Apply a plan up to a step, and no further."""
    killed_at(site, plan, Point(at, step))


def kill_undo(site: Site, plan: Path, point: Point) -> None:
    """Kill an undo at a point."""
    done = killed(site, point, "restore", "undo", plan, "--confirm", TARGET)
    assert done.returncode == -signal.SIGKILL, f"{point}\n{done.stdout}\n{done.stderr}"
    events = [(one["event"], one["step"]) for one in site.journal(plan)]
    assert ("undoing", "") in events
    assert events[-1] == ("undone", point.step) or point.at != "undone", point


def before_no_return(plan: Path) -> list[str]:
    """The steps that can be undone."""
    steps = json.loads(plan.read_text())["plan"]["steps"]
    return [one["name"] for one in steps][: [one["is_point_of_no_return"] for one in steps].index(True)]


def begun_and_undoable(site: Site, plan: Path) -> list[str]:
    """What an undo takes back, in its order."""
    begun = {entry["step"] for entry in site.journal(plan) if entry["event"] in ("begun", "done", "found")}
    steps = json.loads(plan.read_text())["plan"]["steps"]
    return [one["name"] for one in reversed(steps) if one["name"] in begun and one["undo"]]


def run_of(plan: Path) -> str:
    """The run's name."""
    return str(json.loads(plan.read_text())["plan"]["run"])


def identity_of(site: Site, *masters: str) -> dict[str, list[object]]:
    """Of each master: which etcd it is by the ids of cluster and members, and the files of its control plane."""
    found: dict[str, list[object]] = {}
    for master in masters:
        etcd = json.loads(site.on(master, _ETCDCTL))
        members = sorted(one["ID"] for one in etcd["members"])
        found[master] = [etcd["header"]["cluster_id"], members, site.on(master, FILES)]
    return found


def check_serves(site: Site, before: set[str], masters: dict[str, list[object]]) -> None:
    """The cluster is the one that it was, with all that was in it, and nothing of the restore is in service."""
    deadline = time.monotonic() + SERVED_S
    while (names := names_once_served(site, next(iter(masters)))) != before:
        assert time.monotonic() < deadline, names ^ before
        time.sleep(0.5)
    assert identity_of(site, *masters) == masters
    for master in masters:
        assert site.kubectl(master, "get", "--raw", "/readyz") == "ok"
        assert site.on(master, "ls -A /etc/kubernetes/manifests").split() == IN_SERVICE
        assert site.on(master, LEFT_OVER, check=False) == ""


def names_once_served(site: Site, master: str) -> set[str]:
    """The objects that are there; none while a master that was just switched on does not serve yet."""
    try:
        return object_names(site, master, *MEANT)
    except PreconditionFailed:
        return set()


def powered_off(site: Site) -> set[str]:
    """The hosts of the lab that are off."""
    lab = Lab.open(site.lab.name, base=site.lab.folder.parent)
    return {one.host.name for one in lab.status() if one.first_process is None}


def add_machine(site: Site, name: str) -> None:
    """A machine that is nobody's, ready to become a node."""
    lab = Lab.open(site.lab.name, base=site.lab.folder.parent)
    lab.add(replace(lab.hosts[0].spec, name=name, address=""))
    prepare(lab, "fast", [name])


def plan_again(site: Site, plan: Path) -> Path:
    """Another plan for the same new machine, once the first one's mark is off it."""
    site.bbr("iaas", "sweep", "inventory.yaml", "--run", run_of(plan), "--yes")
    return site.plan("fresh", "--to", "n1")
