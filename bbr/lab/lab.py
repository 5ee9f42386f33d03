"""A lab: hosts brought up together, and taken down without a trace.

Everything that is made is named in the lab's label first. What a killed run left is swept by the next `Lab.up` on the
same base folder: its processes, network namespaces, cgroups and folders. (Its mounts end with its processes: they were
made in mount namespaces of the hosts and never seen by the machine.)
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bbr.errors import PreconditionFailed
from bbr.lab import access, cgroups, disk, door, host, keys, label, names, network, programs, remains
from bbr.lab.host import SSH_PORT, Host, HostSpec
from bbr.lab.keys import KeyPair
from bbr.lab.label import Label

BASE = Path("/var/lib/bbr/lab")
_LAB_NAME = re.compile(r"[a-z0-9]{1,16}")
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
_POINTER = re.compile(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?")
_PLAIN_PATH = re.compile(r"/[\w./-]*")


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A host, and the process that is its number 1, by the machine's count; None while it is off."""

    host: Host
    first_process: int | None


class Lab:
    """A lab that is up. As a context manager it is taken down at the end. One thread at a time may change it."""

    def __init__(self, its_label: Label, *, is_there: bool) -> None:
        self._label = its_label
        self._is_there = is_there
        self._owner: IO[bytes] | None = None

    @classmethod
    def up(
        cls, hosts: Sequence[HostSpec], *, base: Path = BASE, name: str | None = None, is_kept: bool = False
    ) -> Self:
        """A new lab with these hosts, each answering over SSH. Sweeps what killed runs left in ``base`` first.

        It ends with this process, as far as the next run is concerned, unless ``is_kept``. Raises `PreconditionFailed`;
        then nothing of it is left.
        """
        programs.check_machine()
        name = name or secrets.token_hex(3)
        _check_lab_name(name)
        remains.sweep(base)
        groups = cgroups.for_lab(f"{label.PREFIX}{name}")
        lab = cls(Label(name, base.absolute() / name, datetime.now(UTC), is_kept, groups), is_there=False)
        try:
            lab._begin()
            access.create_identity(lab.folder, keys.generate())
            network.create_bridge(lab._label.namespace)
            lab.add(*hosts)
        except BaseException:
            if lab._is_there:
                lab.down()
            raise
        return lab

    @classmethod
    def open(cls, name: str, *, base: Path = BASE) -> Self:
        """A lab that is up and was kept, or that this process may look at. Raises `PreconditionFailed`."""
        programs.check_machine()
        _check_lab_name(name)
        found = label.read(base.absolute() / name)
        if found is None:
            there = ", ".join(one.name for one in remains.labels(base)) or "none"
            raise PreconditionFailed(f"there is no lab {name} in {base}", hint=f"labs that are there: {there}")
        return cls(found, is_there=True)

    @property
    def name(self) -> str:
        """Its name, of which those of its namespaces, cgroups and folder are made."""
        return self._label.name

    @property
    def folder(self) -> Path:
        """Where its keys, ssh_config and disks are."""
        return self._label.folder

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Its hosts, in the order in which they came."""
        return self._label.hosts

    @property
    def pointers(self) -> Mapping[str, str]:
        """Further names that the hosts know, and the host that each leads to (`point`)."""
        return self._label.pointers

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``: every host by its name, with its key pinned, reached through the door."""
        return self.folder / access.SSH_CONFIG

    @property
    def known_hosts(self) -> Path:
        """The host keys, by name and by address."""
        return self.folder / access.KNOWN_HOSTS

    def host(self, name: str) -> Host:
        """The host of that name. Raises `PreconditionFailed`."""
        found = next((one for one in self.hosts if one.name == name), None)
        if found is None:
            raise PreconditionFailed(f"lab {self.name} has no host {name}")
        return found

    def add(self, *specs: HostSpec) -> tuple[Host, ...]:
        """Bring up more hosts, side by side; the others learn their names.

        Raises `PreconditionFailed`; then none of them is there.
        """
        before = self.hosts
        try:
            for spec in specs:
                one, pair = self._plan(spec)
                self._build(one, pair)
                self._start(one)
            new = self.hosts[len(before) :]
            for one in new:
                self._wait_ready(one)
            self._tell_hosts()
        except BaseException:
            for one in self.hosts[len(before) :]:
                self.remove(one.name)
            raise
        return new

    def remove(self, name: str) -> None:
        """Destroy a host, with its disk. A missing one is no error."""
        self.power_off(name)
        network.remove(self._label.namespace_of(name))
        disk.remove(self._label.folder_of(name))
        self._label = self._label.without_host(name)
        self._label.write()
        self._tell_hosts()

    def power_off(self, name: str) -> None:
        """End a host at once, as its power button would; its disk stays. One that is off stays off."""
        network.end_processes(self._label.namespace_of(name))
        cgroups.remove([one.folder / name for one in self._label.cgroups])

    def power_on(self, name: str) -> None:
        """Start a host that is off, and wait until it answers over SSH. Raises `PreconditionFailed`."""
        one = self.host(name)
        if network.processes(self._label.namespace_of(name)):
            raise PreconditionFailed(f"host {name} is on")
        self._start(one)
        self._wait_ready(one)
        self._tell_hosts()

    def status(self) -> tuple[HostStatus, ...]:
        """Its hosts, and whether they are on."""
        return tuple(HostStatus(one, network.first_process(self._label.namespace_of(one.name))) for one in self.hosts)

    def point(self, name: str, host: str) -> None:
        """Let a further name lead to a host, on all hosts: the lab's DNS, and its balancer. It replaces an earlier one.

        It outlives the host: one that comes back by the same name has it. Raises `PreconditionFailed`.
        """
        self.host(host)
        if _POINTER.fullmatch(name) is None or name in {"localhost", *(one.name for one in self.hosts)}:
            raise PreconditionFailed(f"{name!r} can be no further name", hint="such as api.lab, and no host's own")
        self._label = self._label.with_pointer(name, host)
        self._label.write()
        self._tell_hosts()

    def volume(self, host: str, path: str) -> Path:
        """Where on the machine a volume of a host lies. Raises `PreconditionFailed` where it has none at ``path``."""
        if path not in self.host(host).spec.volumes:
            raise PreconditionFailed(f"host {host} has no volume {path}", hint="name it in its HostSpec")
        return disk.volume(self._label.folder_of(host), path)

    def connect(self, name: str, port: int = SSH_PORT) -> socket.socket:
        """A TCP connection to a host, from this process, which is not in its network. Raises `OSError`."""
        one = self.host(name)
        return door.connect(one.network, one.address, port)

    def entering(self, command: Sequence[str]) -> list[str]:
        """A command that runs ``command`` in the lab's network: all hosts can be reached there, nothing else."""
        return ["nsenter", f"--net={network.namespace_file(self._label.namespace)}", "--", *command]

    def down(self) -> None:
        """Take it down: no process, namespace, mount, cgroup or file of it is left. Harmless when it is down.

        Raises `PreconditionFailed` when something would not go; then the label stays, and it can be called again.
        """
        remains.take_down(self._label)
        if self._owner is not None:
            self._owner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _begin(self) -> None:
        """The folder and its label, before anything else is made. Raises `PreconditionFailed` where a lab has them."""
        base = self.folder.parent
        with remains.only_one(base):
            try:
                self.folder.mkdir(mode=0o700)
            except FileExistsError as err:
                raise PreconditionFailed(
                    f"there is a lab {self.name} in {base}", hint="take it down, or choose another name"
                ) from err
            self._is_there = True
            self._owner = None if self._label.is_kept else label.own(self.folder)
            self._label.write()

    def _plan(self, spec: HostSpec) -> tuple[Host, KeyPair]:
        """Check what is wanted, and write it to the label before anything is made."""
        _check(spec)
        taken = {one.address for one in self.hosts}
        if spec.name in {one.name for one in self.hosts} or spec.address in taken:
            raise PreconditionFailed(f"lab {self.name} has a host {spec.name}, or one at {spec.address}")
        pair = keys.generate()
        one = Host(
            name=spec.name,
            address=spec.address or _free_address(taken),
            ssh_port=SSH_PORT,
            host_key=pair.public,
            identity=self.folder / access.IDENTITY,
            network=network.namespace_file(self._label.namespace),
            spec=spec,
        )
        self._label = self._label.with_host(one)
        self._label.write()
        return one, pair

    def _build(self, one: Host, pair: KeyPair) -> None:
        disk.create(
            self._label.folder_of(one.name),
            name=one.name,
            lower=one.spec.lower,
            volumes=one.spec.volumes,
            host_key=pair,
            login=access.public_identity(self.folder),
            hosts=names.hosts_file(self.hosts, self.pointers),
        )
        network.attach(self._label.namespace_of(one.name), IPv4Address(one.address), lab=self._label.namespace)

    def _start(self, one: Host) -> None:
        host.start(
            one,
            namespace=self._label.namespace_of(one.name),
            folder=self._label.folder_of(one.name),
            cgroups=cgroups.create(self._label.cgroups, one.name),
            lock=self._owner,
        )

    def _wait_ready(self, one: Host) -> None:
        host.wait_ready(one, namespace=self._label.namespace_of(one.name), folder=self._label.folder_of(one.name))

    def _tell_hosts(self) -> None:
        """Names and keys to everybody who may connect: the hosts, and ssh clients of the machine."""
        access.write_ssh_files(self._label)
        for one in self.status():
            if one.first_process is not None:
                names.tell(one.first_process, self.hosts, self.pointers)


