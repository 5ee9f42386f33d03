"""The inventory: a file that says where machines come from, and how each is reached.

    adapter: hosts
    defaults: {user: ops, sudo: true, identity_file: id_ed25519, known_hosts: known_hosts}
    hosts:
      m1: {role: master, address: 10.0.0.11}
      m2: {role: master, address: 10.0.0.12, jump: bastion}
      bastion: {role: jump, address: gate.example.com}
    endpoint: {address: "api.example.com:6443", hook: [./point-dns]}
    fence: [./power-off]
    release: [./power-on]

    adapter: lab
    lab: rehearsal
    tier: fast

Relative paths start from the folder of the file. docs/iaas.md describes every key.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field

from bbr.errors import UsageError
from bbr.machines.host import SSH_PORT, SshHost
from restore.iaas.document import Document, Strict, read_document
from restore.iaas.mark import Role

Tier = Literal["hosts", "fast", "true"]
_HINT = "docs/iaas.md describes every key"

Text = Annotated[str, Field(min_length=1, max_length=4096)]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
HostPort = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
TierName = Annotated[Tier, BeforeValidator(lambda value: "true" if value is True else value)]
"""YAML takes the word true for something else."""

Program = Annotated[list[Text], Field(min_length=1, max_length=64)]


class AccessSection(Strict):
    """How a host is logged in to; ``defaults`` has the same keys for all hosts."""

    user: Text | None = None
    port: Port | None = None
    sudo: bool | None = None
    identity_file: Text | None = None
    known_hosts: Text | None = None
    jump: HostName | None = None


class HostSection(AccessSection):
    """One host, under its name."""

    address: Text
    role: Literal["master", "worker", "etcd", "jump"]
    host_key: Text | None = None
    door: Program | None = None
    node_name: HostName | None = None
    node_address: Text | None = None


class EndpointSection(Strict):
    """The address that clients know the API servers by, and the program that lets it lead elsewhere."""

    address: HostPort
    hook: Program | None = None


class HostsFile(Strict):
    """A file of ``adapter: hosts``."""

    adapter: Literal["hosts"]
    hosts: Annotated[dict[HostName, HostSection], Field(min_length=1)]
    defaults: AccessSection = AccessSection()
    endpoint: EndpointSection | None = None
    fence: Program | None = None
    release: Program | None = None


class LabFile(Strict):
    """A file of ``adapter: lab``."""

    adapter: Literal["lab"]
    lab: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")]
    base: Text | None = None
    tier: TierName = "hosts"


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A host of an inventory; `restore.iaas.iaas.MachineMade` has the same words."""

    name: str
    role: Role
    ssh: SshHost
    sudo: bool
    node_name: str
    node_address: str


@dataclass(frozen=True, slots=True)
class HostsInventory:
    """Machines that exist. ``endpoint`` is ``host:port``; hooks are argument lists with the program's whole path."""

    path: Path
    hosts: tuple[HostEntry, ...]
    endpoint: str | None = None
    endpoint_hook: tuple[str, ...] | None = None
    fence_hook: tuple[str, ...] | None = None
    release_hook: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class LabInventory:
    """A lab on this machine that is kept; None is the usual folder of labs."""

    path: Path
    lab: str
    base: Path | None
    tier: Tier


Inventory: TypeAlias = HostsInventory | LabInventory


def read_inventory(path: Path) -> Inventory:
    """Read and check one file. Raises `UsageError` that names the file, the line and what would fit."""
    document = read_document(path)
    adapter = document.value.get("adapter") if isinstance(document.value, Mapping) else None
    try:
        if adapter == "hosts":
            return _hosts(document, document.checked(HostsFile, hint=_HINT))
        if adapter == "lab":
            return _lab(document, document.checked(LabFile, hint=_HINT))
    except RuntimeError as err:  # a path begins with ~ or ~somebody
        raise UsageError(f"{path}: {err}", hint="write paths without ~, or set HOME") from err
    raise document.error(("adapter",), "adapter should be hosts or lab", hint=_HINT)


def _lab(document: Document, file: LabFile) -> LabInventory:
    base = _beside(document, file.base) if file.base is not None else None
    return LabInventory(document.path, file.lab, base, file.tier)


