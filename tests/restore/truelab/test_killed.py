"""SIGKILL of bbr at six points of a rebuild in the true lab: the same command again finishes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.restore.truelab.rebuilt import apply_words, backed_up, check
from tests.restore.truelab.stopping import Point, killed_at

POINTS = (
    Point("begun", "upload", 0.1),
    Point("done", "files"),
    Point("begun", "make-members", 0.3),
    Point("begun", "start-etcd", 1.5),
    Point("begun", "start-recovery", 2.0),
    Point("begun", "start-api-servers", 1.0),
)


@pytest.mark.truelab
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")
def test_the_same_command_finishes_what_was_killed_at_six_points(tmp_path: Path) -> None:
    with backed_up(tmp_path, ("m1",), objects=2_000) as before:
        before.site.lab.power_off("m1")
        plan = before.site.plan("fresh", "--make", "n1")
        for point in POINTS:
            killed_at(before.site, point, *apply_words(plan))
        before.site.apply(plan)
        check(before, plan, ("n1",))
        started = [entry for entry in before.site.journal(plan) if entry["event"] == "apply"]
        assert len(started) == len(POINTS) + 1
