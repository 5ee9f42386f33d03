"""Planning a restore from beginning to end: look, check, decide, and name every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from bbr.errors import BbrError, ExternalAuthority, PreconditionFailed
from bbr.layouts.reissue import Csr
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Backup
from restore.authority import write_requests
from restore.checklist import NO_RETURN, steps_of
from restore.draft import choose_hosts, draft
from restore.facts import Facts, Request
from restore.gather import gather
from restore.iaas.iaas import MachineWanted
from restore.iaas.mark import Mark
from restore.iaas.site import Site as Place
from restore.newfiles import Given, outlook
from restore.obstacles import obstacles, out_of_reach
from restore.plan import Plan, PlannedStep
from restore.preflight import Preflight, check
from restore.readkeys import added_keys
from restore.runfolder import RunFolder
from restore.safety import Safety
from restore.site import Site, layout_of
from restore.steps.ground import MARK_TIME
from restore.survey import Survey


@dataclass(frozen=True, slots=True)
class Planning:
    """What a plan is made from. ``make`` are machines that the adapter makes first.

    ``given``: what authorities outside have signed already; what they must sign besides is written to ``csr_dir``.
    ``safety``: what an earlier restore saved, in place of the backup's etcd.
    """

    archive: Archive
    backup: Backup
    etcd: str
    request: Request
    make: tuple[str, ...]
    repository: str
    inventory: Path
    place: Place
    safety: Safety | None = None
    given: Given = field(default_factory=dict, repr=False)
    csr_dir: Path | None = None


def make_plan(planning: Planning, *, progress: Progress) -> Plan:
    """A whole plan. Raises `PreconditionFailed` with all that stands in the way, `ExternalAuthority` for certificates
    that must be asked for, and what looking raises."""
    _make_machines(planning, progress)
    try:
        return _decided(planning, progress)
    except ExternalAuthority:
        raise  # what is to be signed has these machines' addresses
    except BbrError:
        # What was made for a plan that is none would be held by a run that nobody can go on with.
        for name in planning.make:
            with suppress(BbrError):
                planning.place.iaas.delete(name, run=planning.request.run)
        raise


def _decided(planning: Planning, progress: Progress) -> Plan:
    request = planning.request
    facts = gather(
        planning.archive,
        planning.backup,
        planning.place,
        etcd=planning.etcd,
        repository=planning.repository,
        inventory=planning.inventory,
        skipped=(frozenset(request.lost) | request.attested) - frozenset(request.to),
        safety=planning.safety,
        progress=progress,
    )
    found, key_diffs = _checked(request, facts)
    plan = draft(request, facts)
    shown = outlook(plan, facts.old, planning.given)
    _ask_authorities(planning, shown.requests)
    plan = replace(plan, warnings=(*_warnings(facts, plan), *found.warnings), diffs=(*shown.diffs, *key_diffs))
    return replace(plan, steps=tuple(_planned(plan, planning.place)))


def _make_machines(planning: Planning, progress: Progress) -> None:
    """A machine carries the run's mark from the beginning: a plan that is never applied is swept when that expires."""
    for name in planning.make:
        progress.step(f"making {name}")
        mark = Mark(planning.request.run, planning.backup.manifest.cluster, "restore", datetime.now(UTC) + MARK_TIME)
        planning.place.iaas.ensure_machine(MachineWanted(name, "master", mark))


def _ask_authorities(planning: Planning, requests: Sequence[tuple[str, Csr]]) -> None:
    """Raises `ExternalAuthority` when certificates must be signed elsewhere; the requests are written first."""
    if not requests:
        return
    if planning.csr_dir is None:
        names = ", ".join(f"{host}: {one.path}" for host, one in requests)
        raise ExternalAuthority(
            f"the backup lacks the key of an authority that must sign {names}",
            hint="plan again with --csr-dir DIR: the requests and their keys are written there",
        )
    written = write_requests(planning.csr_dir, requests)
    names = "\n  ".join(map(str, written))
    raise ExternalAuthority(
        f"no plan yet: the key of an authority is not in the backup, and its owner must sign\n  {names}",
        hint="put each certificate beside its request, as .crt, keep the .key files, and plan again with "
        f"--certificates {planning.csr_dir}",
    )


def _checked(request: Request, facts: Facts) -> tuple[Preflight, list[str]]:
    """What was found, without problems, and what is added for reading keys.

    Raises `PreconditionFailed` with all problems that there are, and as `out_of_reach` where there is nothing else.
    """
    seen = {name: facts.surveys[name] for name in choose_hosts(request, facts) if name in facts.surveys}
    etcd = facts.safety.etcd if facts.safety else facts.backup.manifest.etcd(facts.etcd)
    found = check(
        request.kind,
        seen,
        facts.old,
        etcd_version=etcd.server_version,
        snapshot_bytes=etcd.snapshot_bytes,
        now=facts.now,
    )
    key_diffs, key_problems = _key_changes(request, facts, seen)
    missing, problems = out_of_reach(request, facts), [*obstacles(request, facts), *found.problems, *key_problems]
    if missing is not None and not problems:
        raise missing
    if problems:
        unseen = [str(missing)] if missing is not None else []
        raise PreconditionFailed(
            "this restore cannot be planned:\n  " + "\n  ".join([*unseen, *problems]),
            hint="see to these, and plan again" + (f"; {missing.hint}" if missing is not None else ""),
        )
    return found, key_diffs


def _key_changes(request: Request, facts: Facts, seen: Mapping[str, Survey]) -> tuple[list[str], list[str]]:
    """What is added so that the standing masters can read what comes back, without the keys; and what is in its way."""
    diffs: list[str] = []
    problems: list[str] = []
    theirs = facts.old.keys if facts.old is not None and request.kind == "in-place" else None
    for name, one in seen.items():
        mine = one.keys
        if mine is None or theirs is None:
            continue
        try:
            diffs += (f"{name}: {text}" for text in added_keys(mine, theirs, what=name).diffs)
        except PreconditionFailed as err:
            problems.append(f"{err}; {err.hint}" if err.hint else str(err))
    return diffs, problems


def _planned(plan: Plan, place: Place) -> Sequence[PlannedStep]:
    site = Site(
        plan=plan,
        machines={},
        layout=layout_of(plan),
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
