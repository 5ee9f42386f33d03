"""``bbr demo``: the guided tour, on servers that live as long as it does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import bin_dir_option, output_options
from bbr.cli.output import Output, Report, Table
from bbr.errors import ToolMissing
from bbr.progress import Progress, Silent
from bbr.scratch import scratch_folder

if TYPE_CHECKING:
    from bbr.demo.run import Step, Tools
    from bbr.stores.store import Store

SCHEMA = "bbr.demo/1"
_WHAT_WIDTH = 62


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
@bin_dir_option
@output_options
def command(*, place: str, objects: int, bin_dir: Path | None, output: Output) -> None:
    """Back up, destroy and restore a throw-away etcd, and compare every key.

    Starts a real etcd, loads it with Kubernetes-like objects, makes a repository, takes a backup, changes some objects
    and takes another one, kills etcd and deletes its data, restores, boots, and compares all that came back with what
    was there. Takes well under a minute, touches nothing of yours, and leaves nothing behind.

    \b
    Examples:
      bbr demo
      bbr demo --store minio --objects 100000
      bbr demo --bin-dir /opt/etcd/bin -o json
    """
    from bbr.demo.run import tour
    from bbr.servers.binaries import search_path

    search = search_path(bin_dir=bin_dir, environ=os.environ)
    tools = _tools(search)
    steps: list[Step] = []
    relay = _Relay()
    # TMPDIR decides where; the folder goes with the context, after the servers that use it.
    with scratch_folder(Path(tempfile.gettempdir())) as base:
        open_place = _minio(search, base) if place == "minio" else _Directory(base / "repository")
        with closing(tour(tools, base, objects=objects, open_place=open_place, progress=relay)) as walking:
            while (step := _next(walking, relay, output)) is not None:
                steps.append(step)
                if output.form == "table":
                    output.data(_line(len(steps), step))
    if output.form == "json":
        output.report(report(steps))
    else:
        total = figures.duration(sum(step.seconds for step in steps))
        output.data(f"\nEverything came back, byte for byte, in {total}. Nothing was left behind.")
    output.next_command("bbr", "init", "--repo", "/mnt/backups", why="make a repository of your own")


def report(steps: Sequence[Step]) -> Report:
    """All steps, for a program."""
    data = {
        "steps": [
            {"what": one.what, "detail": one.detail, "seconds": round(one.seconds, 3), **one.figures} for one in steps
        ],
        "seconds": round(sum(step.seconds for step in steps), 3),
        "equal": True,
    }
    rows = [(step.what, figures.duration(step.seconds), step.detail) for step in steps]
    return Report(SCHEMA, data, [Table(("STEP", ">TIME", "WHAT IT SHOWED"), rows)])


class _Relay:
    """Passes progress on to whatever display is open at the moment."""

    def __init__(self) -> None:
        self.target: Progress = Silent()

    def step(self, what: str) -> None:
        self.target.step(what)

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        self.target.advance(done_bytes, total_bytes)

    def warn(self, what: str) -> None:
        self.target.warn(what)


def _next(walking: Iterator[Step], relay: _Relay, output: Output) -> Step | None:
    """The next step. The live line is gone before the step's own line is printed."""
    with progress_on(output.stderr, keep_steps=False) as progress:
        relay.target = progress
        return next(walking, None)


def _line(number: int, step: Step) -> str:
    return f"{number:2}  {step.what:{_WHAT_WIDTH}} {figures.duration(step.seconds):>7}  {step.detail}"


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
