"""The adapter to machines that exist already: an inventory names them, and a run takes them one by one.

To take a host is to write the run's mark on it; to give it back is to move the mark aside. The host's data is nobody's
business here. Switching hosts off, and letting the cluster's address lead elsewhere, is done by the operator's hooks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from bbr.errors import (
    BbrError,
    CommandFailed,
    IaasError,
    IaasRefused,
    KeyRefused,
    MachineError,
    MachineTaken,
    NoSudo,
    NotOurs,
)
from bbr.machines.machine import Machine
from bbr.machines.ssh import ssh_machine
from bbr.threads import pool
from restore.iaas import claim
from restore.iaas.claim import Held
from restore.iaas.iaas import Finding, IaasInfo, Known, MachineMade, MachineWanted, Owned, Unknown
from restore.iaas.inventory import HostEntry, HostsInventory
from restore.iaas.living import signs_of_life
from restore.iaas.mark import Claim

ABREAST = 8
"""So many hosts are asked at once."""

_ASK_TIME = timedelta(seconds=10)
_CLOCK_LIMIT_S = 60
"""More than what certificates, tokens and leases bear; a restore is refused beyond it."""
_WHO_AND_WHAT = 'id -u; date +%s; for one in "$@"; do command -v "$one" >/dev/null || echo "$one"; done'
_NEEDED = ("flock", "mv", "sha256sum", "stat", "sync", "timeout", "truncate")


class HostsIaas:
    """An `Iaas` over an inventory of hosts."""

    def __init__(self, inventory: HostsInventory) -> None:
        self._inventory = inventory
        self._entries = {one.name: one for one in inventory.hosts}

    def info(self) -> IaasInfo:
        """See `Iaas.info`."""
        known = tuple(
            Known(one.name, one.role, one.ssh.address, one.node_name, one.node_address) for one in self._inventory.hosts
        )
        return IaasInfo("hosts", str(self._inventory.path), makes_machines=False, known=known)

    def preflight(self) -> tuple[Finding, ...]:
        """See `Iaas.preflight`. One finding for each host."""
        with pool(ABREAST, "hosts") as threads:
            return tuple(threads.map(_finding, self._inventory.hosts))

    def ensure_machine(self, wanted: MachineWanted) -> MachineMade:
        """See `Iaas.ensure_machine`."""
        entry = self._entry(wanted.name)
        if entry.role != wanted.role:
            raise IaasRefused(
                f"{wanted.name} is no {wanted.role}: the inventory says {entry.role}",
                hint=f"see {self._inventory.path}",
            )
        new = Claim(wanted.mark, wanted.role, how="found")
        with _machine(entry) as machine:
            held = claim.look(machine)
            if held is None or held.claim != new:
                if not _is_of(held, wanted.mark.run):
                    _check_free(machine, held, wanted)
                claim.take(machine, new, found=held)
        return _made(entry, new)

    def list_owned(self) -> Owned:
        """See `Iaas.list_owned`. Asks every host of the inventory."""
        with pool(ABREAST, "hosts") as threads:
            answers = list(threads.map(_ask, self._inventory.hosts))
        machines = tuple(one for one in answers if isinstance(one, MachineMade) and one.mark is not None)
        return Owned(machines, tuple(one for one in answers if isinstance(one, Unknown)))

    def get(self, name: str) -> MachineMade | None:
        """See `Iaas.get`."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        with _machine(entry) as machine:
            held = claim.look(machine)
        return _made(entry, held.claim if held is not None else None)

    def delete(self, name: str, *, run: str) -> None:
        """See `Iaas.delete`. The mark goes; everything else on the host stays."""
        entry = self._entries.get(name)
        if entry is None:
            return
        with _machine(entry) as machine:
            held = claim.look(machine)
            if held is not None and held.claim.mark.run == run:
                claim.give_back(machine, held)
            elif held is not None:
                raise NotOurs(
                    f"{machine.name} is held by run {held.claim.mark.run}, not by {run}; it was left as it is"
                )
            elif not claim.was_given_back(machine, run):
                raise NotOurs(f"{machine.name} was never taken by run {run}; it was left as it is")

    def hand_over(self, name: str, *, run: str) -> None:
        """See `Iaas.hand_over`."""
        entry = self._entries.get(name)
        if entry is None:
            return
        with _machine(entry) as machine:
            held = claim.look(machine)
            if held is not None and held.claim.mark.run != run:
                raise NotOurs(f"{machine.name} is held by run {held.claim.mark.run}; it was left as it is")
            if held is not None:
                claim.give_back(machine, held)

    def _entry(self, name: str) -> HostEntry:
        if name not in self._entries:
            raise IaasRefused(
                f"there is no host {name} in {self._inventory.path}", hint=f"its hosts: {', '.join(self._entries)}"
            )
        return self._entries[name]


