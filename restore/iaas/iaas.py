"""The seam to what makes machines, or holds them: six methods, and rare abilities as protocols of their own.

What every adapter promises (tests/restore/iaas/test_conformance.py asks each of them for it):
- Whose a machine is stands on it, or beside it, before it exists: a run that is killed at any moment leaves nothing
  that `Iaas.list_owned` would not find.
- `Iaas.ensure_machine` looks before it makes: called twice, also by two processes, it leaves one machine.
- What does not carry the run's own mark is never changed. Looking at it is allowed.
- "Nothing there" is said only of what was asked and answered. What could not be asked is named as unknown.
- An error says whether trying again may help: its ``retry_may_help``. `ensure_machine` and `delete` may always be
  tried again.

Reaching a machine is no part of it: `machine_of` makes a `bbr.machines` machine of what an adapter returns. Volumes
and consoles would be two more abilities; no adapter has them yet. docs/iaas.md says how to write an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bbr.errors import IaasUnavailable
from bbr.machines.host import SshHost
from bbr.machines.shell import ShellMachine
from bbr.machines.ssh import ssh_machine
from restore.iaas.mark import Mark, Role

State = Literal["begun", "on", "off"]
"""``begun``: it carries a mark and was never finished; it may lack an address, a disk, anything."""


@dataclass(frozen=True, slots=True)
class MachineWanted:
    """A machine that a run needs. Sizes are hints for adapters that make machines; 0 leaves them to the adapter.

    ``take_living`` lets a run take a machine that serves a living cluster: a restore in place does, on purpose.
    """

    name: str
    role: Role
    mark: Mark
    cpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    take_living: bool = False


@dataclass(frozen=True, slots=True)
class MachineMade:
    """A machine that there is. ``ssh`` is None while nobody can say how it is reached: it is ``begun``, then.

    ``node_name`` and ``node_address`` are its name and address in Kubernetes; the address may be another than SSH's.
    """

    name: str
    address: str
    ssh: SshHost | None
    mark: Mark | None
    state: State
    node_name: str
    node_address: str
    role: Role | None = None
    sudo: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """A machine that could not be asked whose it is, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Owned:
    """The machines that carry a mark, of any run, by name; and those of which nobody knows."""

    machines: tuple[MachineMade, ...]
    unknown: tuple[Unknown, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A machine that the adapter knows by name without asking anybody. A role is what an inventory says, or None."""

    name: str
    role: Role | None
    address: str
    node_name: str
    node_address: str


@dataclass(frozen=True, slots=True)
class IaasInfo:
    """What an adapter is: ``makes_machines`` is False where they all exist, and are only taken and given back."""

    adapter: str
    place: str
    makes_machines: bool
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at before a run: what was found, and what to do when it is not good."""

    subject: str
    is_good: bool
    said: str
    hint: str = ""


class Iaas(Protocol):
    """Makes machines, or takes and gives back those that there are. May be used by many threads.

    All methods raise `IaasError`; those that ask machines also `MachineError` and `KeyRefused`.
    """

    def info(self) -> IaasInfo:
        """What it is and what it knows by name. Asks nobody."""
        ...

    def preflight(self) -> tuple[Finding, ...]:
        """Everything that a run will need of it, looked at; changes nothing. What is wrong is a finding, no error."""
        ...

    def ensure_machine(self, wanted: MachineWanted) -> MachineMade:
        """The machine of that name with the run's mark on it: as it is, finished, or made now. It answers over SSH.

        A machine of the same run whose mark expires at another time gets the new time. Raises `MachineTaken` when
        another run's unexpired mark is on it, or it serves a living cluster; `IaasRefused` for a name or role that it
        has not got.
        """
        ...

    def list_owned(self) -> Owned:
        """All machines that carry a mark, of whatever run, and what could not be asked."""
        ...

    def get(self, name: str) -> MachineMade | None:
        """The machine of that name, marked or not; None only when there surely is none. Raises when it cannot tell."""
        ...

    def delete(self, name: str, *, run: str) -> None:
        """Give a machine of this run up: what the run made is removed, what it found is left with its data.

        One that is gone is no error. Raises `NotOurs` when it does not carry the run's mark, whatever else it has.
        """
        ...

    def hand_over(self, name: str, *, run: str) -> None:
        """The machine is in service now: the run's mark goes, the machine stays, whoever made it.

        One without the mark, or gone, is no error. Raises `NotOurs` when another run's mark is on it.
        """
        ...


class Fence(Protocol):
    """An ability: making sure that a machine, marked or not, does nothing any more."""

    def fence(self, name: str) -> None:
        """Switch it off, and return once that is proven. One that is off stays off. Raises when it is not proven."""
        ...


class Release(Protocol):
    """An ability: taking a fence back."""

    def release(self, name: str) -> None:
        """Switch a machine on again that a fence switched off. One that is on stays as it is. May be tried again."""
        ...


class Endpoint(Protocol):
    """An ability: the address that clients know the API servers by."""

    def point(self, endpoint: str, addresses: Sequence[str]) -> None:
        """Let ``endpoint`` (``host:port``) lead to the API servers at these addresses, and to no other."""
        ...


def machine_of(made: MachineMade) -> ShellMachine:
    """A way to a machine, to be closed; a context manager. Raises `IaasUnavailable` while it has no address."""
    if made.ssh is None:
        raise IaasUnavailable(f"{made.name} was begun and never finished", hint="ensure it again, or delete it")
    return ssh_machine(made.ssh, sudo=made.sudo)
