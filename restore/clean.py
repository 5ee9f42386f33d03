"""Removing what a run kept aside, when nobody needs it any more: old data, old files, the safety snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from bbr.errors import StepBlocked
from bbr.progress import Progress
from bbr.scratch import sweep
from restore import member
from restore.fleet import Fleet
from restore.journal import past_of
from restore.plan import PlannedHost
from restore.site import Site, on_each
from restore.steps.members import SAFETY

_REMOVE = """\
set -eu
size=$(du -sb -- "$1" 2>/dev/null | cut -f1)
rm -rf -- "$1"
echo "${size:-0}"
"""


def clean_run(site: Site, fleet: Fleet, *, progress: Progress) -> int:
    """Remove it from every machine and from this host. Returns how many bytes that were.

    Raises `StepBlocked` while the run is neither finished nor undone: what is aside may still be needed.
    """
    past = past_of(site.folder.journal.read())
    if past.begun and not (past.is_finished or past.is_undone):
        raise StepBlocked(
            f"the restore {site.plan.run} is neither finished nor undone",
            hint="`bbr restore apply` finishes it, `bbr restore undo` takes it back",
        )
    progress.step("removing what was kept aside on the machines")
    freed = sum(on_each(site.plan.hosts, lambda host: _clean_host(site, host)).values())
    fleet.leave(progress.warn)
    sweep(site.folder.path)  # what a killed run had fetched
    safety = site.folder.path / SAFETY
    if safety.exists():
        freed += safety.stat().st_size
        safety.unlink()
    site.folder.journal.write("cleaned", detail=f"{freed:,} bytes")
    return freed


def _clean_host(site: Site, host: PlannedHost) -> int:
    machine = site.machine(host)
    freed = 0
    for folder in _folders(host) if host.role == "member" else ():
        freed += sum(one.size_bytes for one in member.leftovers(machine, folder) if one.run == site.plan.run)
        member.clean(machine, folder, site.plan.run)
    output = machine.run(["sh", "-c", _REMOVE, "bbr", str(site.remote)])
    return freed + int(output.stdout or b"0")


def _folders(host: PlannedHost) -> Sequence[PurePosixPath]:
    return [PurePosixPath(folder) for folder in (host.data_dir, host.wal_dir) if folder]
