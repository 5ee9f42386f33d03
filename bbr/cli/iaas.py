"""``bbr iaas``: where machines come from, whose they are, and giving back what runs left behind."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.options import FILE, output_options
from bbr.cli.output import Output, Report, Table
from bbr.errors import BbrError, IaasError, MachinesUnknown, PreconditionFailed

if TYPE_CHECKING:
    from restore.iaas.iaas import Finding, Iaas, MachineMade, Owned

SCHEMA_CHECK = "bbr.iaas-check/1"
SCHEMA_LIST = "bbr.iaas-list/1"
SCHEMA_SWEEP = "bbr.iaas-sweep/1"

inventory_argument = click.argument("inventory", type=FILE, metavar="FILE")


@click.group("iaas")
def command() -> None:
    """Say where machines come from, and give back what runs left.

    FILE is an inventory: docs/iaas.md describes it.

    \b
    Examples:
      bbr iaas check inventory.yaml
      bbr iaas list inventory.yaml
      bbr iaas sweep inventory.yaml
    """


@command.command("check")
@inventory_argument
@output_options
def check(*, inventory: Path, output: Output) -> None:
    """Look at everything that a restore will need of an inventory. Changes nothing.

    \b
    Example:
      bbr iaas check inventory.yaml
    """
    findings = _opened(inventory).preflight()
    output.report(check_report(findings))
    wrong = [one for one in findings if not one.is_good]
    if wrong:
        raise PreconditionFailed(f"{len(wrong)} of {len(findings)} cannot be used: {wrong[0].said}", hint=wrong[0].hint)


@command.command("list")
@inventory_argument
@output_options
def list_(*, inventory: Path, output: Output) -> None:
    """List the machines that runs hold, of any run. Exit code 3: some could not be asked.

    \b
    Example:
      bbr iaas list inventory.yaml -o json
    """
    owned = _opened(inventory).list_owned()
    output.report(list_report(owned, datetime.now(UTC)))
    _tell_unknown(owned)


@command.command("sweep")
@inventory_argument
@click.option("--run", metavar="RUN", help="Give back what this run holds, whether or not its mark has expired.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_options
def sweep(*, inventory: Path, run: str | None, yes: bool, output: Output) -> None:
    """Give back the machines of drills whose time is over, or of one run.

    A machine that was made is destroyed with its disk; one that was there before only loses the mark. What a restore
    holds may be production by now: it goes only when --run names it. Exit code 3: some could not be asked.

    \b
    Examples:
      bbr iaas sweep inventory.yaml
      bbr iaas sweep inventory.yaml --run drill-20260102 --yes
    """
    iaas = _opened(inventory)
    owned = iaas.list_owned()
    waste = waste_of(owned, run=run, now=datetime.now(UTC))
    if waste and not yes:
        _ask(waste, output)
    failed = _delete(iaas, waste, output)
    left = iaas.list_owned() if waste else owned
    held = {(one.name, one.mark) for one in left.machines}
    unasked = {one.name for one in left.unknown}
    gone = [one for one in waste if (one.name, one.mark) not in held and one.name not in unasked]
    output.report(sweep_report(gone, left))
    _tell_unknown(left)
    if len(gone) < len(waste):
        still = ", ".join(one.name for one in waste if one not in gone)
        raise IaasError(f"not given back: {still}", hint=failed.hint if failed else "run it again") from failed


def waste_of(owned: Owned, *, run: str | None, now: datetime) -> list[MachineMade]:
    """What is to be given back: all of the run that is named, or of drills that are over."""
    found = []
    for one in owned.machines:
        if one.mark is None:
            continue
        is_over = one.mark.purpose == "drill" and one.mark.is_expired(now)
        if one.mark.run == run if run is not None else is_over:
            found.append(one)
    return found


def check_report(findings: tuple[Finding, ...]) -> Report:
    """What was looked at."""
    rows = [(one.subject, "ok" if one.is_good else "NOT OK", " ".join(one.said.split())) for one in findings]
    data = [{"subject": one.subject, "ok": one.is_good, "said": one.said, "hint": one.hint} for one in findings]
    return Report(SCHEMA_CHECK, {"findings": data}, [Table(("WHAT", "STATE", "FOUND"), rows)])


def list_report(owned: Owned, now: datetime) -> Report:
    """The machines that runs hold, and those that could not be asked."""
    rows = [_row(one, now) for one in owned.machines]
    rows += [(one.name, "-", "-", "-", "-", "unknown", "-") for one in owned.unknown]
    table = Table(("NAME", "RUN", "CLUSTER", "PURPOSE", "ADDRESS", "STATE", "UNTIL"), rows)
    return Report(SCHEMA_LIST, _data(owned), [table] if rows else ["no run holds a machine"])


def sweep_report(gone: list[MachineMade], left: Owned) -> Report:
    """What was given back, proven by what is left."""
    text = [f"given back: {one.name} (run {one.mark.run})" for one in gone if one.mark is not None]
    data = {"given_back": [one.name for one in gone], "left": _data(left)}
    return Report(SCHEMA_SWEEP, data, text or ["nothing to give back"])


def _opened(inventory: Path) -> Iaas:
    from restore.iaas.inventory import read_inventory
    from restore.iaas.site import open_iaas

    return open_iaas(read_inventory(inventory)).iaas


def _ask(waste: list[MachineMade], output: Output) -> None:
    """Ask before anything goes. Raises `PreconditionFailed` when the answer is no, or nobody is there to give one."""
    for one in waste:
        output.note(f"{one.name}  {one.address or '-'}  run {one.mark.run if one.mark else '-'}")
    if sys.stdin is None or not sys.stdin.isatty():
        raise PreconditionFailed("nothing was given back: nobody is there to be asked", hint="--yes does not ask")
    if not click.confirm("Give these back? What was made for them is destroyed.", err=True):
        raise PreconditionFailed("nothing was given back", hint="--run RUN names the run that is meant")


def _delete(iaas: Iaas, waste: list[MachineMade], output: Output) -> BbrError | None:
    """Give each back, also when another would not go. Returns the last error."""
    failed = None
    for one in waste:
        try:
            iaas.delete(one.name, run=one.mark.run if one.mark else "")
        except BbrError as err:
            output.warn(str(err))
            failed = err
    return failed


def _tell_unknown(owned: Owned) -> None:
    if owned.unknown:
        first = owned.unknown[0]
        names = ", ".join(one.name for one in owned.unknown)
        raise MachinesUnknown(
            f"{len(owned.unknown)} could not be asked: {names}. {first.why}",
            hint="run it again when they can be reached",
        )


def _row(one: MachineMade, now: datetime) -> tuple[str, ...]:
    if one.mark is None:
        return (one.name, "-", "-", "-", one.address, one.state, "-")
    until = figures.moment(one.mark.expires) + (" (over)" if one.mark.is_expired(now) else "")
    return (one.name, one.mark.run, one.mark.cluster, one.mark.purpose, one.address or "-", one.state, until)


def _data(owned: Owned) -> dict[str, object]:
    machines = [
        {
            "name": one.name,
            "address": one.address,
            "state": one.state,
            "role": one.role,
            "run": one.mark.run,
            "cluster": one.mark.cluster,
            "purpose": one.mark.purpose,
            "expires": one.mark.expires,
        }
        for one in owned.machines
        if one.mark is not None
    ]
    return {"machines": machines, "unknown": [{"name": one.name, "why": one.why} for one in owned.unknown]}
