"""Abilities that hooks of the operator's carry: a fence, whose word is checked, its way back, and an endpoint."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from datetime import timedelta

from bbr.errors import IaasError, IaasRefused, IaasUnavailable, KeyRefused, MachineError, MachineUnreachable
from bbr.machines import door
from bbr.machines.host import SshHost
from bbr.machines.ssh import ssh_machine
from restore.iaas.hook import run_hook
from restore.iaas.inventory import HostEntry, HostsInventory

OFF_TIME = timedelta(seconds=60)
"""How long after its fence's word a host may still answer."""

_POLL_S = 0.5
_ASK_TIME = timedelta(seconds=10)


class HookFence:
    """A `Fence` by a program of the operator's, which gets ``{"name", "address", "node_name"}``."""

    def __init__(self, inventory: HostsInventory, program: Sequence[str]) -> None:
        self._entries, self._program = {one.name: one for one in inventory.hosts}, program

    def fence(self, name: str) -> None:
        """See `Fence.fence`. The program's word that the power is off is checked: nothing answers as SSH any more.

        That alone would be no proof, since a host may be cut off and alive: so the program's word is needed as well.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise IaasRefused(f"there is no host {name} in the inventory", hint="only what it names can be fenced")
        request = {"name": name, "address": entry.ssh.address, "node_name": entry.node_name}
        run_hook(self._program, request, doing=f"fencing {entry.ssh.label}")
        deadline = time.monotonic() + OFF_TIME.total_seconds()
        while _answers(entry):
            if time.monotonic() > deadline:
                raise IaasError(
                    f"{entry.ssh.label} still answers {OFF_TIME} after {self._program[0]} said that it is off",
                    hint="switch it off by hand, and look at the program",
                )
            time.sleep(_POLL_S)


class HookRelease:
    """A `Release` by a program of the operator's, which gets what the fence's got."""

    def __init__(self, inventory: HostsInventory, program: Sequence[str]) -> None:
        self._entries, self._program = {one.name: one for one in inventory.hosts}, program

    def release(self, name: str) -> None:
        """See `Release.release`. The program's word is enough: how long a host takes to start is its own affair."""
        entry = self._entries.get(name)
        if entry is None:
            raise IaasRefused(f"there is no host {name} in the inventory", hint="switch it on by hand")
        request = {"name": name, "address": entry.ssh.address, "node_name": entry.node_name}
        run_hook(self._program, request, doing=f"switching {entry.ssh.label} on again")


class HookEndpoint:
    """An `Endpoint` by a program of the operator's, which gets ``{"endpoint", "addresses"}``."""

    def __init__(self, endpoint: str, program: Sequence[str]) -> None:
        self._endpoint, self._program = endpoint, program

    def point(self, endpoint: str, addresses: Sequence[str]) -> None:
        """See `Endpoint.point`."""
        if endpoint != self._endpoint:
            raise IaasRefused(
                f"the inventory's endpoint is {self._endpoint}, not {endpoint}", hint="correct one of them"
            )
        request = {"endpoint": endpoint, "addresses": list(addresses)}
        run_hook(self._program, request, doing=f"pointing {endpoint} to {', '.join(addresses)}")


def _answers(entry: HostEntry) -> bool:
    """Whether anything is there at the host's SSH port, also what refuses us or hangs.

    Raises `IaasUnavailable` when the way to it does not work: silence would be no proof then.
    """
    if entry.ssh.jump is not None:
        return _answers_behind(entry.ssh.jump, entry)
    try:
        connection = _connected(entry)
    except (socket.gaierror, FileNotFoundError, PermissionError) as err:
        raise IaasUnavailable(f"whether {entry.ssh.label} is off cannot be seen: {err.strerror}") from err
    except OSError:
        return False
    with connection:
        connection.settimeout(_ASK_TIME.total_seconds())
        try:
            return connection.recv(1) != b""  # what forwards a port closes it at once when nobody is behind
        except TimeoutError:
            return True  # open, and not a word: a kernel lives there
        except OSError:
            return False


def _connected(entry: HostEntry) -> socket.socket:
    if entry.ssh.door is not None:
        return door.enter(entry.ssh.door, _ASK_TIME)
    return socket.create_connection((entry.ssh.address, entry.ssh.port), _ASK_TIME.total_seconds())


def _answers_behind(jump: SshHost, entry: HostEntry) -> bool:
    try:
        with ssh_machine(jump) as machine:
            machine.run(["true"], timeout=_ASK_TIME)
    except (MachineError, KeyRefused) as err:
        raise IaasUnavailable(f"whether {entry.ssh.label} is off cannot be seen: {err}", hint=err.hint) from err
    try:
        with ssh_machine(entry.ssh) as machine:
            machine.run(["true"], timeout=_ASK_TIME)
    except MachineError as err:
        return not isinstance(err, MachineUnreachable)
    return True
