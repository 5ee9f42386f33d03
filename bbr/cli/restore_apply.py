"""``bbr restore apply`` and ``undo``: carry out a plan, or take it back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import (
    FILE,
    Where,
    bin_dir_option,
    certificates_option,
    identity_option,
    output_options,
    repository_options,
)
from bbr.cli.output import Facts, Output, Report, Table
from bbr.errors import UsageError

if TYPE_CHECKING:
    from bbr.cli.config import Config
    from restore.plan import Plan
    from restore.runfolder import RunFolder

SCHEMA = "bbr.restore-run/1"


@click.command("apply")
@click.argument("plan_file", metavar="PLAN", type=FILE)
@click.option("--confirm", metavar="NAME", help="The target's name, instead of typing it when asked.")
@click.option("--inventory", type=FILE, help="Where the plan's inventory lies now. Default: where it lay for the plan.")
@click.option("--writer-key", type=FILE, help="This host's writer key, for the fresh backup at the end.")
@certificates_option
@identity_option
@bin_dir_option
@repository_options
@output_options
def apply(
    *,
    plan_file: Path,
    confirm: str | None,
    inventory: Path | None,
    writer_key: Path | None,
    certificates: Path | None,
    identity: tuple[Path, ...],
    bin_dir: Path | None,
    where: Where,
    output: Output,
) -> None:
    """Do what a plan says, step by step.

    Fetches and verifies everything first. Asks for the target's name. Stops when a machine is not as it was when the
    plan was made. Every step is written down before it begins: after a crash, a lost connection or Ctrl-C the same
    command goes on where it was, after it has looked at every machine again.

    \b
    Examples:
      bbr restore apply plan.json --identity recovery-1.txt
      bbr restore apply plan.json --identity recovery-1.txt --confirm production
    """
    from bbr.cli.access import load_identities, open_repository
    from bbr.cli.config import load_config
    from bbr.cli.restore_backup import fresh_backup
    from restore.apply import apply_steps, write_to
    from restore.authority import read_signed
    from restore.checklist import steps_of
    from restore.copies import catch_up
    from restore.iaas.inventory import read_inventory
    from restore.iaas.site import open_iaas
    from restore.journal import past_of
    from restore.runfolder import RunFolder, read_plan
    from restore.session import check_drift, check_inventory, fetched, find_planned, opened_site

    plan = read_plan(plan_file)
    machines = inventory or Path(plan.inventory)
    config = load_config(where.config)
    identities, pins = load_identities(identity, config)
    folder = RunFolder.of(_state(where, config), plan)
    check_inventory(plan, machines)
    confirm_name(plan.target.name, confirm, output, f"This restores {plan.target.name} from {plan.source.backup_id}.")
    with folder.locked(), progress_on(output.stderr) as progress:
        place = open_iaas(read_inventory(machines))
        repository = open_repository(where, output, config=config, key_pins=pins, progress=progress)
        archive = repository.archive(cluster=plan.source.cluster, progress=progress, identities=identities)
        backup = find_planned(archive, plan)
        given = read_signed(certificates) if certificates else {}
        back_up = fresh_backup(writer_key, where, config, output, progress)
        with (
            fetched(archive, backup, plan, folder.path, progress, given=given) as material,
            opened_site(
                plan, folder, place, material=material, programs=_programs(bin_dir or config.bin_dir), back_up=back_up
            ) as (site, fleet),
        ):
            catch_up(plan, folder.journal, fleet, warn=progress.warn)
            if not past_of(folder.journal.read()).begun:
                progress.step("comparing the machines with the plan")
                check_drift(plan, fleet)
            record = write_to(folder.journal, fleet.mirror)
            record("apply", detail=f"by process {os.getpid()}")
            with _incident(folder, output):
                apply_steps(plan, steps_of(site), journal=folder.journal, record=record, progress=progress)
                fleet.leave(progress.warn)
    output.report(run_report(plan, folder))
    output.next_command(
        "bbr", "restore", "clean", str(plan_file), *where.flags(), why="when all is well, remove what was kept aside"
    )


@click.command("undo")
@click.argument("plan_file", metavar="PLAN", type=FILE)
@click.option("--confirm", metavar="NAME", help="The target's name, instead of typing it when asked.")
@click.option("--inventory", type=FILE, help="Where the plan's inventory lies now. Default: where it lay for the plan.")
@repository_options
@output_options
def undo(*, plan_file: Path, confirm: str | None, inventory: Path | None, where: Where, output: Output) -> None:
    """Take a restore back, step by step, the last one first. Only before its point of no return.

    What was there before comes back into service; what the restore made is kept aside until `bbr restore clean`. Needs
    neither the repository nor a key.

    \b
    Examples:
      bbr restore undo plan.json
      bbr restore undo plan.json --confirm production
    """
    from bbr.cli.config import load_config
    from bbr.scratch import sweep
    from restore.apply import check_way_back, undo_steps, write_to
    from restore.checklist import steps_of
    from restore.copies import catch_up
    from restore.iaas.inventory import read_inventory
    from restore.iaas.site import open_iaas
    from restore.journal import past_of
    from restore.runfolder import RunFolder, read_plan
    from restore.session import opened_site

    plan = read_plan(plan_file)
    folder = RunFolder.of(_state(where, load_config(where.config)), plan)
    check_way_back(plan, past_of(folder.journal.read()))
    confirm_name(plan.target.name, confirm, output, f"This takes the restore {plan.run} back.")
    with folder.locked(), progress_on(output.stderr) as progress:
        place = open_iaas(read_inventory(inventory or Path(plan.inventory)))
        with opened_site(plan, folder, place, material=None) as (site, fleet):
            catch_up(plan, folder.journal, fleet, warn=progress.warn)
            record = write_to(folder.journal, fleet.mirror)
            with _incident(folder, output):
                undo_steps(plan, steps_of(site), journal=folder.journal, record=record, progress=progress)
                fleet.leave(progress.warn)
                sweep(folder.path)
    output.report(run_report(plan, folder))


def confirm_name(wanted: str, given: str | None, output: Output, what: str) -> None:
    """Have the target's name typed, or given. Raises `UsageError` for another name, or where nobody can be asked."""
    if given is None:
        if not sys.stdin.isatty():
            raise UsageError(f"{what} Nobody can be asked here", hint=f"if you mean it: --confirm {wanted}")
        output.note(what)
        given = click.prompt("Type the target's name to go on", prompt_suffix=": ", err=True)
    if given != wanted:
        raise UsageError(f"the target is {wanted}, not {given}; nothing was done")


