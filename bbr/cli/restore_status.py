"""``bbr restore status`` and ``clean``: how far a restore is, and removing what it kept aside."""

from __future__ import annotations

from pathlib import Path

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import FILE, Where, output_options, repository_options
from bbr.cli.output import Output, Report, Table

RUNS_SCHEMA = "bbr.restore-runs/1"


@click.command("status")
@click.argument("plan_file", metavar="[PLAN]", type=FILE, required=False)
@click.option("--log", is_flag=True, help="Print the incident log.")
@repository_options
@output_options
def status(*, plan_file: Path | None, log: bool, where: Where, output: Output) -> None:
    """How far a restore is; without a plan, all restores of this host.

    \b
    Examples:
      bbr restore status
      bbr restore status plan.json --log
    """
    from bbr.cli.access import state_dir
    from bbr.cli.config import load_config
    from bbr.cli.restore_apply import run_report
    from restore.incident import render
    from restore.runfolder import RunFolder, list_runs, read_plan

    base = state_dir(where, load_config(where.config))
    if plan_file is None:
        folders = list_runs(base)
        rows = []
        for folder in folders:
            plan = folder.plan()
            entries = folder.journal.read()
            last = entries[-1] if entries else None
            rows.append((plan.run, plan.kind, plan.target.name, last.event if last else "planned"))
        data = {"runs": [dict(zip(("run", "kind", "target", "last"), row, strict=True)) for row in rows]}
        output.report(Report(RUNS_SCHEMA, data, [Table(("run", "kind", "target", "last"), rows)]))
        return
    plan = read_plan(plan_file)
    folder = RunFolder.of(base, plan)
    if log:
        output.data(render(plan, folder.journal.read()).rstrip())
        return
    output.report(run_report(plan, folder))


@click.command("clean")
@click.argument("plan_file", metavar="PLAN", type=FILE)
@click.option("--confirm", metavar="NAME", help="The target's name, instead of typing it when asked.")
@click.option("--inventory", type=FILE, help="Where the plan's inventory lies now. Default: where it lay for the plan.")
@repository_options
@output_options
def clean(*, plan_file: Path, confirm: str | None, inventory: Path | None, where: Where, output: Output) -> None:
    """Remove what a restore kept aside: old data directories, old files, the safety snapshot. There is no undo.

    Also gives the machines free for other restores. For a restore that is finished or undone.

    \b
    Examples:
      bbr restore clean plan.json
      bbr restore clean plan.json --confirm production
    """
    from bbr.cli.access import state_dir
    from bbr.cli.config import load_config
    from bbr.cli.restore_apply import confirm_name
    from restore.clean import clean_run
    from restore.copies import catch_up
    from restore.iaas.inventory import read_inventory
    from restore.iaas.site import open_iaas
    from restore.runfolder import RunFolder, read_plan
    from restore.session import opened_site

    plan = read_plan(plan_file)
    folder = RunFolder.of(state_dir(where, load_config(where.config)), plan)
    what = f"This removes for good what the restore {plan.run} of {plan.target.name} kept aside."
    confirm_name(plan.target.name, confirm, output, what)
    with folder.locked(), progress_on(output.stderr) as progress:
        place = open_iaas(read_inventory(inventory or Path(plan.inventory)))
        with opened_site(plan, folder, place, material=None) as (site, fleet):
            catch_up(plan, folder.journal, fleet, warn=progress.warn)
            freed = clean_run(site, fleet, progress=progress)
    output.note(f"removed {figures.size(freed)} on {len(plan.hosts)} machines")
