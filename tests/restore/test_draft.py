"""The rules by which a plan is made: who is in it, what becomes of everybody else, what is refused, what is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbr.errors import LoginRefused, MachineUnreachable, PreconditionFailed, UsageError
from restore.draft import draft
from restore.etcd import DEFAULT_BUMP
from restore.facts import LiveMember
from restore.losses import LOSSES_SHOWN
from restore.obstacles import obstacles, out_of_reach
from restore.plan import Kind
from tests.restore.seen import (
    address,
    empty,
    facts,
    living,
    master,
    old_cluster,
    peer_url,
    request,
)

THREE = ("m1", "m2", "m3")
MASTERS = [master(name) for name in THREE]


@settings(deadline=None)  # a machine that is busy is no failure
@given(
    kind=st.sampled_from(["in-place", "fresh", "repair", "etcd-only"]),
    reached=st.sets(st.sampled_from(THREE)),
    lost=st.sets(st.sampled_from(THREE)),
    attested=st.sets(st.sampled_from(THREE)),
    can_fence=st.booleans(),
    targets=st.sets(st.sampled_from(["n1", "n2"])),
)
def test_no_old_master_is_forgotten(
    kind: Kind, reached: set[str], lost: set[str], attested: set[str], can_fence: bool, targets: set[str]
) -> None:
    """Whatever was seen and decided: each has a place in the plan, or is fenced or attested, or there is no plan."""
    seen = [master(name) for name in THREE if name in reached - lost - attested]
    new = [empty(name) for name in ("n1", "n2")]
    found = facts(
        [*seen, *new],
        old=old_cluster(THREE),
        live=living(THREE) if seen else None,
        also_known=[name for name in THREE if name not in {one.hostname for one in seen}],
        can_fence=can_fence,
    )
    wanted = request(
        kind, to=sorted(targets) if kind in ("fresh", "repair") else (), lost=sorted(lost), attested=attested
    )
    try:
        if obstacles(wanted, found) or out_of_reach(wanted, found):
            return
    except UsageError:
        return
    plan = draft(wanted, found)
    assert {*THREE} <= {host.name for host in plan.hosts} | {old.name for old in plan.old_masters}
    assert all(old.fate != "attested" or old.name in attested for old in plan.old_masters)
    assert all(old.fate != "fence" or can_fence for old in plan.old_masters)


def test_everything_that_stands_in_the_way_of_a_repair_is_said_at_once() -> None:
    live = replace(living([*THREE, "m4"]), has_leader=False)
    found = facts([MASTERS[0], empty("n1"), empty("n2")], old=old_cluster(THREE), live=live, also_known=["m2", "m3"])
    said = "\n".join(obstacles(request("repair", to=["n1", "n2"], lost=["m2"]), found))
    assert "--attest m2" in said
    assert "several new machines" in said
    assert "0 of 4 members serve, which is no majority" in said
    assert "--kind in-place" in said
    assert f"a member m4 at {peer_url('m4')}, which nobody named" in said
    assert f"a member m3 at {peer_url('m3')}, which nobody named" in said


def test_repair_without_anybody_lost_is_refused() -> None:
    found = facts([*MASTERS, empty("n1")], old=old_cluster(THREE), live=living(THREE))
    assert [one for one in obstacles(request("repair"), found) if "--lost NAME" in one]


def test_repair_takes_the_majority_that_lives() -> None:
    found = facts(
        [MASTERS[0], MASTERS[2], empty("n1")],
        old=old_cluster(THREE),
        live=living(THREE),
        also_known=["m2"],
        can_fence=True,
    )
    wanted = request("repair", lost=["m2"])
    assert not obstacles(wanted, found)
    plan = draft(wanted, found)
    assert [host.name for host in plan.members] == ["n1"]
    assert [host.name for host in plan.witnesses] == ["m1", "m3"]
    assert [(old.name, old.peer_url, old.fate) for old in plan.old_masters] == [("m2", peer_url("m2"), "fence")]
    assert plan.members[0].takes_after == "m2"


def test_a_master_that_joined_since_the_backup_is_told_from_the_living_etcd() -> None:
    found = facts([*MASTERS[:2], empty("n1")], old=old_cluster(["m1", "m2"]), live=living([*THREE]))
    wanted = request("repair", lost=["m3"], attested=["m3"])
    assert not obstacles(wanted, found)
    assert [old.peer_url for old in draft(wanted, found).old_masters] == [peer_url("m3")]


def test_the_same_name_at_another_address_needs_a_word_and_at_the_same_one_does_not() -> None:
    new = replace(empty("m2"), hostname="m2")
    found = facts([MASTERS[0], MASTERS[2], new], old=old_cluster(THREE), live=living(THREE), can_fence=True)
    wanted = request("repair", lost=["m2"], to=["m2"])
    assert not obstacles(wanted, found)
    assert [old.fate for old in draft(wanted, found).old_masters] == ["replaced"]
    moved = replace(found, known={**found.known, "m2": replace(found.known["m2"], node_address="10.9.9.9")})
    assert "--attest m2" in "\n".join(obstacles(wanted, moved))
    assert not obstacles(replace(wanted, attested=frozenset({"m2"})), moved)


def test_in_place_with_a_living_member_that_nobody_named_is_refused() -> None:
    live = living([*THREE, "m4"])
    found = facts(MASTERS, old=old_cluster(THREE), live=live)
    assert ["m4" in one for one in obstacles(request("in-place"), found)] == [True]
    assert not obstacles(request("in-place", attested=["m4"]), found)


def test_a_member_that_never_started_is_named_by_its_address() -> None:
    live = replace(living(THREE), members=(*living(THREE).members, LiveMember("", (peer_url("n9"),), True)))
    found = facts(MASTERS, old=old_cluster(THREE), live=live)
    assert f"that never started at {peer_url('n9')}" in "\n".join(obstacles(request("in-place"), found))


def test_fresh_machines_beside_a_master_that_joined_since_and_lives() -> None:
    found = facts([master("m4"), empty("n1")], old=old_cluster(THREE), also_known=THREE)
    said = "\n".join(obstacles(request("fresh", to=["n1"]), found))
    assert "m1, m2, m3, m4" in said


def test_etcd_alone_takes_the_masters_that_keep_their_objects_there() -> None:
    etcds = [replace(master(name, layout="systemd"), running=frozenset({"etcd"})) for name in ("e1", "e2", "e3")]
    servers = ",".join(f"https://{address(name)}:2379" for name in ("e1", "e2", "e3"))
    api = MASTERS[0].programs["kube-apiserver"]
    client = replace(MASTERS[0], programs={"kube-apiserver": replace(api, flags={"etcd-servers": servers})})
    stranger = replace(
        MASTERS[1], programs={"kube-apiserver": replace(api, flags={"etcd-servers": "https://10.7.7.7:2379"})}
    )
    found = facts([*etcds, client, stranger], old=None, live=living(["e1", "e2", "e3"]))
    wanted = request("etcd-only")
    assert not obstacles(wanted, found)
    plan = draft(wanted, found)
    assert [(host.name, host.role, host.layout) for host in plan.hosts] == [
        ("e1", "member", "systemd"),
        ("e2", "member", "systemd"),
        ("e3", "member", "systemd"),
        ("m1", "client", "kubeadm"),
    ]
    assert plan.choices.layout == "mixed"
    assert plan.members[0].etcd_image == ""


def test_new_machines_of_a_cluster_of_units_are_refused() -> None:
    found = facts([empty("n1")], old=old_cluster(THREE, layout="systemd"), can_fence=True, also_known=THREE)
    assert "--kind etcd-only" in "\n".join(obstacles(request("fresh"), found))


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ({"m2": LoginRefused("m2: no", hint="the key"), "m3": LoginRefused("m3: no", hint="the key")}, LoginRefused),
        ({"m2": LoginRefused("m2: no"), "m3": MachineUnreachable("m3: silent")}, PreconditionFailed),
    ],
)
def test_one_reason_for_all_machines_is_the_plans_own(errors: dict[str, LoginRefused], kind: type[Exception]) -> None:
    found = replace(facts(MASTERS[:1], old=old_cluster(THREE), also_known=["m2", "m3"]), unreachable=errors)
    missing = out_of_reach(request("in-place"), found)
    assert type(missing) is kind
    assert "m2" in str(missing)
    assert "m3" in str(missing)


def test_what_is_lost_is_told_in_numbers_and_names() -> None:
    before = {"/registry/pods/": 100, "/registry/secrets/": 7, "/registry/nodes/": 3}
    live = replace(
        living(THREE, revision=1_000_012),
        counts={"/registry/pods/": 140, "/registry/secrets/": 7, "/registry/nodes/": 1},
        others=4,
        newest=("/registry/pods/shop/cart-9",),
    )
    plan = draft(request("in-place"), facts(MASTERS, old=old_cluster(THREE), live=live, counts=before))
    losses = plan.loses
    assert losses[0].endswith("2 h 5 min ago")
    assert losses[1].startswith("that is 1,000,003 revisions")
    assert losses[2:6] == (
        "/registry/pods/: 140 now, 100 in the backup",
        "/registry/nodes/: 1 now, 3 in the backup",
        "4 objects of kinds that the backup has none of",
        "made since, the newest first: /registry/pods/shop/cart-9",
    )
    assert plan.choices.bump == 1_000_003 + DEFAULT_BUMP


def test_of_many_kinds_those_that_differ_most_are_told() -> None:
    before = {f"/registry/k{number}/": 0 for number in range(50)}
    live = replace(living(THREE), counts={f"/registry/k{number}/": number + 1 for number in range(50)})
    losses = draft(request("in-place"), facts(MASTERS, old=old_cluster(THREE), live=live, counts=before)).loses
    told = [one for one in losses if one.startswith("/registry/")]
    assert len(told) == LOSSES_SHOWN
    assert told[0] == "/registry/k49/: 50 now, 0 in the backup"
    assert f"and {50 - LOSSES_SHOWN} more kinds of objects whose numbers differ" in losses


def test_a_repair_loses_nothing() -> None:
    found = facts([MASTERS[0], MASTERS[2], empty("n1")], old=old_cluster(THREE), live=living(THREE))
    (loss,) = draft(request("repair", lost=["m2"], attested=["m2"]), found).loses
    assert loss.startswith("nothing")


def test_a_lost_master_may_be_in_no_inventory_any_more() -> None:
    found = facts([MASTERS[0], MASTERS[2], empty("n1")], old=old_cluster(THREE), live=living(THREE))
    wanted = request("repair", lost=["m2"], to=["n1"], attested=["m2"])
    assert not obstacles(wanted, found)
    assert [old.name for old in draft(wanted, found).old_masters] == ["m2"]
    with pytest.raises(UsageError, match="no machine m7"):
        obstacles(request("repair", lost=["m7"], to=["n1"]), found)