@contextmanager
def _machine(entry: HostEntry) -> Iterator[Machine]:
    try:
        with ssh_machine(entry.ssh, sudo=entry.sudo) as machine:
            yield machine
    except CommandFailed as err:
        if entry.sudo or entry.ssh.user == "root" or "Permission denied" not in err.stderr:
            raise
        raise NoSudo(
            f"{entry.ssh.label}: {entry.ssh.user} is not root there: {err.stderr}",
            hint="set sudo: true for it in the inventory, or log in as root",
        ) from err


def _made(entry: HostEntry, held: Claim | None) -> MachineMade:
    return MachineMade(
        name=entry.name,
        address=entry.ssh.address,
        ssh=entry.ssh,
        mark=held.mark if held is not None else None,
        state="on",
        node_name=entry.node_name,
        node_address=entry.node_address,
        role=entry.role,
        sudo=entry.sudo,
    )


def _is_of(held: Held | None, run: str) -> bool:
    return held is not None and held.claim.mark.run == run


def _check_free(machine: Machine, held: Held | None, wanted: MachineWanted) -> None:
    """Raise `MachineTaken` when a host that is not this run's must not become it."""
    if held is not None and not held.claim.mark.is_expired(datetime.now(UTC)):
        other = held.claim.mark
        raise MachineTaken(
            f"{machine.name} is held by run {other.run} ({other.purpose} of {other.cluster}) "
            f"until {other.expires:%Y-%m-%d %H:%M} UTC",
            hint=f"end that run, or give its hosts back: bbr iaas sweep --run {other.run}",
        )
    if not wanted.take_living and (signs := signs_of_life(machine)):
        raise MachineTaken(
            f"{machine.name} serves a living cluster: {'; '.join(signs)}",
            hint="name another host; only a restore in place takes such a one",
        )


def _ask(entry: HostEntry) -> MachineMade | Unknown:
    """Whose a host is, or why nobody knows."""
    try:
        with _machine(entry) as machine:
            held = claim.look(machine)
    except (MachineError, KeyRefused, IaasError) as err:
        return Unknown(entry.name, str(err))
    return _made(entry, held.claim if held is not None else None)


def _finding(entry: HostEntry) -> Finding:
    try:
        with _machine(entry) as machine:
            machine.run(["true"], timeout=_ASK_TIME)  # logs in: the clock is asked when that takes no time any more
            before = time.time()
            answer = machine.run(["sh", "-c", _WHO_AND_WHAT, "bbr", *_NEEDED], timeout=_ASK_TIME)
            user, clock, *missing = answer.stdout.decode(errors="replace").split()
            ahead_s = float(clock) - (before + time.time()) / 2
            held, signs = claim.look(machine), signs_of_life(machine)
    except BbrError as err:
        return Finding(entry.name, False, str(err), err.hint)
    if user != "0":
        return Finding(entry.name, False, f"{entry.ssh.user} is not root there", "set sudo: true, or log in as root")
    if missing:
        return Finding(entry.name, False, f"it lacks {', '.join(missing)}", "install util-linux and coreutils there")
    if abs(ahead_s) > _CLOCK_LIMIT_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        return Finding(
            entry.name, False, f"its clock is {abs(ahead_s):,.0f} s {way} this host's", "set the one that is wrong"
        )
    owner = f"held by run {held.claim.mark.run}" if held is not None else "free"
    life = f"; {'; '.join(signs)}" if signs else ""
    return Finding(entry.name, True, f"answers as root, {owner}{life}")
