"""kubeadm's layout: the kubelet runs what lies in the manifests folder, so a program is stopped by moving its manifest.

The kubelet runs every regular file there whose name does not begin with a dot, whatever it is called. So a program is
found by the container that a file holds, every file with it is moved, and never one of the same folder that holds
something else (kube-vip carries the address that the others are reached by). Source: the kubelet's config/file.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from bbr.errors import FileMissing, PreconditionFailed, UsageError
from bbr.layouts import masterfiles
from bbr.layouts.layout import OURS, Definition
from bbr.layouts.masterfiles import MANIFESTS, MasterFiles
from bbr.layouts.moving import check_aside, move_file
from bbr.layouts.staticpod import StaticPod, parse_pod
from bbr.machines.machine import Machine
from bbr.repository.hostfiles import FILE_LIMIT_BYTES

REMOVED = "removed"
"""Below a run's folder: what it had installed itself. Never put back."""

_AGENT = "kubelet.service"
_LIST = r"""\
[ -d "$1" ] || exit 0
exec find "$1" -mindepth 1 -maxdepth 1 ! -name '.*' -xtype f -print0
"""


class StaticPods:
    """A `Layout`: kubeadm's."""

    @property
    def name(self) -> str:
        """See `Layout.name`."""
        return "kubeadm"

    def collect(self, machine: Machine) -> MasterFiles:
        """See `Layout.collect`."""
        return masterfiles.collect(machine)

    def programs(self, machine: Machine) -> Mapping[str, Definition]:
        """See `Layout.programs`. A manifest that nobody can read counts as none: the kubelet runs none either."""
        found: dict[str, Definition] = {}
        for path, body in _manifests(machine, MANIFESTS):
            pod = _pod(path, body, path.stem)
            if pod is not None:
                # Of two with one program (a second etcd, for events) the plainly named one counts.
                name = _program(path, pod)
                if name not in found or path.stem == name:
                    found[name] = Definition(path, pod)
        return dict(sorted(found.items()))

    def is_in_service(self, machine: Machine, program: str) -> bool:
        """See `Layout.is_in_service`: whether a manifest is there."""
        return bool(_of_program(machine, program, MANIFESTS))

    def take_out(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.take_out`."""
        check_aside(machine, aside, MANIFESTS)
        for path in _of_program(machine, program, MANIFESTS):
            move_file(machine, path, aside / path.name)

    def put_back(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.put_back`."""
        check_aside(machine, aside, MANIFESTS)
        taken = _of_program(machine, program, aside)
        others = {path.name for path in _of_program(machine, program, MANIFESTS)} - {path.name for path in taken}
        if taken and others:
            raise PreconditionFailed(
                f"{machine.name}: {program} runs from {', '.join(sorted(others))} in {MANIFESTS}",
                hint="remove it first: two of them would run side by side",
            )
        for path in taken:
            move_file(machine, path, MANIFESTS / path.name)

    def install(self, machine: Machine, program: str, text: str) -> None:
        """See `Layout.install`. The file is the program's name, 0600, written under a name that begins with a dot."""
        path, body = MANIFESTS / f"{program}.yaml", text.encode()
        found = _of_program(machine, program, MANIFESTS)
        if found == [path] and _body(machine, path) == body:
            return
        if found or machine.stat(path) is not None:
            raise PreconditionFailed(
                f"{machine.name}: {', '.join(map(str, found or [path]))} is in service; it was left as it is",
                hint=f"take {program} out first",
            )
        if _program(path, parse_pod(text, program, what=f"the new {path.name}")) != program:
            raise UsageError(f"the new {path.name} holds no container {program}")
        machine.run(["mkdir", "-p", "-m", "0700", "--", str(MANIFESTS)])
        machine.put(path, [body], mode=0o600, owner="root:root")

    def remove(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.remove`."""
        check_aside(machine, aside, MANIFESTS)
        path = MANIFESTS / f"{program}.yaml"
        if machine.stat(path) is not None:
            move_file(machine, path, aside / REMOVED / path.name, numbered=True)

    def stop_agent(self, machine: Machine) -> None:
        """See `Layout.stop_agent`."""
        machine.run(["systemctl", "stop", _AGENT])

    def start_agent(self, machine: Machine) -> None:
        """See `Layout.start_agent`."""
        machine.run(["systemctl", "restart", _AGENT])


def _of_program(machine: Machine, program: str, folder: PurePosixPath) -> list[PurePosixPath]:
    """The files of a folder that would run the program. Raises `UsageError` for one that perhaps would."""
    found = []
    for path, body in _manifests(machine, folder):
        pod = _pod(path, body, program)
        if pod is None and program.encode() in body:
            raise UsageError(
                f"{machine.name}: {path} names {program}, and is not the manifest of a static pod",
                hint="the kubelet may read it otherwise: move it to another folder",
            )
        if pod is not None and _program(path, pod) == program:
            found.append(path)
    return found


def _program(path: PurePosixPath, pod: StaticPod) -> str:
    """Ours are known by their files: an API server of ours must not be taken for the master's own."""
    return path.stem if path.name.startswith(OURS) else pod.program


def _pod(path: PurePosixPath, body: bytes, program: str) -> StaticPod | None:
    try:
        return parse_pod(body.decode(errors="replace"), program, what=str(path))
    except UsageError:
        return None


def _manifests(machine: Machine, folder: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes]]:
    output = machine.run(["sh", "-c", _LIST, "bbr", str(folder)])
    for name in sorted(filter(None, output.stdout.split(b"\0"))):
        path = PurePosixPath(name.decode(errors="surrogateescape"))
        try:
            yield path, _body(machine, path)
        except FileMissing:  # moved meanwhile
            continue


def _body(machine: Machine, path: PurePosixPath) -> bytes:
    return b"".join(machine.get(path, limit_bytes=FILE_LIMIT_BYTES))
