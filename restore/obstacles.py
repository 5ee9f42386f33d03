"""What stands in the way of a plan, all of it at once: rules over what was gathered and what the person decided. Pure.

What single machines lack is `restore.preflight`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bbr.errors import BbrError, HostKeyWrong, KeyRefused, LoginRefused, NoSudo, PreconditionFailed
from restore.draft import choose_hosts, old_masters_of, planned_hosts
from restore.facts import Facts, Live, Request
from restore.oldcluster import KUBEADM
from restore.plan import OldMaster, PlannedHost

_TELLING = (HostKeyWrong, LoginRefused, KeyRefused, NoSudo)
"""Errors of one machine that are the whole plan's, with their exit codes: the way in is wrong, not the machine."""


def out_of_reach(request: Request, facts: Facts) -> BbrError | None:
    """One error for all machines that are needed and could not be looked at; its hint has what each of theirs said.

    Where all are so for one reason of keys or rights, it is that error.
    """
    targets = choose_hosts(request, facts)
    missing = {name: facts.unreachable[name] for name in targets if name in facts.unreachable}
    if not missing:
        return None
    said = "; ".join(str(err) if str(err).startswith(name) else f"{name}: {err}" for name, err in missing.items())
    hints = [*dict.fromkeys(err.hint for err in missing.values() if err.hint), "or leave it out: --to, --lost"]
    kinds = {type(err) for err in missing.values()}
    own = next((kind for kind in _TELLING if kinds == {kind}), PreconditionFailed)
    return own(said, hint="; ".join(hints))


def obstacles(request: Request, facts: Facts) -> tuple[str, ...]:
    """Everything that stands in the way of a plan, beside what `preflight.check` says of single machines.

    Machines that could not be looked at are `out_of_reach`'s; what hangs on them is not judged. Raises `UsageError` for
    machines that the inventory does not have.
    """
    targets = choose_hosts(request, facts)
    problems = list(_donor_obstacles(facts)) if request.kind in ("fresh", "repair") else []
    if not problems and not any(name in facts.unreachable for name in targets):
        hosts = planned_hosts(request, facts, targets)
        old_masters, open_ones = old_masters_of(request, facts, hosts)
        problems += open_ones
        problems += _repair_obstacles(request, facts, hosts, old_masters) if request.kind == "repair" else ()
        problems += _unnamed_members(request, facts, hosts, old_masters)
    return tuple(problems)


def _donor_obstacles(facts: Facts) -> Iterator[str]:
    if facts.old is None:
        yield (
            "the backup holds no control-plane files, which new machines need; choose one that does (`bbr show`), or "
            "restore etcd only"
        )
    elif any(host.layout != KUBEADM for host in facts.old.hosts.values()):
        yield (
            "the backup's masters run their programs as units, and new machines are only made of kubeadm's; set the "
            "machines up as the old ones were, then restore etcd: --kind etcd-only"
        )


def _repair_obstacles(
    request: Request, facts: Facts, hosts: Sequence[PlannedHost], old_masters: Sequence[OldMaster]
) -> Iterator[str]:
    """A repair goes through the majority that lives: etcd changes members by nobody else."""
    if not request.lost:
        yield "nobody is lost: name the master that is (--lost NAME)"
    new = [host.name for host in hosts if host.role == "member"]
    if len(new) > 1:
        yield (
            f"{', '.join(new)} are several new machines: etcd takes one new member at a time, so plan one repair after "
            "the other (--to NAME)"
        )
    witnesses = [host.name for host in hosts if host.role == "witness"]
    if not witnesses:
        yield "no living master can be reached, and a repair works through one; for a lost cluster: --kind fresh"
        return
    voters = [one for one in facts.live.members if not one.is_learner]
    serving = [name for name in witnesses if facts.lives.get(name, Live()).has_leader]
    if len(serving) <= len(voters) // 2:
        yield (
            f"{len(serving)} of {len(voters) or len(hosts)} members serve, which is no majority, and without one etcd "
            "changes nothing; go back to a backup with the masters that are left (--kind in-place), or to new machines "
            "(--kind fresh)"
        )
    accounted = {name for old in old_masters for name in (old.name, old.node_name)}
    for name in request.lost:
        node = facts.known[name].node_name if name in facts.known else name
        if not {name, node} & accounted:
            yield f"{name} is neither a master of the backup nor a member of the living etcd; see --lost"


def _unnamed_members(
    request: Request, facts: Facts, hosts: Sequence[PlannedHost], old_masters: Sequence[OldMaster]
) -> Iterator[str]:
    """A member that nobody named would go on with the old data, or be in the majority of the new without a word."""
    if request.kind == "fresh":
        return
    peer_urls = [*(host.peer_url for host in hosts), *(old.peer_url for old in old_masters)]
    urls = {url for many in peer_urls for url in many.split(",") if url}
    names = {host.member_name for host in hosts if host.role != "client"} | request.attested
    for member in facts.live.members:
        if not urls & set(member.peer_urls) and not (member.name and member.name in names):
            yield (
                f"the living etcd has a member {member.name or 'that never started'} at "
                f"{', '.join(member.peer_urls)}, which nobody named: put it in the inventory, or say what became of it "
                "(--lost, --attest)"
            )
