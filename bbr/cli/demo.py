"""``bbr demo``: the guided tour, on servers that live as long as it does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from bbr.cli.options import FOLDER, bin_dir_option, output_options
from bbr.cli.output import Output
from bbr.cli.tours import Relay, end, walk
from bbr.errors import ToolMissing, UsageError
from bbr.scratch import scratch_folder

if TYPE_CHECKING:
    from bbr.demo.run import Tools
    from bbr.stores.store import Store

SCHEMA = "bbr.demo/1"
SCHEMA_CLUSTER = "bbr.demo-cluster/1"


@click.command("demo")
@click.option(
    "--store",
    "place",
    type=click.Choice(["directory", "minio"]),
    default="directory",
    show_default=True,
    help="Where the repository lies: in a folder, or in a real MinIO server that is started for it.",
)
@click.option(
    "--objects",
    type=click.IntRange(100, 1_000_000),
    default=20_000,
    show_default=True,
    metavar="N",
    help="How many objects to load into etcd.",
)
@click.option(
    "--cluster",
    "is_cluster",
    is_flag=True,
    help="Lose the master of a real Kubernetes cluster instead, and rebuild it on a new machine. Needs root.",
)
@click.option(
    "--base", type=FOLDER, metavar="DIR", help="With --cluster: where its hosts lie. Default: as for bbr lab."
)
@bin_dir_option
@output_options
def command(
    *, place: str, objects: int, is_cluster: bool, base: Path | None, bin_dir: Path | None, output: Output
) -> None:
    """Back up, destroy and restore a throw-away etcd, and compare every key.

    Starts a real etcd, loads it with Kubernetes-like objects, makes a repository, takes a backup, changes some objects
    and takes another one, kills etcd and deletes its data, restores, boots, and compares all that came back with what
    was there. Takes well under a minute, touches nothing of yours, and leaves nothing behind.

    With --cluster it makes a cluster with kubeadm, kubelet and containerd on hosts in network namespaces of their own,
    backs it up, destroys its master with its disk, and rebuilds it on another machine by `bbr restore plan` and
    `apply`, while the worker's pods run on. It takes some minutes, 3 GB of memory, and what `make testbed-lab` builds.

    \b
    Examples:
      bbr demo
      bbr demo --cluster
      bbr demo --store minio --objects 100000
      bbr demo --bin-dir /opt/etcd/bin -o json
    """
    from bbr.demo.run import tour
    from bbr.servers.binaries import search_path

    search = search_path(bin_dir=bin_dir, environ=os.environ)
    if is_cluster:
        given = click.get_current_context().get_parameter_source
        if ParameterSource.COMMANDLINE in (given("place"), given("objects")):
            raise UsageError("--store and --objects are for the demo without --cluster", hint="leave them out")
        _cluster(search, base, output)
        return
    if base is not None:
        raise UsageError("--base is for the demo with --cluster", hint="TMPDIR says where the other one works")
    tools = _tools(search)
    relay = Relay()
    # TMPDIR decides where; the folder goes with the context, after the servers that use it.
    with scratch_folder(Path(tempfile.gettempdir())) as base:
        open_place = _minio(search, base) if place == "minio" else _Directory(base / "repository")
        steps = walk(tour(tools, base, objects=objects, open_place=open_place, progress=relay), relay, output)
    end(SCHEMA, steps, "Everything came back, byte for byte", output)
    output.next_command("bbr", "init", "--repo", "/mnt/backups", why="make a repository of your own")


def _cluster(search: Sequence[Path], base: Path | None, output: Output) -> None:
    from bbr.demo.cluster import tour
    from bbr.lab.cluster.programs import TRUE, folders
    from bbr.lab.lab import BASE
    from bbr.lab.programs import check_machine

    check_machine()
    programs, relay = folders(TRUE, search), Relay()
    with scratch_folder(Path(tempfile.gettempdir())) as folder:
        steps = walk(tour(programs, folder, base=base or BASE, progress=relay), relay, output)
    end(SCHEMA_CLUSTER, steps, "The cluster came back, and its worker never stopped", output)
    output.next_command("bbr", "restore", "plan", "--help", why="plan a rebuild of your own")


def _tools(search: Sequence[Path]) -> Tools:
    """The first etcd that has an etcdutl of its version. Raises `ToolMissing`."""
    from bbr.demo.run import Tools
    from bbr.etcd.tools import find_etcdutl
    from bbr.servers.binaries import find

    problems: list[ToolMissing] = []
    for folder in search:
        if (folder / "etcd").is_file():
            try:
                etcd = find("etcd", search=[folder])
                return Tools(etcd, find_etcdutl(search, server_version=etcd.version))
            except ToolMissing as err:
                problems.append(err)
    if problems:
        raise problems[0]
    raise ToolMissing("etcd is not on this machine", hint="name its folder with --bin-dir, or build it: `make testbed`")


class _Directory:
    """A folder as the demo's store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, running: ExitStack) -> Store:  # noqa: ARG002 - a folder has nothing to close
        from bbr.stores.directory import DirectoryStore

        self._folder.mkdir(mode=0o700)
        return DirectoryStore(self._folder)


class _Minio:
    """A bucket in a MinIO server of the demo's own."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary, self._folder = binary, folder

    def __call__(self, running: ExitStack) -> Store:
        from bbr.servers.minio import start_minio
        from bbr.stores.url import open_store

        server = running.enter_context(start_minio(self._binary, self._folder))
        server.create_bucket("bbr-demo")
        running.enter_context(_environment(MINIO_ACCESS_KEY=server.access_key, MINIO_SECRET_KEY=server.secret_key))
        return open_store(f"minio+{server.endpoint}/bbr-demo/clusters")


def _minio(search: Sequence[Path], base: Path) -> _Minio:
    """Looked for before anything is started. Raises `ToolMissing`."""
    from bbr.servers.binaries import find

    return _Minio(find("minio", search=search).path, base / "minio")


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Where the SDKs look for credentials: they never stand in an address."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
