"""``bbr lab``: hosts on this machine, in network namespaces of their own, to rehearse a disaster on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from bbr.cli.display import progress_on
from bbr.cli.options import FOLDER, output_options
from bbr.cli.output import Output, Report, Table
from bbr.errors import BbrError, UsageError

if TYPE_CHECKING:
    from bbr.lab.cluster.spec import Cluster
    from bbr.lab.lab import Lab

SCHEMA = "bbr.lab/1"
SCHEMA_DOWN = "bbr.lab-down/1"
HOSTS_LIMIT = 20
NUMBER = click.IntRange(1, HOSTS_LIMIT)

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
      bbr lab up cluster --tier true --masters 3 --workers 1
      bbr lab ssh rehearsal host-1
      bbr lab down rehearsal
    """


@command.command("up")
@click.argument("name")
@click.option("--hosts", "count", type=NUMBER, help="How many hosts, where no cluster is asked for. Default: 3.")
@click.option(
    "--tier",
    type=click.Choice(["hosts", "fast", "true"]),
    default="hosts",
    show_default=True,
    help="hosts: bare ones. fast: a cluster without containers, in seconds. true: kubeadm, kubelet and containerd.",
)
@click.option("--masters", type=NUMBER, help="How many masters the cluster has. Default: 1.")
@click.option("--workers", type=click.IntRange(0, HOSTS_LIMIT), help="How many workers it has. Default: none.")
@click.option(
    "--bin-dir",
    "programs",
    type=FOLDER,
    multiple=True,
    metavar="DIR",
    help="A folder of this machine whose programs every host gets; for a cluster, looked into before the PATH. "
    "May be given more than once.",
)
@base_option
@output_options
def up(
    *,
    name: str,
    count: int | None,
    tier: str,
    masters: int | None,
    workers: int | None,
    programs: tuple[Path, ...],
    base: Path | None,
    output: Output,
) -> None:
    """Make a lab and its hosts: host-1, host-2, ... It stays until it is taken down.

    With a tier it is a Kubernetes cluster: master-1, ..., worker-1, ... Each master needs some 800 MB of memory.

    \b
    Examples:
      bbr lab up rehearsal
      bbr lab up rehearsal --hosts 1 --bin-dir /opt/kubernetes/bin
      bbr lab up rehearsal --tier true --masters 3 --workers 1
      bbr lab up rehearsal --tier fast --masters 1
    """
    place = _Place(name, base)
    if tier == "hosts":
        if masters is not None or workers is not None:
            raise UsageError("bare hosts are no masters and no workers", hint="add --tier fast or --tier true")
        _bare(place, count or 3, programs, output)
        return
    if count is not None:
        raise UsageError("a cluster's hosts are counted by --masters and --workers", hint="leave --hosts out")
    _cluster(place, "true" if tier == "true" else "fast", (masters or 1, workers or 0), programs, output)


@dataclass(frozen=True, slots=True)
class _Place:
    """Which lab is made, and where."""

    name: str
    base: Path | None

    def command(self, verb: str, *words: str) -> tuple[str, ...]:
        """The command that does something with it; what follows a host is the host's command."""
        return ("bbr", "lab", verb, *_base_flags(self.base), self.name, *words)


def _bare(place: _Place, count: int, programs: Sequence[Path], output: Output) -> None:
    from bbr.lab.host import HostSpec
    from bbr.lab.lab import BASE, Lab

    specs = [HostSpec(f"host-{number}", programs=tuple(programs)) for number in range(1, count + 1)]
    lab = Lab.up(specs, base=place.base or BASE, name=place.name, is_kept=True)
    output.report(report([lab]))
    output.next_command(*place.command("ssh", lab.hosts[0].name), why="look around on one")


def _cluster(
    place: _Place, tier: Literal["fast", "true"], counts: tuple[int, int], programs: Sequence[Path], output: Output
) -> None:
    from bbr.lab.cluster import programs as wanted
    from bbr.lab.cluster.spec import ADMIN_CONF, ClusterSpec, host_specs
    from bbr.lab.lab import BASE, Lab
    from bbr.servers.binaries import search_path

    masters, workers = (
        tuple(f"{role}-{number}" for number in range(1, count + 1))
        for role, count in zip(("master", "worker"), counts, strict=True)
    )
    spec = ClusterSpec(masters, workers)
    search = (*programs, *search_path(bin_dir=None, environ=os.environ))
    folders = wanted.folders(wanted.TRUE if tier == "true" else wanted.FAST, search)
    lab = Lab.up(host_specs(spec, folders), base=place.base or BASE, name=place.name, is_kept=True)
    try:
        with progress_on(output.stderr) as progress:
            _create(tier)(lab, spec, progress=progress)
    except BbrError:
        look, end = (shlex.join(words) for words in (place.command("ssh", masters[0]), place.command("down")))
        output.note(f"the lab is left as it is; look around with `{look}`, take it down with `{end}`")
        raise
    except BaseException:
        lab.down()
        raise
    output.report(report([lab]))
    kubectl = ("kubectl", "--kubeconfig", ADMIN_CONF, "get", "nodes")
    output.next_command(*place.command("ssh", masters[0], *kubectl), why="look at the cluster")
    output.next_command(*place.command("down"), why="take it down when you are done")


def _create(tier: Literal["fast", "true"]) -> Callable[..., Cluster]:
    if tier == "true":
        from bbr.lab.cluster import true

        return true.create
    from bbr.lab.cluster import fast

    return fast.create


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
        its = {"name": lab.name, "ssh_config": lab.ssh_config, "hosts": hosts, "names": dict(lab.pointers)}
        data.append(its)
    text = Table(("LAB", "HOST", "ADDRESS", "STATE"), rows) if rows else "no labs"
    return Report(SCHEMA, {"labs": data}, [text])


def _base_flags(base: Path | None) -> list[str]:
    return ["--base", str(base)] if base else []
