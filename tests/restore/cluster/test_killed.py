"""kill -9 at every boundary of every step, inside of it, and at random: the same command again finishes.

One restore of each kind is killed some seventy times, and goes on each time; what must hold after a restore that nobody
disturbed must hold after this one.
"""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from tests.restore.cluster.killed_run import Point, killed
from tests.restore.cluster.site import IDENTITY, TARGET, Site, opened_site, settled
from tests.restore.cluster.test_kinds import MEANT, check, fill

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(3000),
]

POINTS = ("begun", "inside", "acted", "done")
LEFT = "ls -A /etc/kubernetes/manifests; find /var/lib/bbr/runs -name 'snapshot.db*' -o -name '.bbr-*' | head"
IN_SERVICE = ["etcd.yaml", "kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"]


def test_a_rebuild_on_a_new_machine_that_is_killed_everywhere_ends_as_any_other(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        site.kubectl("m1", "create", "namespace", "after")
        plan = site.plan("fresh", "--make", "n1")
        kill_everywhere(site, plan)
        check(site, "n1", before)
        check_clean(site, plan, "n1")


def test_a_restore_in_place_that_is_killed_everywhere_ends_as_any_other(tmp_path: Path) -> None:
    with opened_site(tmp_path, masters=("m1", "m2", "m3"), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        site.kubectl("m1", "delete", "namespace", "before")
        plan = site.plan("in-place")
        kill_everywhere(site, plan)
        check(site, "m1", before)
        check_clean(site, plan, "m1", "m2", "m3")


def test_restores_that_are_killed_at_random_end_as_any_other(tmp_path: Path) -> None:
    rng = random.Random(20261124)
    with opened_site(tmp_path, masters=("m1",), workers=("w1",)) as site:
        fill(site, "m1")
        before = settled(site, "m1", *MEANT)
        site.back_up()
        plan = site.plan("in-place")
        for _ in range(8):
            point = Point("time", delay_ms=rng.randrange(500, 9000))
            done = killed(site, point, *apply_words(plan))
            assert done.returncode in (0, -signal.SIGKILL), f"{point}\n{done.stdout}\n{done.stderr}"
            if done.returncode == 0:
                break
        site.apply(plan)
        check(site, "m1", before)
        check_clean(site, plan, "m1")


def kill_everywhere(site: Site, plan: Path) -> None:
    """Apply a plan, killed before its first step and at every point of each; then let it finish."""
    for delay_ms in (0, 20):
        assert killed(site, Point("fetch", delay_ms=delay_ms), *apply_words(plan)).returncode == -signal.SIGKILL
        assert site.journal(plan) == []
    for step in step_names(plan):
        for number, at in enumerate(POINTS):
            if at != "begun" and (last_word(site, plan)["event"], last_word(site, plan)["step"]) in ended(step):
                break  # there was nothing to do, or what was begun on the machine went on without us
            killed_at(site, plan, Point(at, step, nth=1 + number % 2))
    site.apply(plan)
    assert site.journal(plan)[-1]["event"] == "finished"


def killed_at(site: Site, plan: Path, point: Point) -> None:
    """Kill an apply at a point, and see that it was there."""
    done = killed(site, point, *apply_words(plan))
    assert done.returncode == -signal.SIGKILL, f"{point}\n{done.stdout}\n{done.stderr}"
    entry = last_word(site, plan)
    if (entry["event"], entry["step"]) in ended(point.step):
        assert point.at == "done" or (entry["event"] == "found" and point.at != "acted"), point
    elif point.at != "acted":  # what is found, with nothing left to do, begins nothing
        assert (entry["event"], entry["step"]) == ("begun", point.step), point


def ended(step: str) -> tuple[tuple[str, str], ...]:
    """What the journal says of a step that is over."""
    return (("done", step), ("found", step))


def apply_words(plan: Path) -> tuple[str | Path, ...]:
    """What a person types, again and again."""
    return ("restore", "apply", plan, *IDENTITY, "--confirm", TARGET)


def step_names(plan: Path) -> list[str]:
    """The plan's steps."""
    return [one["name"] for one in json.loads(plan.read_text())["plan"]["steps"]]


def last_word(site: Site, plan: Path) -> dict[str, object]:
    """Where the journal stands: the last entry that is no remark of a step's."""
    return [entry for entry in site.journal(plan) if entry["event"] not in ("noted", "warned")][-1]


def check_clean(site: Site, plan: Path, *masters: str) -> None:
    """What runs is what shall run; nothing of what was uploaded is left, here or there; and it is done for good."""
    for master in masters:
        assert site.on(master, LEFT).split() == IN_SERVICE
    run = json.loads(plan.read_text())["plan"]["run"]
    assert not list((site.folder / "state" / "restores" / run).rglob("snapshot.db"))
    lines = len(site.journal(plan))
    site.apply(plan)
    assert {entry["event"] for entry in site.journal(plan)[lines:]} <= {"apply", "begun", "done"}
