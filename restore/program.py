"""etcd's own programs on a machine: found there, taken out of its container runtime or a live etcd, or uploaded.

A kubeadm master has no etcdutl on its PATH: it lies in etcd's image. Looked for, in this order:
1. on the PATH;
2. in the image of etcd's manifest, run by `ctr`, where the machine's containerd holds it;
3. in the run's folder, where an earlier call left it;
4. in the root of the live etcd's container, from which it is copied into the run's folder (CRI-O has no `ctr`);
5. on the operator's host, from which it is uploaded into the run's folder.

The live etcd is known by its open database file, and by nothing that it says of itself: any pod can name a process
etcd, and what is copied runs as root. Only the minor version that was asked for is taken, and of etcdutl 3.5 only
3.5.10 or later, because the ones before cannot bump revisions (bbr.etcd.tools).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Literal

from bbr.errors import CommandTimedOut, ToolMissing
from bbr.etcd.tools import FIRST_WITH_BUMP
from bbr.machines.machine import Digest, Machine

Name = Literal["etcd", "etcdctl", "etcdutl"]

ETCD_DATA_DIR = PurePosixPath("/var/lib/etcd")
VERSION_TIME = timedelta(seconds=60)
"""For a program to say its version, by the container runtime on a slow disk too."""

PROGRAMS = "programs"
"""The folder of a run's folder where copies of programs lie."""

_ANSWERS = {
    "etcd": (["--version"], r"^etcd Version: (\d+\.\d+\.\d+)"),
    "etcdctl": (["version"], r"^etcdctl version: (\d+\.\d+\.\d+)"),
    "etcdutl": (["version"], r"^etcdutl version: (\d+\.\d+\.\d+)"),
}
_EVERY_CODE = range(256)
_CHUNK_BYTES = 1 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")
_LONGEST_MARK = 40
"""containerd takes 76 characters of a container's name, and the rest is ours."""

_ON_PATH = 'command -v -- "$1"'
"""name: its path."""

_HAS_IMAGE = """\
command -v ctr >/dev/null || exit 3
ctr -n k8s.io images ls -q | grep -qxF -- "$1"
"""
"""image: 0 when containerd holds it, 3 when there is no `ctr`."""

_END_CONTAINERS = """\
for one in $(ctr -n k8s.io containers ls -q); do
  case $one in "$1"*) ;; *) continue ;; esac
  ctr -n k8s.io tasks kill -s KILL "$one" || :
  ctr -n k8s.io tasks delete -f "$one" || :
  ctr -n k8s.io containers delete "$one" || :
done >/dev/null 2>&1
"""
"""beginning of names: the containers of calls whose `ctr` was killed are ended; they live on without it."""

_IN_CONTAINER = f"""\
{_END_CONTAINERS}
shift
exec ctr -n k8s.io run --rm "$@"
"""

_FROM_LIVE = """\
set -eu
umask 077
for open in $(find -L /proc/[0-9]*/fd -maxdepth 1 -samefile "$1" 2>/dev/null || :); do
  process=${open%/fd/*}
  own=$(readlink "$process/exe") || continue
  for folder in "${own%/*}" /usr/local/bin /usr/bin; do
    from=$process/root$folder/$2
    [ -f "$from" ] && [ ! -L "$from" ] || continue
    mkdir -p -- "${3%/*}"
    rm -f -- "$3.new"
    cp -- "$from" "$3.new"
    chmod 0700 "$3.new"
    sync -- "$3.new"
    mv -T -f -- "$3.new" "$3"
    echo "${process#/proc/}"
    exit 0
  done
done
exit 3
"""
"""etcd's database, name, target: copied from the root of the process that has it open, whose number is told."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program on a machine, the version that it reported, and for messages ``where`` it is from.

    With an ``image`` it is run by containerd, under container names that begin with ``mark``.
    """

    name: Name
    version: str
    where: str
    path: PurePosixPath
    image: str = ""
    mark: str = ""

    def command(
        self, arguments: Sequence[str], *, binds: Sequence[PurePosixPath] = (), network: bool = False
    ) -> list[str]:
        """The words for `Machine.run`. ``binds`` are the folders that it must see, under their own names.

        Its environment is empty: ETCDUTL_* variables would change what a flag does not say. With ``network`` it is in
        the machine's network. In a container, what killed calls of the same program and run left is ended first; so
        two calls of one program on one machine exclude one another.
        """
        if not self.image:
            return ["env", "-i", str(self.path), *arguments]
        words = ["--net-host"] if network else []
        for folder in dict.fromkeys(binds):
            words += ["--mount", f"type=bind,src={folder},dst={folder},options=rbind:rw"]
        container = f"{self.mark}{secrets.token_hex(4)}"
        return ["sh", "-c", _IN_CONTAINER, "bbr", self.mark, *words, self.image, container, str(self.path), *arguments]

    def ending(self) -> list[str]:
        """The words that end what killed calls left running beside the runtime; harmless when nothing was left."""
        return ["sh", "-c", _END_CONTAINERS, "bbr", self.mark] if self.image else ["true"]


