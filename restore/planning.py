"""Planning a restore from beginning to end: look, check, decide, and name every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.layouts.detect import named
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from restore.checklist import NO_RETURN, steps_of
from restore.draft import Facts, Request, draft
from restore.gather import gather
from restore.iaas.iaas import MachineWanted
from restore.iaas.mark import Mark
from restore.iaas.site import Site as Place
from restore.newfiles import diffs_of
from restore.plan import Plan, PlannedStep
from restore.preflight import check
from restore.runfolder import RunFolder
from restore.site import Site
from restore.steps.ground import MARK_TIME


@dataclass(frozen=True, slots=True)
class Planning:
    """What a plan is made from. ``make`` are machines that the adapter makes first."""

    archive: Archive
    backup: Backup
    etcd: str
    request: Request
    make: tuple[str, ...]
    repository: str
    inventory: Path
    place: Place


def make_plan(planning: Planning, *, progress: Progress) -> Plan:
    """A whole plan. Raises `PreconditionFailed` with all that stands in the way, and what looking raises."""
    request = planning.request
    _make_machines(planning, progress)
    facts = gather(
        planning.archive,
        planning.backup,
        planning.place,
        etcd=planning.etcd,
        repository=planning.repository,
        inventory=planning.inventory,
        skipped=frozenset(request.lost) | request.attested,
        progress=progress,
    )
    plan = draft(request, facts)
    members = {host.name: facts.surveys[host.name] for host in plan.members}
    found = check(
        request.kind,
        members,
        facts.old,
        etcd_version=plan.source.etcd.server_version,
        snapshot_bytes=plan.source.etcd.snapshot_bytes,
        now=facts.now,
    )
    if found.problems:
        raise PreconditionFailed(
            "this restore cannot be planned:\n  " + "\n  ".join(found.problems), hint="see to these, and plan again"
        )
    plan = replace(plan, warnings=(*_warnings(facts, plan), *found.warnings), diffs=tuple(diffs_of(plan, facts.old)))
    return replace(plan, steps=tuple(_planned(plan, planning.place)))


def _make_machines(planning: Planning, progress: Progress) -> None:
    """A machine carries the run's mark from the beginning: a plan that is never applied is swept when that expires."""
    for name in planning.make:
        progress.step(f"making {name}")
        mark = Mark(planning.request.run, planning.backup.manifest.cluster, "restore", datetime.now(UTC) + MARK_TIME)
        planning.place.iaas.ensure_machine(MachineWanted(name, "master", mark))


def _planned(plan: Plan, place: Place) -> Sequence[PlannedStep]:
    site = Site(
        plan=plan,
        machines={},
        layout=named(plan.choices.layout),
        place=place,
        folder=RunFolder(Path(plan.run)),
    )
    steps = steps_of(site)
    first_without_return = next((step.name for step in steps if step.name in NO_RETURN), "")
    return [PlannedStep(step.name, step.title, step.undo_text, step.name == first_without_return) for step in steps]


def _warnings(facts: Facts, plan: Plan) -> list[str]:
    warnings = []
    if facts.live.is_api_answering and plan.kind != "repair":
        warnings.append(
            "an API server of this cluster still runs: is this really the cluster that you want to replace?"
        )
    if facts.backup.manifest.status != "complete":
        warnings += [f"the backup is partial: {reason}" for reason in facts.backup.manifest.reasons]
    for old in plan.old_masters:
        if old.fate == "attested":
            warnings.append(f"{old.name} is off by your word only: if it comes back, it serves old data to old clients")
    for name, why in facts.unreachable.items():
        warnings.append(f"{name} could not be looked at: {why}")
    return warnings