def _hosts(document: Document, file: HostsFile) -> HostsInventory:
    entries = {name: _ssh_host(document, file, name) for name in file.hosts}
    routes = {name: _with_jumps(document, file, entries, name) for name in file.hosts}
    _check_no_twins(document, routes)
    hosts = []
    for name, section in file.hosts.items():
        if section.role != "jump":
            sudo = _first(section.sudo, file.defaults.sudo, False)
            node_name, node_address = section.node_name or name, section.node_address or section.address
            hosts.append(HostEntry(name, section.role, routes[name], sudo, node_name, node_address))
    endpoint = file.endpoint
    hook = endpoint.hook if endpoint is not None else None
    return HostsInventory(
        path=document.path,
        hosts=tuple(hosts),
        endpoint=endpoint.address if endpoint is not None else None,
        endpoint_hook=_program(document, ("endpoint", "hook"), hook) if hook else None,
        fence_hook=_program(document, ("fence",), file.fence) if file.fence else None,
        release_hook=_program(document, ("release",), file.release) if file.release else None,
    )


def _ssh_host(document: Document, file: HostsFile, name: str) -> SshHost:
    """A host as it is reached, without those on the way."""
    section, defaults = file.hosts[name], file.defaults
    place = ("hosts", name)
    if section.door is not None and section.jump is not None:
        raise document.error(place, f"hosts.{name} has both door and jump", hint="give one of them")
    identity_file = section.identity_file or defaults.identity_file
    if identity_file is None:
        raise document.error(place, f"hosts.{name} has no identity_file", hint="bbr takes no key that it was not given")
    if section.host_key is not None and section.known_hosts is not None:
        raise document.error(place, f"hosts.{name} has both host_key and known_hosts", hint="give one of them")
    known_hosts = None if section.host_key is not None else section.known_hosts or defaults.known_hosts
    if section.host_key is None and known_hosts is None:
        raise document.error(
            place, f"hosts.{name} has neither host_key nor known_hosts", hint="no host's key is believed unseen"
        )
    host = SshHost(
        name,
        section.address,
        (_beside(document, identity_file),),
        port=_first(section.port, defaults.port, SSH_PORT),
        user=_first(section.user, defaults.user, "root"),
        host_key=section.host_key,
        known_hosts=_beside(document, known_hosts) if known_hosts is not None else None,
    )
    return replace(host, door=_program(document, (*place, "door"), section.door)) if section.door else host


def _with_jumps(document: Document, file: HostsFile, hosts: Mapping[str, SshHost], name: str) -> SshHost:
    """A host with those that are logged in to first."""
    way = [name]
    while (jump := _jump(file, way[-1])) is not None:
        if jump not in hosts or jump in way:
            what = "is no host of this file" if jump not in hosts else "would be jumped through to reach itself"
            raise document.error(("hosts", way[-1], "jump"), f"hosts.{way[-1]}: {jump!r} {what}")
        way.append(jump)
    route: SshHost | None = None
    for one in reversed(way):
        route = replace(hosts[one], jump=route)
    return route or hosts[name]


def _jump(file: HostsFile, name: str) -> str | None:
    """The default is for those behind it: a host of role ``jump``, or with a door, is reached without."""
    section = file.hosts[name]
    is_direct = section.role == "jump" or section.door is not None
    return section.jump or (None if is_direct else file.defaults.jump)


def _check_no_twins(document: Document, hosts: Mapping[str, SshHost]) -> None:
    """One machine under two names could be taken twice."""
    seen: dict[tuple[object, ...], str] = {}
    for name, host in hosts.items():
        first = seen.setdefault((host.address, host.port, host.door, host.jump), name)
        if first != name:
            raise document.error(("hosts", name), f"hosts.{name} and hosts.{first} are the same machine")


def _program(document: Document, place: tuple[str, ...], words: list[str]) -> tuple[str, ...]:
    """A program that the file names: found on PATH, or from the file's own folder where its name has a slash."""
    name = ".".join(place)
    if not document.is_private:
        raise document.error(
            place,
            f"{name} names a program, and other users can write this file",
            hint=f"chmod go-w {document.path}, and let it belong to you or root",
        )
    found = shutil.which(str(_beside(document, words[0])) if "/" in words[0] else words[0])
    if found is None:
        raise document.error(place, f"{name}: there is no program {words[0]!r}", hint="check its path and mode")
    return (found, *words[1:])


def _beside(document: Document, text: str) -> Path:
    return document.path.absolute().parent / Path(text).expanduser()


_T = TypeVar("_T")


def _first(own: _T | None, common: _T | None, default: _T) -> _T:
    """What the host says, else what all say."""
    return own if own is not None else common if common is not None else default