def find_program(
    machine: Machine,
    name: Name,
    *,
    wanted: str,
    image: str | None,
    run: PurePosixPath,
    upload: Path | None = None,
    data_dir: PurePosixPath = ETCD_DATA_DIR,
) -> Program:
    """A program with the minor version of ``wanted`` ("3.6.16"), from the first place that has one.

    ``image`` is the one that etcd's manifest names, ``run`` the run's folder on the machine, ``upload`` the program on
    this host, ``data_dir`` what a live etcd serves. Raises `ToolMissing`, telling each place and what was there.
    """
    seen: list[str] = []
    copy = run / PROGRAMS / name
    for program in _candidates(machine, name, image=image, copy=copy, upload=upload, data_dir=data_dir, seen=seen):
        version, problem = _version(machine, program, wanted)
        if not problem:
            return Program(name, version, program.where, program.path, program.image, program.mark)
        seen.append(f"{program.where}: {problem}")
    minor = _minor(wanted)
    least = " (3.5.10 or later)" if minor == "3.5" else ""
    raise ToolMissing(
        f"{machine.name}: there is no {name} {minor}{least}: {'; '.join(seen)}",
        hint=f"install {name} {minor} on it, or name the folder of one on this host to be uploaded",
    )


def _candidates(
    machine: Machine,
    name: Name,
    *,
    image: str | None,
    copy: PurePosixPath,
    upload: Path | None,
    data_dir: PurePosixPath,
    seen: list[str],
) -> Iterator[Program]:
    """Programs whose version is not known yet, each found only when those before it did not fit."""
    found = machine.run(["sh", "-c", _ON_PATH, "bbr", name], expect=_EVERY_CODE).stdout.decode(errors="replace").strip()
    if found.startswith("/"):
        yield Program(name, "", found, PurePosixPath(found))
    else:
        seen.append("none on its PATH")
    if image:
        code = machine.run(["sh", "-c", _HAS_IMAGE, "bbr", image], expect=_EVERY_CODE).exit_code
        if code == 0:
            mark = f"bbr-{_mark(copy.parent.parent.name)}-{name}-"
            yield Program(name, "", f"the image {image}", PurePosixPath(name), image, mark)
        else:
            seen.append("no ctr (containerd)" if code == 3 else f"its containerd does not hold the image {image}")
    if machine.stat(copy) is not None:
        yield Program(name, "", f"{copy}, from an earlier try", copy)
    database = data_dir / "member/snap/db"
    answer = machine.run(["sh", "-c", _FROM_LIVE, "bbr", str(database), name, str(copy)], expect=_EVERY_CODE)
    if answer.exit_code == 0:
        process = answer.stdout.decode(errors="replace").strip()
        yield Program(name, "", f"{copy}, copied from where the live etcd (process {process}) has it", copy)
    else:
        seen.append(f"no live etcd on {data_dir} that has it")
    if upload is None:
        seen.append("none on this host (--bin-dir, PATH)")
    elif not upload.is_file():
        seen.append(f"this host has no {upload}")
    else:
        yield _uploaded(machine, name, upload, copy)


def _uploaded(machine: Machine, name: Name, upload: Path, copy: PurePosixPath) -> Program:
    with upload.open("rb") as body:
        digest = Digest(hashlib.file_digest(body, "sha256").hexdigest())
    machine.run(["mkdir", "-p", "-m", "0700", "--", str(copy.parent)])
    machine.put(copy, _chunks(upload), mode=0o700, sha256=digest)
    return Program(name, "", f"{copy}, uploaded from {upload}", copy)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as body:
        while chunk := body.read(_CHUNK_BYTES):
            yield chunk


def _version(machine: Machine, program: Program, wanted: str) -> tuple[str, str]:
    """What it says of its version, and what is wrong with it ("" when it fits)."""
    arguments, pattern = _ANSWERS[program.name]
    try:
        answer = machine.run(program.command(arguments), timeout=VERSION_TIME, expect=_EVERY_CODE)
    except CommandTimedOut:
        return "", f"it did not tell its version within {VERSION_TIME}"
    said = answer.stdout.decode(errors="replace")
    match = re.search(pattern, said, re.MULTILINE)
    if answer.exit_code or match is None:
        told = " ".join((answer.stderr.decode(errors="replace") or said).split())[-200:]
        return "", f"it does not run, or is no {program.name} (code {answer.exit_code}: {told})"
    version = match[1]
    if _minor(version) != _minor(wanted):
        return version, f"it is {version}"
    if program.name == "etcdutl" and tuple(map(int, version.split("."))) < FIRST_WITH_BUMP:
        return version, f"it is {version}, which cannot bump revisions"
    return version, ""


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _mark(run: str) -> str:
    """The run's name as a part of container names; a digest of one that containerd would not take."""
    if len(run) <= _LONGEST_MARK and _PLAIN_NAME.fullmatch(run):
        return run
    return hashlib.sha256(run.encode()).hexdigest()[:16]
