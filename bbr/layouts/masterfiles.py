"""Every file that a kubeadm master's control plane is made of, found by what names it, read through a machine.

What kubeadm and the kubelet keep lies in known folders. What else the control plane needs (an encryption configuration
in /opt, an OIDC authority, audit policies) only the static pods' flags name, and those files name others again. So the
search starts from the folders and follows names until there are no new ones. Every file carries why it was taken.

Not taken: etcd's data, the kubelet's own key pairs (a node's identity is never another's), logs, and folders that the
distribution fills (the CA bundles that kubeadm mounts).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from bbr.errors import UsageError
from bbr.layouts.references import named_files
from bbr.layouts.staticpod import StaticPod, parse_pod
from bbr.machines.machine import Machine
from bbr.repository.hostfiles import FILE_LIMIT_BYTES

MANIFESTS = PurePosixPath("/etc/kubernetes/manifests")

ROOTS = (
    PurePosixPath("/etc/kubernetes"),
    PurePosixPath("/etc/cni/net.d"),
    PurePosixPath("/etc/default/kubelet"),
    PurePosixPath("/etc/sysconfig/kubelet"),
    PurePosixPath("/etc/systemd/system/kubelet.service.d"),
    PurePosixPath("/usr/lib/systemd/system/kubelet.service.d"),
    PurePosixPath("/var/lib/kubelet/config.yaml"),
    PurePosixPath("/var/lib/kubelet/instance-config.yaml"),
    PurePosixPath("/var/lib/kubelet/kubeadm-flags.env"),
)
"""Taken as they are, with all that is in them. Source: kubeadm's constants, the kubelet's Debian and RPM packages."""

NEVER = (
    PurePosixPath("/etc/kubernetes/tmp"),  # kubeadm's own copies of what an upgrade replaced
    PurePosixPath("/var/lib/kubelet/pki"),
    PurePosixPath("/var/lib/etcd"),
    PurePosixPath("/var/log"),
    PurePosixPath("/proc"),
    PurePosixPath("/sys"),
    PurePosixPath("/dev"),
    PurePosixPath("/run"),
    PurePosixPath("/etc/ssl/certs"),
    PurePosixPath("/etc/pki/ca-trust"),
    PurePosixPath("/etc/ca-certificates"),
    PurePosixPath("/usr/share/ca-certificates"),
    PurePosixPath("/usr/local/share/ca-certificates"),
    PurePosixPath("/usr/libexec"),
    PurePosixPath("/etc/localtime"),
)
"""Not the control plane's, or not to be handed on."""

_DATA_FLAGS = frozenset({"data-dir", "wal-dir", "log-dir", "log-file", "audit-log-path", "flex-volume-plugin-dir"})
"""Flags that name what a program writes."""

FILES_LIMIT = 2000
TOTAL_LIMIT_BYTES = 64 * 1024 * 1024
"""A control plane has some 60 files and 200 kB. What is larger is no configuration, and is named as left out."""

_LISTED = re.compile(rb"(.*?)\0([fdl])\0([0-7]+)\0([^\0]*)\0(\d+)\0([^\0]*)\0", re.DOTALL)
_FORMAT = r"%p\0%y\0%m\0%U:%G\0%s\0%l\0"


@dataclass(frozen=True, slots=True)
class MasterFile:
    """A file of a master, or with ``link`` a symbolic link (then ``body`` is empty). ``owner`` is "uid:gid"."""

    path: PurePosixPath
    mode: int
    owner: str
    body: bytes
    link: str
    why: str


@dataclass(frozen=True, slots=True)
class MasterFiles:
    """All files of one master in order of their paths, its static pods by program, and what is not as it should be."""

    files: tuple[MasterFile, ...]
    pods: Mapping[str, StaticPod]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Listed:
    kind: str
    mode: int
    owner: str
    size_bytes: int
    link: str


def collect(machine: Machine) -> MasterFiles:
    """Read them all. Raises `UsageError` where there are no static pods, and what the machine raises.

    A file that is named and is not there is a problem, and so is one that is too large, or changed meanwhile.
    """
    gathering = _Gathering(machine)
    gathering.take(ROOTS, "kubeadm")
    pods = gathering.pods()
    gathering.spare(pods.values())
    for program, pod in sorted(pods.items()):
        gathering.follow_flags(program, pod)
        gathering.follow_mounts(program, pod)
    gathering.follow_names(list(pods.values()))
    gathering.look_again()
    return gathering.result(pods)


def collect_named(
    machine: Machine,
    why: str,
    roots: Iterable[PurePosixPath],
    files: Iterable[PurePosixPath],
    pods: Mapping[str, StaticPod],
) -> MasterFiles:
    """The files of a master whose programs are no static pods: `ROOTS` and ``roots``, ``files`` (which are not read for
    names: units name programs and working folders), and what the programs' flags name, as `collect` does.
    """
    gathering = _Gathering(machine)
    gathering.spare(pods.values())
    gathering.take((*ROOTS, *roots), why)
    read = set(files)
    gathering.take(sorted(read), f"{why} reads it")
    for program, pod in sorted(pods.items()):
        gathering.follow_flags(program, pod)
    gathering.follow_names(list(pods.values()), passing=read)
    gathering.look_again()
    return gathering.result(pods)


