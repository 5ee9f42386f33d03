"""The label of a lab: the file that says what belongs to it, written before any of it is made.

From it a later run removes what a killed one left, and another process (the command line) works with a lab that runs.
A lab belongs to the process that holds its lock file, and the kernel drops that lock when the process ends, however it
ends; a lab that is to be kept has no owner, and stays until somebody takes it down.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from bbr.durable import replace_file
from bbr.errors import PreconditionFailed
from bbr.lab.cgroups import Cgroup
from bbr.lab.host import Host, HostSpec

FILE = "label.json"
LOCK = "lock"
HOSTS = "hosts"
PREFIX = "bbr-lab-"


@dataclass(frozen=True, slots=True)
class Label:
    """What a lab consists of. Names of namespaces and cgroups follow from its own."""

    name: str
    folder: Path
    made_at: datetime
    is_kept: bool
    cgroups: tuple[Cgroup, ...] = ()
    hosts: tuple[Host, ...] = ()
    pointers: Mapping[str, str] = field(default_factory=dict)
    """Further names, and the host that each leads to, if it is there."""

    @property
    def namespace(self) -> str:
        """The lab's own network namespace, the one with the bridge."""
        return f"{PREFIX}{self.name}"

    def namespace_of(self, host: str) -> str:
        """A host's network namespace."""
        return f"{self.namespace}-{host}"

    def folder_of(self, host: str) -> Path:
        """A host's folder."""
        return self.folder / HOSTS / host

    def with_host(self, host: Host) -> Self:
        """The label with one more host."""
        return replace(self, hosts=(*self.hosts, host))

    def without_host(self, name: str) -> Self:
        """The label with one host less."""
        return replace(self, hosts=tuple(host for host in self.hosts if host.name != name))

    def with_pointer(self, name: str, host: str) -> Self:
        """The label with a name that leads to a host."""
        return replace(self, pointers={**self.pointers, name: host})

    def write(self) -> None:
        """Durable on return."""
        body = {
            "name": self.name,
            "made_at": self.made_at.isoformat(),
            "is_kept": self.is_kept,
            "cgroups": [_cgroup_to_json(cgroup) for cgroup in self.cgroups],
            "hosts": [_host_to_json(host) for host in self.hosts],
            "pointers": dict(self.pointers),
        }
        replace_file(self.folder / FILE, f"{json.dumps(body, indent=2)}\n".encode())


def read(folder: Path) -> Label | None:
    """The label of a folder; None where there is none. Raises `PreconditionFailed` when it cannot be understood."""
    try:
        body = json.loads((folder / FILE).read_bytes())
        return Label(
            name=body["name"],
            folder=folder,
            made_at=datetime.fromisoformat(body["made_at"]),
            is_kept=body["is_kept"],
            cgroups=tuple(_cgroup_from_json(one) for one in body["cgroups"]),
            hosts=tuple(_host_from_json(one) for one in body["hosts"]),
            pointers=body.get("pointers", {}),  # a lab of before they were has none
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as err:
        raise PreconditionFailed(
            f"{folder / FILE} is not a lab's label: {err}",
            hint="it may be of another version of bbr: remove it by hand",
        ) from err


def own(folder: Path) -> IO[bytes] | None:
    """Take the lab's lock, until the file is closed or this process ends; None while another process has it.

    What builds the lab inherits the lock, and so do the programs that it runs: they may outlive it for a moment.
    """
    file = (folder / LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    os.set_inheritable(file.fileno(), True)
    return file


def _cgroup_to_json(cgroup: Cgroup) -> dict[str, str]:
    return {
        "mounted_at": str(cgroup.mounted_at),
        "kind": cgroup.kind,
        "options": cgroup.options,
        "folder": str(cgroup.folder),
    }


def _cgroup_from_json(body: dict[str, str]) -> Cgroup:
    return Cgroup(Path(body["mounted_at"]), body["kind"], body["options"], Path(body["folder"]))


def _host_to_json(host: Host) -> dict[str, Any]:
    return {
        "name": host.name,
        "address": host.address,
        "ssh_port": host.ssh_port,
        "host_key": host.host_key,
        "identity": str(host.identity),
        "network": str(host.network),
        "lower": [str(layer) for layer in host.spec.lower],
        "programs": [str(folder) for folder in host.spec.programs],
        "volumes": list(host.spec.volumes),
    }


def _host_from_json(body: dict[str, Any]) -> Host:
    spec = HostSpec(
        name=body["name"],
        address=body["address"],
        lower=tuple(map(Path, body["lower"])),
        programs=tuple(map(Path, body["programs"])),
        volumes=tuple(body["volumes"]),
    )
    return Host(
        name=body["name"],
        address=body["address"],
        ssh_port=body["ssh_port"],
        host_key=body["host_key"],
        identity=Path(body["identity"]),
        network=Path(body["network"]),
        spec=spec,
    )