def _check_lab_name(name: str) -> None:
    # No dash: the names of hosts are put behind one.
    if _LAB_NAME.fullmatch(name) is None:
        raise PreconditionFailed(f"{name!r} is no name for a lab", hint="1 to 16 small letters and digits")


def _check(spec: HostSpec) -> None:
    if _HOST_NAME.fullmatch(spec.name) is None:
        raise PreconditionFailed(f"{spec.name!r} is no name for a host", hint="small letters, digits, - inside")
    # They go through a shell and mount(8), where a blank, comma or colon would mean something.
    for path in (*map(str, (*spec.lower, *spec.programs)), *spec.volumes):
        if _PLAIN_PATH.fullmatch(path) is None or ".." in Path(path).parts:
            raise PreconditionFailed(f"host {spec.name}: {path!r} is no absolute path of plain characters")
    if spec.address and (spec.address not in map(str, network.SUBNET.hosts()) or spec.address == str(network.GATEWAY)):
        raise PreconditionFailed(f"host {spec.name}: {spec.address} is no address for a host in {network.SUBNET}")


def _free_address(taken: set[str]) -> str:
    for address in list(network.SUBNET.hosts())[network.FIRST_HOST - 1 :]:
        if str(address) not in taken:
            return str(address)
    raise PreconditionFailed(f"all addresses of {network.SUBNET} are taken")