def run_report(plan: Plan, folder: RunFolder) -> Report:
    """How far a run is, step by step, with the seconds that each took."""
    from restore.journal import past_of

    entries = folder.journal.read()
    past = past_of(entries)
    seconds: dict[str, float] = {}
    for entry in entries:
        if entry.event in ("done", "found", "failed"):
            seconds[entry.step] = seconds.get(entry.step, 0.0) + entry.seconds
    rows = [
        (
            str(number),
            step.title,
            "done" if step.name in past.done else "begun" if step.name in past.begun else "",
            figures.duration(seconds[step.name]) if step.name in seconds else "",
        )
        for number, step in enumerate(plan.steps, start=1)
    ]
    state = (
        "undone" if past.is_undone else "undoing" if past.is_undoing else "finished" if past.is_finished else "begun"
    )
    pairs = [
        ("restore", f"{plan.run}: {plan.kind} of {plan.target.name}, {state}"),
        ("log", str(folder.path / "incident.log")),
    ]
    data = {
        "run": plan.run,
        "state": state if past.begun or past.is_undone else "planned",
        "steps": [
            {
                "name": step.name,
                "is_done": step.name in past.done,
                "is_begun": step.name in past.begun,
                "seconds": round(seconds.get(step.name, 0.0), 3),
            }
            for step in plan.steps
        ],
        "folder": folder.path,
    }
    return Report(SCHEMA, data, [Facts(pairs), Table((">", "step", "state", ">took"), rows)])


@contextmanager
def _incident(folder: RunFolder, output: Output) -> Iterator[None]:
    """The log is written however it ends."""
    try:
        yield
    finally:
        output.note(f"incident log: {folder.write_incident()}")


def _state(where: Where, config: Config) -> Path:
    from bbr.cli.access import state_dir

    return state_dir(where, config)


def _programs(bin_dir: Path | None) -> tuple[Path, ...]:
    from bbr.servers.binaries import search_path

    return tuple(search_path(bin_dir=bin_dir, environ=os.environ))
