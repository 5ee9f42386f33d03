"""What a restore loses, in words and numbers, for the person who decides. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from restore.facts import Facts, Request
from restore.plan import Source

LOSSES_SHOWN = 20
"""Kinds of objects whose counts differ: those that differ most are told."""


def losses(request: Request, facts: Facts, source: Source) -> list[str]:
    """What will be gone, a line each."""
    if request.kind == "repair":
        return ["nothing: the living members have all data; the lost one gets a copy of theirs"]
    age_s = max((facts.now - source.taken_at).total_seconds(), 0)
    hours, minutes = int(age_s // 3600), int(age_s % 3600 // 60)
    since = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    losses = [f"everything written since {source.taken_at:%Y-%m-%d %H:%M:%SZ}, {since} ago"]
    if facts.live.revision > source.etcd.revision:
        losses.append(
            f"that is {facts.live.revision - source.etcd.revision:,} revisions of the etcd that still answers"
        )
    losses += _lost_objects(facts)
    losses.append(
        "Nodes, pod networks, service addresses and volumes handed out since are unknown afterwards: what exists "
        "outside (disks, load balancers) stays, and nobody in the cluster knows of it"
    )
    return losses


def _lost_objects(facts: Facts) -> Iterator[str]:
    """What the living etcd holds against what the backup holds, by kind; and what is newest."""
    before, now = facts.inventory_counts, facts.live.counts
    differing = sorted((kind for kind in now if now[kind] != before.get(kind, 0)), key=lambda kind: _by(kind, facts))
    for kind in differing[:LOSSES_SHOWN]:
        yield f"{kind}: {now[kind]:,} now, {before.get(kind, 0):,} in the backup"
    if len(differing) > LOSSES_SHOWN:
        yield f"and {len(differing) - LOSSES_SHOWN} more kinds of objects whose numbers differ"
    if facts.live.others:
        yield f"{facts.live.others:,} objects of kinds that the backup has none of"
    if facts.live.newest:
        yield f"made since, the newest first: {', '.join(facts.live.newest)}"


def _by(kind: str, facts: Facts) -> tuple[int, str]:
    return -abs(facts.live.counts[kind] - facts.inventory_counts.get(kind, 0)), kind
