"""``bbr restore plan``: decide a whole restore, and write it down, before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import (
    FILE,
    Where,
    certificates_option,
    cluster_option,
    identity_option,
    output_options,
    repository_options,
)
from bbr.cli.output import Facts, Output, Report

if TYPE_CHECKING:
    from restore.plan import Plan

SCHEMA = "bbr.restore-plan/1"


@click.command("plan")
@click.argument("backup_id", metavar="ID")
@click.option(
    "--kind",
    type=click.Choice(["in-place", "fresh", "repair", "etcd-only"]),
    required=True,
    help="The surviving masters go back to the backup; new machines become the cluster; one lost master; etcd alone.",
)
@click.option("--inventory", type=FILE, required=True, help="The machines: an inventory as docs/iaas.md describes it.")
@click.option("--out", type=FILE, required=True, help="Where the plan is written. It must not exist.")
@click.option(
    "--target", metavar="NAME", help="The cluster's name, as it is asked for at apply. Default: the backup's."
)
@click.option("--to", multiple=True, metavar="NAME", help="A machine that gets a member. Default: all that fit.")
@click.option(
    "--make", multiple=True, metavar="NAME", help="Make this machine first, by the inventory's adapter, and use it."
)
@click.option("--lost", multiple=True, metavar="NAME", help="A master that is lost, and is not looked for.")
@click.option(
    "--attest",
    multiple=True,
    metavar="NAME",
    help="You have seen to it yourself that this old master is off and stays off.",
)
@click.option("--endpoint", metavar="HOST:PORT", help="A new address for the API servers. Default: it stays.")
@click.option(
    "--etcd", "etcd_name", metavar="NAME", default="main", show_default=True, help="Which etcd of the backup."
)
@click.option("--keep-stale", is_flag=True, help="Leave Nodes and leases of old masters in the restored cluster.")
@click.option("--keep-webhooks", is_flag=True, help="Do not set webhooks aside whose backends do not live.")
@click.option("--no-rehearsal", is_flag=True, help="Do not start the snapshot in scratch on the first machine first.")
@click.option("--no-backup", is_flag=True, help="Do not take a fresh backup at the end.")
@click.option(
    "--csr-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where an authority's key is not in the backup: write what it must sign, with the keys, to this folder.",
)
@certificates_option
@cluster_option
@identity_option
@repository_options
@output_options
def command(
    *,
    backup_id: str,
    kind: str,
    inventory: Path,
    out: Path,
    target: str | None,
    to: tuple[str, ...],
    make: tuple[str, ...],
    lost: tuple[str, ...],
    attest: tuple[str, ...],
    endpoint: str | None,
    etcd_name: str,
    keep_stale: bool,
    keep_webhooks: bool,
    no_rehearsal: bool,
    no_backup: bool,
    csr_dir: Path | None,
    certificates: Path | None,
    where: Where,
    cluster: str | None,
    identity: tuple[Path, ...],
    output: Output,
) -> None:
    """Plan a restore: everything that will be done, what it costs, and how each step is undone.

    Looks at the backup and at every machine, changes nothing (but makes the machines of --make), and writes a plan.
    `bbr restore apply` does just what the plan says. What stands in the way is said all at once, exit code 5.

    ID is `latest`, a backup's ID or the beginning of one, or a time: the newest backup that was done by then. Or it is
    safety:RUN, the etcd that an earlier restore in place found and saved: the way back when its undo is refused.

    \b
    Examples:
      bbr restore plan latest --kind in-place --inventory prod.yaml --identity recovery-1.txt --out plan.json
      # all masters are gone, three new machines
      bbr restore plan latest --kind fresh --inventory new.yaml --to n1 --to n2 --to n3 \\
          --attest m1 --attest m2 --attest m3 --identity recovery-1.txt --out plan.json
      # one of three masters is gone
      bbr restore plan latest --kind repair --inventory prod.yaml --lost m2 --attest m2 --to m4 \\
          --identity recovery-1.txt --out plan.json
      # back to what was there before a restore that is finished; `bbr restore status` lists them
      bbr restore plan safety:production-20260102t031500-a1b2 --kind in-place --inventory prod.yaml \\
          --identity recovery-1.txt --out back.json
    """
    from datetime import UTC, datetime

    from bbr.cli.access import load_identities, open_repository, state_dir
    from bbr.cli.config import load_config
    from bbr.errors import TargetNotEmpty, UsageError
    from restore.authority import read_signed
    from restore.draft import new_run_name
    from restore.facts import Request
    from restore.iaas.inventory import read_inventory
    from restore.iaas.site import open_iaas
    from restore.planning import Planning, make_plan
    from restore.runfolder import write_plan
    from restore.safety import PREFIX, find_safety
    from restore.session import find_planned

    if out.exists():
        raise TargetNotEmpty(f"{out} exists; it was left as it is", hint="name another file")
    config = load_config(where.config)
    safety = None
    if backup_id.startswith(PREFIX):
        if kind not in ("in-place", "etcd-only"):
            raise UsageError(f"what a restore saved goes back in place, not --kind {kind}")
        safety = find_safety(state_dir(where, config), backup_id.removeprefix(PREFIX))
        etcd_name = safety.etcd.name
    identities, pins = load_identities(identity, config)
    with progress_on(output.stderr, keep_steps=False) as progress:
        repository = open_repository(where, output, config=config, key_pins=pins, progress=progress)
        archive = repository.archive(cluster=cluster, progress=progress, identities=identities)
        backup = find_planned(archive, safety.plan) if safety else archive.catalog.find(cluster, backup_id)
        request = Request(
            run=new_run_name(target or backup.manifest.cluster, datetime.now(UTC)),
            kind=kind,  # type: ignore[arg-type]
            target=target or backup.manifest.cluster,
            to=(*to, *make),
            lost=lost,
            attested=frozenset(attest),
            new_endpoint=endpoint or "",
            is_stale_removed=not keep_stale,
            is_webhook_quarantined=not keep_webhooks,
            is_rehearsed=not no_rehearsal,
            is_backed_up=not no_backup,
        )
        planning = Planning(
            archive,
            backup,
            etcd_name,
            request,
            make,
            repository.address,
            inventory.absolute(),
            open_iaas(read_inventory(inventory)),
            safety,
            read_signed(certificates) if certificates else {},
            csr_dir,
        )
        plan = make_plan(planning, progress=progress)
    write_plan(out, plan)
    output.report(report(plan, out))
    given = ["--certificates", str(certificates)] if certificates else []
    words = ["bbr", "restore", "apply", str(out), *_identity_flags(identity), *given, *where.flags()]
    output.next_command(*words, why="do it")


def report(plan: Plan, path: Path) -> Report:
    """The plan as a person reads it before saying yes."""
    source, target = plan.source, plan.target
    pairs = [
        ("PLAN", f"{plan.run}: {plan.kind} restore, {path}, {plan.sha256[:16]}"),
        (
            "SOURCE",
            (
                f"{_from(plan)}, taken {figures.moment(source.taken_at)}\n"
                f"etcd {source.etcd.name} at revision {source.etcd.revision:,}, HashKV {source.etcd.hash_kv}, "
                f"{figures.size(source.etcd.snapshot_bytes)}"
            ),
        ),
        (
            "TARGET",
            "\n".join(
                [
                    f"{target.name}, CA {target.ca_sha256 or 'unknown'}",
                    f"endpoint {target.endpoint or 'unknown'}"
                    + (f", from now on {target.new_endpoint}" if target.new_endpoint else ""),
                    *(
                        f"{host.name} {host.node_address}"
                        + (f", after {host.takes_after}" if host.takes_after else "")
                        + (", stays as it is" if host.role == "witness" else "")
                        + (", its API server waits for etcd" if host.role == "client" else "")
                        for host in plan.hosts
                    ),
                    *(f"{old.name} {old.address}: old, {_fate(old.fate)}" for old in plan.old_masters),
                ]
            ),
        ),
        ("LOSES", "\n".join(plan.loses)),
        *((("WARNING", "\n".join(plan.warnings)),) if plan.warnings else ()),
        *((("CHANGES", "\n".join(plan.diffs)),) if plan.diffs else ()),
        ("STEPS", "\n".join(_step_lines(plan))),
        ("EXPECT", "\n".join(plan.expect)),
    ]
    data = {
        "run": plan.run,
        "kind": plan.kind,
        "path": path,
        "sha256": plan.sha256,
        "backup": source.backup_id,
        "safety": source.safety_run,
        "target": target.name,
        "hosts": [host.name for host in plan.members],
        "loses": list(plan.loses),
        "warnings": list(plan.warnings),
        "steps": [{"name": step.name, "title": step.title, "undo": step.undo} for step in plan.steps],
    }
    return Report(SCHEMA, data, [Facts(pairs)])


def _step_lines(plan: Plan) -> list[str]:
    lines = []
    for number, step in enumerate(plan.steps, start=1):
        if step.is_point_of_no_return:
            lines.append("---- POINT OF NO RETURN: from here on there is no undo ----")
        lines.append(f"{number:2}. {step.title}")
        if step.undo:
            lines.append(f"    undo: {step.undo}")
    return lines


def _from(plan: Plan) -> str:
    source = plan.source
    if source.safety_run:
        return f"etcd as {source.safety_run} found and saved it (the rest is of {source.backup_id})"
    return source.backup_id


def _fate(fate: str) -> str:
    told = {"fence": "will be switched off", "replaced": "its machine was looked at, and is used anew"}
    return told.get(fate, "off, by your word")


def _identity_flags(files: tuple[Path, ...]) -> list[str]:
    return [word for file in files for word in ("--identity", str(file))]
