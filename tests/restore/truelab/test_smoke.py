"""One rebuild with real containers in every run of the suite: a lost master comes back on a new machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.restore.truelab.rebuilt import backed_up, check, restore

FEW = 500


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")
def test_a_lost_master_comes_back_on_a_new_machine_with_all_that_ran(tmp_path: Path) -> None:
    with backed_up(tmp_path, ("m1",), objects=FEW) as before:
        before.site.lab.power_off("m1")
        plan = before.site.plan("fresh", "--make", "n1")
        restore(before, plan)
        check(before, plan, ("n1",))
