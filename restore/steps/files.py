"""A new master's files: what the backup holds of the old one, with new names and certificates, put in place.

What was at a path goes aside into the run's folder first. Manifests are not put where the kubelet would run them: they
wait in the run's folder until their step comes.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import ClassVar

from bbr.errors import PlanInvalid, PreconditionFailed
from bbr.layouts.masterfiles import MANIFESTS
from bbr.layouts.staticpod import parse_pod
from bbr.progress import Progress
from bbr.repository.hostfiles import HostFile
from restore.plan import PlannedHost
from restore.site import Site, on_each
from restore.step import Observation, done, todo
from restore.survey import read_file

STAGED, PARKED = "staged", "parked"
BEFORE = "before"
LIST = "files.sha256"
PLACE_TIME = timedelta(minutes=5)

FORBIDDEN = tuple(
    PurePosixPath(path)
    for path in (
        "/bin",
        "/boot",
        "/dev",
        "/etc/cron.d",
        "/etc/cron.daily",
        "/etc/cron.hourly",
        "/etc/cron.monthly",
        "/etc/cron.weekly",
        "/etc/crontab",
        "/etc/environment",
        "/etc/group",
        "/etc/init.d",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/ld.so.preload",
        "/etc/pam.d",
        "/etc/passwd",
        "/etc/profile",
        "/etc/profile.d",
        "/etc/rc.local",
        "/etc/shadow",
        "/etc/ssh",
        "/etc/sudoers",
        "/etc/sudoers.d",
        "/etc/udev",
        "/home",
        "/lib",
        "/lib64",
        "/proc",
        "/root",
        "/run",
        "/sbin",
        "/sys",
        "/usr",
        "/var/lib/bbr",
        "/var/spool/cron",
    )
)
"""Where no file of a backup goes, whatever a manifest in it names: it is another's writing until it is proven."""

_PLACE = """\
set -eu
umask 077
cd "$1"
rm -rf -- unpacked
mkdir -p unpacked before staged
tar -C unpacked --same-permissions --numeric-owner -xf -
if [ ! -e swept ]; then
  find /etc/kubernetes ! -type d 2>/dev/null | while IFS= read -r path; do
    grep -qxF -e "$path" unpacked/paths && continue
    mkdir -p -- "before${path%/*}"
    mv -T -f -- "$path" "before$path"
  done
  : > swept
fi
while IFS= read -r path; do
  new="unpacked/files$path"
  old="before$path"
  if [ -e "$path" ] || [ -L "$path" ]; then
    # One that is listed as absent is ours, of a try that was cut: an undo must not bring it back.
    if [ ! -e "$old" ] && [ ! -L "$old" ] && ! grep -qsxF -e "$path" absent/list; then
      mkdir -p -- "${old%/*}"
      cp -a -- "$path" "$old.new"
      mv -T -- "$old.new" "$old"
    fi
  else
    mkdir -p absent
    echo "$path" >> absent/list
  fi
  mkdir -p -m 0755 -- "${path%/*}"
  cp -a -- "$new" "${path%/*}/.bbr-new"
  mv -T -f -- "${path%/*}/.bbr-new" "$path"
done < unpacked/paths
for staged in unpacked/staged/*; do
  [ -e "$staged" ] && mv -T -f -- "$staged" "staged/${staged##*/}"
done
mv -T -f -- unpacked/files.sha256 files.sha256
rm -rf -- unpacked
sync -f .
sync -f /etc
"""
"""the run's folder; a tar on standard input: files/<path>, staged/<manifest>, paths, files.sha256. What was at a path
is kept in before/ the first time; a path that had nothing is listed in absent/list. What else lies in /etc/kubernetes
goes aside too: an old leaf certificate or manifest would be taken for a good one."""

_TAKE_BACK = """\
set -eu
cd "$1"
mkdir -p undone
[ -f files.sha256 ] || [ -d before ] || [ -f absent/list ] || exit 0
if [ -f absent/list ]; then
  sort -u absent/list | while IFS= read -r path; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    mkdir -p -- "undone${path%/*}"
    mv -T -f -- "$path" "undone$path"
  done
fi
if [ -d before ]; then
  find before ! -type d -printf '%P\\n' | while IFS= read -r path; do
    case $path in *.new) continue;; esac
    mkdir -p -- "/${path%/*}"
    cp -a -- "before/$path" "/${path%/*}/.bbr-new"
    mv -T -f -- "/${path%/*}/.bbr-new" "/$path"
  done
fi
rm -f -- files.sha256
sync -f .
sync -f /etc
"""
"""the run's folder: what was there before comes back; what was not goes aside."""


