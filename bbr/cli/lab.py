"""``bbr lab``: hosts on this machine, in network namespaces of their own, to rehearse a disaster on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli.options import FOLDER, output_options
from bbr.cli.output import Output, Report, Table
from bbr.errors import UsageError

if TYPE_CHECKING:
    from bbr.lab.lab import Lab

SCHEMA = "bbr.lab/1"
SCHEMA_DOWN = "bbr.lab-down/1"
HOSTS_LIMIT = 20

base_option = click.option(
    "--base", type=FOLDER, help="The folder that labs lie in. Default: /var/lib/bbr/lab.", metavar="DIR"
)


@click.group("lab")
def command() -> None:
    """Make hosts on this machine, to rehearse a disaster on.

    A host has a network, a disk, processes and a name of its own, and is reached over SSH. It cannot reach the world,
    nor this machine. Needs root.

    \b
    Examples:
      bbr lab up rehearsal --hosts 3
      bbr lab ssh rehearsal host-1
      bbr lab down rehearsal
    """


@command.command("up")
@click.argument("name")
@click.option("--hosts", "count", type=click.IntRange(1, HOSTS_LIMIT), default=3, help="How many. Default: 3.")
@click.option(
    "--bin-dir",
    "programs",
    type=FOLDER,
    multiple=True,
    metavar="DIR",
    help="A folder of this machine whose programs every host gets; may be given more than once.",
)
@base_option
@output_options
def up(*, name: str, count: int, programs: tuple[Path, ...], base: Path | None, output: Output) -> None:
    """Make a lab and its hosts: host-1, host-2, ... It stays until it is taken down.

    \b
    Examples:
      bbr lab up rehearsal
      bbr lab up rehearsal --hosts 1 --bin-dir /opt/kubernetes/bin
    """
    from bbr.lab.host import HostSpec
    from bbr.lab.lab import BASE, Lab

    specs = [HostSpec(f"host-{number}", programs=programs) for number in range(1, count + 1)]
    lab = Lab.up(specs, base=base or BASE, name=name, is_kept=True)
    output.report(report([lab]))
    words = ("bbr", "lab", "ssh", *_base_flags(base), name, lab.hosts[0].name)  # what follows the host is its command
    output.next_command(*words, why="look around on one")


@command.command("status")
@click.argument("name", required=False)
@base_option
@output_options
def status(*, name: str | None, base: Path | None, output: Output) -> None:
    """List the labs, or one, and their hosts.

    \b
    Example:
      bbr lab status -o json
    """
    from bbr.lab.lab import BASE, Lab
    from bbr.lab.remains import labels

    place = base or BASE
    names = [name] if name is not None else [one.name for one in labels(place)]
    output.report(report([Lab.open(one, base=place) for one in names]))


@command.command("ssh", context_settings={"allow_interspersed_args": False})
@click.argument("name")
@click.argument("host")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
@base_option
def ssh(*, name: str, host: str, words: tuple[str, ...], base: Path | None) -> None:
    """Log in on a host as root, or run one command there.

    Ends with the code of the command, as ssh does.

    \b
    Examples:
      bbr lab ssh rehearsal host-1
      bbr lab ssh rehearsal host-1 ip address
    """
    from bbr.lab.lab import BASE, Lab

    lab = Lab.open(name, base=base or BASE)
    if host not in [one.name for one in lab.hosts]:
        there = ", ".join(one.name for one in lab.hosts) or "none"
        raise UsageError(f"lab {name} has no host {host!r}", hint=f"its hosts: {there}")
    os.execvp("ssh", ["ssh", "-F", str(lab.ssh_config), host, *words])  # noqa: S606, S607 - wherever this user has it


@command.command("down")
@click.argument("name")
@base_option
@output_options
def down(*, name: str, base: Path | None, output: Output) -> None:
    """Take a lab down: no process, network, mount or file of it is left.

    \b
    Example:
      bbr lab down rehearsal
    """
    from bbr.lab.lab import BASE, Lab

    Lab.open(name, base=base or BASE).down()
    output.report(Report(SCHEMA_DOWN, {"name": name}, [f"lab {name} is gone"]))


def report(labs: list[Lab]) -> Report:
    """Every host of these labs."""
    rows, data = [], []
    for lab in labs:
        hosts = []
        for one in lab.status():
            state = "off" if one.first_process is None else "on"
            rows.append((lab.name, one.host.name, one.host.address, state))
            hosts.append({"name": one.host.name, "address": one.host.address, "state": state})
        data.append({"name": lab.name, "ssh_config": lab.ssh_config, "hosts": hosts})
    text = Table(("LAB", "HOST", "ADDRESS", "STATE"), rows) if rows else "no labs"
    return Report(SCHEMA, {"labs": data}, [text])


def _base_flags(base: Path | None) -> list[str]:
    return ["--base", str(base)] if base else []