class _Gathering:
    """The search: what was taken, by path, and what was wrong on the way."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._listed: dict[PurePosixPath, _Listed] = {}
        self._taken: dict[PurePosixPath, MasterFile] = {}
        self._problems: list[str] = []
        self._total_bytes = 0
        self._never: tuple[PurePosixPath, ...] = NEVER

    def spare(self, pods: Iterable[StaticPod]) -> None:
        """From here on, leave alone what these programs write: a manifest names etcd's data too."""
        written = (path for pod in pods for flag, path in pod.files().items() if flag in _DATA_FLAGS)
        self._never = (*self._never, *written)

    def take(self, places: Iterable[PurePosixPath], why: str) -> list[PurePosixPath]:
        """Take files, and folders with all that is in them. Returns those of ``places`` that are not there."""
        # What was taken is not looked at again: a listing is a journey to the machine, and the first one is what
        # `look_again` holds the last against.
        wanted = [place for place in places if place not in self._taken and not _is_under(place, self._never)]
        found = self._list(wanted)
        for path, about in found.items():
            if path not in self._taken and about.kind != "d" and not _is_under(path, self._never):
                self._read(path, about, why)
        return [place for place in wanted if place not in found]

    def pods(self) -> dict[str, StaticPod]:
        """The static pods of the manifests that were taken. The kubelet runs every file whose name has no dot first."""
        pods = {}
        for path, file in self._taken.items():
            if path.parent == MANIFESTS and not path.name.startswith(".") and not file.link:
                pod = parse_pod(file.body.decode(errors="replace"), path.stem, what=f"{self._machine.name}: {path}")
                pods[pod.program] = pod
        if not pods:
            raise UsageError(
                f"{self._machine.name} has no static pods in {MANIFESTS}", hint="is this a master that kubeadm made?"
            )
        return pods

    def follow_flags(self, program: str, pod: StaticPod) -> None:
        """Take the files that flags name."""
        for flag, path in sorted(pod.files().items()):
            if flag not in _DATA_FLAGS:
                self._missed(self.take([path], f"{program} --{flag}"), f"{program} --{flag}")

    def follow_mounts(self, program: str, pod: StaticPod) -> None:
        """Take the files and folders that are mounted into a pod; what a program writes is not among them."""
        written = {pod.on_host(PurePosixPath(pod.flags[flag])) for flag in _DATA_FLAGS if pod.flags.get(flag)}
        for mount in pod.mounts:
            if not _is_under(mount.host, written) and not any(_is_under(path, [mount.host]) for path in written):
                missing = self.take([mount.host], f"{program} mounts it")
                if not mount.kind.endswith("OrCreate"):
                    self._missed(missing, f"a mount of {program}")

    def follow_names(self, pods: Collection[StaticPod], *, passing: Collection[PurePosixPath] = ()) -> None:
        """Take what the files name that were taken, and what those name, until there is nothing new.

        A file that is mounted into a pod names paths of its container; one that is not, those of the host. Those that
        are in ``passing`` are not looked into.
        """
        looked: set[PurePosixPath] = set(passing)
        while new := [file for path, file in self._taken.items() if path not in looked]:
            for file in new:
                looked.add(file.path)
                named = named_files(file.path, file.body)
                places = named | {pod.on_host(path) for pod in pods for path in named}
                self.take(sorted(places), f"{file.path} names it")

    def look_again(self) -> None:
        """Whether anything changed while it was read: a `kubeadm upgrade` replaces files one by one."""
        before = {path: about for path, about in self._listed.items() if path in self._taken}
        after = self._list(sorted(before))
        changed = sorted(str(path) for path, about in before.items() if after.get(path) != about)
        if changed:
            self._problems.append(f"changed while they were read: {', '.join(changed)}")

    def result(self, pods: Mapping[str, StaticPod]) -> MasterFiles:
        """What was found."""
        files = tuple(file for _, file in sorted(self._taken.items()))
        problems = tuple(f"{self._machine.name}: {problem}" for problem in self._problems)
        return MasterFiles(files, dict(sorted(pods.items())), problems)

    def _list(self, places: list[PurePosixPath]) -> dict[PurePosixPath, _Listed]:
        if not places:
            return {}
        command = ["find", *map(str, places), "-xdev", "(", "-type", "f", "-o", "-type", "d", "-o", "-type", "l", ")"]
        # find's code is 1 where a place is not there; what it found otherwise is whole.
        output = self._machine.run([*command, "-printf", _FORMAT], expect=(0, 1))
        found = dict(_entries(output.stdout))
        self._listed.update(found)
        return found

    def _read(self, path: PurePosixPath, about: _Listed, why: str) -> None:
        if about.size_bytes > FILE_LIMIT_BYTES or len(self._taken) >= FILES_LIMIT:
            self._problems.append(f"{path} is left out: {about.size_bytes:,} bytes, file {len(self._taken) + 1}")
            return
        body = b""
        if about.kind == "f":
            body = b"".join(self._machine.get(path, limit_bytes=FILE_LIMIT_BYTES))
        self._total_bytes += len(body)
        if self._total_bytes > TOTAL_LIMIT_BYTES:
            raise UsageError(f"{self._machine.name}: more than {TOTAL_LIMIT_BYTES:,} bytes of control-plane files")
        self._taken[path] = MasterFile(path, about.mode, about.owner, body, about.link, why)
        if about.kind == "l":
            target = PurePosixPath(about.link)
            self.take([target if target.is_absolute() else path.parent / target], f"{path} leads to it")

    def _missed(self, missing: Iterable[PurePosixPath], what: str) -> None:
        self._problems.extend(f"{path} is not there, which {what} names" for path in missing)


def _entries(listed: bytes) -> Iterator[tuple[PurePosixPath, _Listed]]:
    for path, kind, mode, owner, size, link in _LISTED.findall(listed):
        text = path.decode("utf-8", "surrogateescape")
        about = _Listed(kind.decode(), int(mode, 8), owner.decode(), int(size), link.decode("utf-8", "surrogateescape"))
        yield PurePosixPath(text), about


def _is_under(path: PurePosixPath, places: Iterable[PurePosixPath]) -> bool:
    return any(path.is_relative_to(place) for place in places)