@dataclass(frozen=True, slots=True)
class PutFiles:
    """Every new master gets its files; authorities and keys byte by byte, certificates and addresses its own."""

    site: Site
    name: ClassVar[str] = "files"
    undo_text: ClassVar[str] = "put back the files that were there before"

    @property
    def title(self) -> str:
        """Who gets whose."""
        pairs = (f"{host.name} (after {host.takes_after})" for host in self.site.plan.members)
        return f"put the control plane's files on {', '.join(pairs)}; what is there goes aside"

    @property
    def superseded_by(self) -> str:
        """From the kubelet's start on its files are its own: it renews what it was given."""
        return "join" if self.site.plan.kind == "repair" else "start-etcd"

    def observe(self) -> Observation:
        """All files are there as this run put them."""
        lacking = [name for name, there in on_each(self.site.plan.members, self._is_there).items() if not there]
        return todo(f"not yet on {', '.join(lacking)}") if lacking else done("all files are in place")

    def act(self, progress: Progress) -> None:
        """One archive for each machine, unpacked in the run's folder, then each file renamed into place."""
        progress.step(self.title)

        def one(host: PlannedHost) -> None:
            if not self._is_there(host):
                body = _packed(self.site.new_files(host))
                command = ["sh", "-c", _PLACE, "bbr", str(self.site.remote)]
                self.site.machine(host).run(command, stdin=body, timeout=PLACE_TIME)

        on_each(self.site.plan.members, one)

    def verify(self) -> None:
        """Raises `PreconditionFailed` when a file is not what was put."""
        seen = self.observe()
        if seen.state != "done":
            raise PreconditionFailed(seen.seen)

    def undo(self) -> None:
        """What was there before comes back."""
        on_each(self.site.plan.members, lambda host: take_back(self.site, host))

    def _is_there(self, host: PlannedHost) -> bool:
        machine, listed = self.site.machine(host), str(self.site.remote / LIST)
        if machine.stat(PurePosixPath(listed)) is None:
            return False
        return machine.run(["sha256sum", "--quiet", "--status", "-c", listed], expect=(0, 1)).exit_code == 0


def take_back(site: Site, host: PlannedHost) -> None:
    """Put back on a machine what the run's folder keeps in before/; what was not there before goes aside."""
    site.machine(host).run(["sh", "-c", _TAKE_BACK, "bbr", str(site.remote)], timeout=PLACE_TIME)


def staged_manifests(site: Site, host: PlannedHost) -> Mapping[str, str]:
    """All manifests that wait on a new master, by program."""
    return manifests_in(site, host, STAGED)


def manifests_in(site: Site, host: PlannedHost, folder: str) -> Mapping[str, str]:
    """The manifests that wait in a folder of the run on a machine, by program. Units do not move: there are none."""
    if host.layout != "kubeadm":
        return {}
    machine = site.machine(host)
    command = ["find", str(site.remote / folder), "-maxdepth", "1", "-type", "f", "-printf", "%f\\n"]
    found = {}
    for name in machine.run(command, expect=(0, 1)).stdout.decode(errors="replace").splitlines():
        body = read_file(machine, site.remote / folder / name)
        if body is not None:
            text = body.decode(errors="replace")
            found[parse_pod(text, PurePosixPath(name).stem, what=f"{machine.name}: {name}").program] = text
    return found


def check_places(files: Iterable[HostFile]) -> None:
    """Raises `PlanInvalid` for files that no control plane has: a backup is not believed where it leads to."""
    placed = list(files)
    links = {file.path for file in placed if file.link}
    for file in placed:
        text = str(file.path)
        if posixpath.normpath(text) != text or not file.path.is_absolute() or any(map(_is_control, text)):
            raise PlanInvalid(f"the backup has a file at {text[:200]!r}, which is no plain path")
        if any(file.path == place or file.path.is_relative_to(place) for place in FORBIDDEN):
            raise PlanInvalid(
                f"the backup has a file at {text[:200]}, where none of a control plane belongs",
                hint="whoever wrote this backup may not be who you think: look at `bbr show`, and choose another",
            )
        if any(parent in links for parent in file.path.parents):
            raise PlanInvalid(f"the backup has a file at {text[:200]} below a link of its own")


def _is_control(letter: str) -> bool:
    return ord(letter) < 32 or ord(letter) == 127


def _packed(files: Iterable[HostFile]) -> bytes:
    """The tar that `_PLACE` takes."""
    placed = [file for file in files if file.path.parent != MANIFESTS]
    manifests = [file for file in files if file.path.parent == MANIFESTS and not file.link]
    sums = "".join(f"{hashlib.sha256(file.body).hexdigest()}  {file.path}\n" for file in placed if not file.link)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in placed:
            _add(tar, f"files{file.path}", file)
        for file in manifests:
            _add(tar, f"staged/{file.path.name}", file)
        _add(tar, "paths", _own("".join(f"{file.path}\n" for file in placed)))
        _add(tar, "files.sha256", _own(sums))
    return out.getvalue()


def _own(text: str) -> HostFile:
    return HostFile(PurePosixPath("/"), 0o600, 0, 0, text.encode())


def _add(tar: tarfile.TarFile, name: str, file: HostFile) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = file.mode & 0o777, file.uid, file.gid
    if file.link:
        member.type, member.linkname = tarfile.SYMTYPE, file.link
    else:
        member.size = len(file.body)
    tar.addfile(member, io.BytesIO(file.body))
