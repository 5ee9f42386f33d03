"""What the backup's API servers could read, these must be able to read: keys are added to the files on their disks.

Only in place: new machines get the backup's own files. The API servers are stopped, and their manifests wait in the
run's folder; what is changed is kept first, and an undo puts it back byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import ClassVar

from bbr.errors import PreconditionFailed
from bbr.layouts.staticpod import parse_pod
from bbr.progress import Progress
from restore.canary import canaries, check_canaries
from restore.guard import RUNS
from restore.plan import PlannedHost
from restore.readkeys import API_SERVER, Added, Keys, added_keys, read_keys
from restore.site import Site, on_each
from restore.step import Observation, done, todo
from restore.steps.files import BEFORE, PARKED, STAGED, take_back
from restore.survey import read_file

_KEEP = """\
set -eu
umask 077
cd "$1"
shift
for path in "$@"; do
  grep -qsxF -e "$path" absent/list && continue
  if [ -e "$path" ]; then
    if [ ! -e "before$path" ]; then
      mkdir -p -- "before${path%/*}"
      cp -a -- "$path" "before$path.new"
      mv -T -- "before$path.new" "before$path"
    fi
  else
    mkdir -p absent
    echo "$path" >> absent/list
  fi
done
sync -f .
"""
"""the run's folder, paths: keep what is there, the first time; note what is not. As `restore.steps.files` has them."""


@dataclass(frozen=True, slots=True)
class MergeKeys:
    """Encryption keys and service-account keys of the backup, for reading only."""

    site: Site
    name: ClassVar[str] = "merge-keys"
    title: ClassVar[str] = "add the backup's encryption and service-account keys where they are missing, for reading"
    undo_text: ClassVar[str] = "put back the files that were changed"
    superseded_by: ClassVar[str] = "start-api-servers"

    def observe(self) -> Observation:
        """Nothing is missing anywhere."""
        found = on_each(self.site.plan.members, self._added)
        lacking = [name for name, added in found.items() if added is not None and added.diffs]
        return todo(f"keys are missing on {', '.join(lacking)}") if lacking else done("no key is missing")

    def act(self, progress: Progress) -> None:
        """Keep the old files, then put the new ones, the manifest that names them last."""
        progress.step(self.title)
        on_each(self.site.plan.members, self._change)

    def verify(self) -> None:
        """Raises `PreconditionFailed` while a key is missing, or a Secret of the snapshot cannot be opened."""
        if self.observe().state != "done":
            raise PreconditionFailed(self.observe().seen)
        found = canaries(self.site.source.snapshot)
        for host in self.site.plan.members:
            keys = self._keys(host)
            if keys is not None:
                check_canaries(
                    found,
                    keys.encryption,
                    what=f"{host.name}: {keys.encryption_path or 'no encryption configuration'}",
                    hint="`bbr restore undo`; then choose a backup that holds the key, or put the configuration of "
                    "that time there (`bbr show` names it)",
                )

    def undo(self) -> None:
        """The old files come back."""
        on_each(self.site.plan.members, lambda host: take_back(self.site, host))

    def _change(self, host: PlannedHost) -> None:
        machine, added = self.site.machine(host), self._added(host)
        keys = self._keys(host)
        if added is None or keys is None or not added.diffs:
            return
        wanted = dict(added.files)
        if added.manifest is not None:
            wanted[keys.path] = added.manifest.encode()  # last: it names the others
        # What a link leads to is what is changed.
        command = ["readlink", "-m", "--", *map(str, wanted)]
        places = [PurePosixPath(line) for line in machine.run(command).stdout.decode().splitlines()]
        machine.run(["sh", "-c", _KEEP, "bbr", str(self.site.remote), *map(str, places)])
        for place, body in zip(places, wanted.values(), strict=True):
            about = machine.stat(place)
            mode, owner = (about.mode, about.owner) if about is not None else (0o600, "root:root")
            machine.put(place, [body], mode=mode, owner=owner)

    def _added(self, host: PlannedHost) -> Added | None:
        mine, theirs = self._keys(host), self._theirs(host)
        if mine is None or theirs is None:
            return None
        return added_keys(mine, theirs, what=host.name)

    def _keys(self, host: PlannedHost) -> Keys | None:
        return api_server_keys(self.site, host)

    def _theirs(self, host: PlannedHost) -> Keys | None:
        """What the data was written with: by the backup's masters, or, of a safety snapshot, by these before."""
        theirs, run = self.site.old_keys, self.site.plan.source.safety_run
        mine = self._keys(host) if run else None
        if theirs is None or mine is None or mine.encryption_path is None:
            return theirs
        before = read_file(self.site.machine(host), RUNS / run / f"{BEFORE}{mine.encryption_path}")
        return theirs if before is None else replace(theirs, encryption=before)


def api_server_keys(site: Site, host: PlannedHost) -> Keys | None:
    """What the API server of a host will read with, by its manifest that waits in its run's folder, if any."""
    machine, folder = site.machine(host), site.remote / (STAGED if host.takes_after else PARKED)
    command = ["find", str(folder), "-maxdepth", "1", "-type", "f"]
    for line in sorted(machine.run(command, expect=(0, 1)).stdout.decode(errors="replace").splitlines()):
        path = PurePosixPath(line)
        text = (read_file(machine, path) or b"").decode(errors="replace")
        if parse_pod(text, path.stem, what=f"{machine.name}: {path}").program == API_SERVER:
            return read_keys(path, text, partial(read_file, machine), what=f"{machine.name}: {path}")
    return None
