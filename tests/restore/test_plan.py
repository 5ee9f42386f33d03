"""A plan's file: read back as it was, and refused when anything in it was changed."""

from __future__ import annotations

import json
import random

import pytest

from bbr.errors import PlanInvalid
from restore.plan import PlannedStep, from_file, to_file
from tests.restore.plans import make_plan

PLAN = make_plan(steps=(PlannedStep("upload", "upload it", "remove it", False),))


def test_a_plan_comes_back_as_it_was() -> None:
    assert from_file(to_file(PLAN), what="plan.json") == PLAN


def test_an_edited_plan_is_refused() -> None:
    body = json.loads(to_file(PLAN))
    body["plan"]["choices"]["bump"] = 1
    with pytest.raises(PlanInvalid, match="was changed after it was written"):
        from_file(json.dumps(body).encode(), what="plan.json")


def test_a_plan_with_a_step_that_was_taken_out_is_refused() -> None:
    body = json.loads(to_file(PLAN))
    body["plan"]["steps"] = []
    with pytest.raises(PlanInvalid, match="was changed after it was written"):
        from_file(json.dumps(body).encode(), what="plan.json")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"plan": {}}', b'{"plan": 1, "sha256": 2}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_plan_is_refused(body: bytes) -> None:
    with pytest.raises(PlanInvalid):
        from_file(body, what="plan.json")


def test_no_byte_can_be_changed_unseen() -> None:
    whole = to_file(PLAN)
    draw = random.Random(7)
    for _ in range(500):
        place = draw.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        try:
            found = from_file(bytes(damaged), what="plan.json")
        except PlanInvalid:
            continue
        assert found == PLAN  # a blank between fields


def test_the_initial_cluster_names_every_member() -> None:
    assert PLAN.initial_cluster == "m1=https://10.0.0.11:2380,m2=https://10.0.0.12:2380"
