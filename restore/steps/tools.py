"""etcd's own programs on a machine of the plan: of the version that will serve what is restored."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from bbr.errors import ToolMissing
from bbr.servers.binaries import find
from restore.plan import PlannedHost
from restore.program import Name, Program, find_program
from restore.site import Site


def find_tool(site: Site, host: PlannedHost, name: Name) -> Program:
    """The program, wherever the machine has one, or from this host. Raises `ToolMissing`."""
    return find_program(
        site.machine(host),
        name,
        wanted=site.plan.source.etcd.server_version,
        image=host.etcd_image or None,
        run=site.remote,
        upload=_here(site, name),
        data_dir=PurePosixPath(host.data_dir),
    )


def _here(site: Site, name: Name) -> Path | None:
    """One of the wanted minor version; else any, whose version is then told."""
    minor = ".".join(site.plan.source.etcd.server_version.split(".")[:2])
    try:
        return find(name, search=site.programs, version=minor).path
    except ToolMissing:  # also where the machines' programs do not run on this host
        return next((folder / name for folder in site.programs if (folder / name).is_file()), None)
