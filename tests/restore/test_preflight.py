"""What must be so on each machine before a plan is worth making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from restore.plan import Kind
from restore.preflight import CLOCK_LIMIT, Preflight, check
from restore.survey import Survey
from tests.restore.seen import NOW, empty, master, old_cluster

SNAPSHOT_BYTES = 100_000_000


def looked(kind: Kind, *seen: Survey) -> Preflight:
    """What is said of these machines."""
    return check(
        kind,
        {one.hostname: one for one in seen},
        old_cluster(["m1", "m2", "m3"]),
        etcd_version="3.6.16",
        snapshot_bytes=SNAPSHOT_BYTES,
        now=NOW,
    )


@pytest.mark.parametrize("kind", ["in-place", "etcd-only"])
def test_masters_as_they_should_be_pass(kind: Kind) -> None:
    assert looked(kind, master("m1"), master("m2")).problems == ()


def test_new_machines_as_they_should_be_pass() -> None:
    assert looked("fresh", empty("n1")).problems == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"free_bytes": SNAPSHOT_BYTES}, "MB are free for /var/lib/bbr, "),
        ({"data_free_bytes": SNAPSHOT_BYTES}, "MB are free for /var/lib/etcd, "),
        ({"clock_s": CLOCK_LIMIT.total_seconds() + 1}, "its clock is 61 s ahead of this host's"),
        ({"clock_s": -3600.0}, "its clock is 3,600 s behind this host's"),
        ({"is_root": False}, "commands do not run as root there"),
        (
            {"versions": {"etcd": "3.5.21", "kube-apiserver": "1.37.2"}},
            "its etcd is 3.5.21, the backup was taken of 3.6",
        ),
        (
            {"versions": {"etcd": "3.6.1", "kube-apiserver": "1.36.4"}},
            "its Kubernetes is 1.36.4, the backup is of 1.37",
        ),
        ({"ca_sha256": "f" * 64}, "this is another cluster"),
        ({"layout": "systemd"}, "--kind etcd-only"),
        ({"programs": {}, "layout": ""}, "no etcd is set up there"),
    ],
)
def test_a_master_that_is_not_as_it_should_be(changed: Mapping[str, Any], said: str) -> None:
    (problem,) = looked("in-place", replace(master("m1"), **changed)).problems
    assert problem.startswith("m1: ")
    assert said in problem


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"running": frozenset({"etcd"})}, "etcd runs there"),
        ({"agent_version": ""}, "there is no kubelet"),
        ({"agent_version": "v1.36.4"}, "its kubelet is v1.36.4, the control plane is 1.37.2"),
    ],
)
def test_a_new_machine_that_is_not_as_it_should_be(changed: Mapping[str, Any], said: str) -> None:
    (problem,) = looked("fresh", replace(empty("n1"), **changed)).problems
    assert said in problem


def test_what_is_wrong_on_every_machine_is_said_at_once() -> None:
    worse = replace(master("m1"), is_root=False, clock_s=1000.0, free_bytes=1)
    problems = looked("in-place", worse, replace(master("m2"), is_root=False)).problems
    assert len(problems) == 4
    assert [one.partition(":")[0] for one in problems] == ["m1", "m1", "m1", "m2"]


def test_an_old_member_on_a_new_machine_is_told_and_goes_aside() -> None:
    found = looked("fresh", replace(empty("n1"), has_member=True))
    assert found.problems == ()
    assert any("it goes aside" in one for one in found.warnings)


def test_etcd_alone_asks_for_no_kubernetes_version_and_no_authority() -> None:
    other = replace(master("m1"), ca_sha256="f" * 64, versions={"etcd": "3.6.1", "kube-apiserver": "1.30.0"})
    assert looked("etcd-only", other).problems == ()


def test_a_version_that_nobody_knows_fits() -> None:
    assert looked("etcd-only", replace(master("m1", layout="systemd"), versions={"etcd": ""})).problems == ()
