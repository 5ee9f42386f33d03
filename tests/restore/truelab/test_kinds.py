"""Each kind of restore in the true lab: kubeadm's cluster with containers and 20,000 objects, rebuilt over SSH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.restore.truelab.rebuilt import backed_up, check, restore

pytestmark = [
    pytest.mark.truelab,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
]

ONE, THREE = ("m1",), ("m1", "m2", "m3")


@pytest.mark.parametrize("masters", [ONE, THREE], ids=["one", "three"])
def test_masters_go_back_in_place(tmp_path: Path, masters: tuple[str, ...]) -> None:
    with backed_up(tmp_path, masters) as before:
        plan = before.site.plan("in-place")
        restore(before, plan)
        check(before, plan, masters)


@pytest.mark.parametrize(
    ("old", "new"),
    [(ONE, ("n1",)), (ONE, ("n1", "n2", "n3")), (THREE, ("n1",))],
    ids=["one-to-one", "one-to-three", "three-to-one"],
)
def test_lost_masters_come_back_on_new_machines(tmp_path: Path, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    with backed_up(tmp_path, old) as before:
        for name in old:
            before.site.lab.power_off(name)
        plan = before.site.plan("fresh", *(word for name in new for word in ("--make", name)))
        restore(before, plan)
        check(before, plan, new)


def test_one_lost_master_of_three_is_replaced_while_the_others_serve(tmp_path: Path) -> None:
    with backed_up(tmp_path, THREE, is_changed=False) as before:
        site = before.site
        site.lab.power_off("m2")
        plan = site.plan("repair", "--lost", "m2", "--make", "n1")
        site.apply(plan)
        check(before, plan, ("m1", "m3", "n1"))
