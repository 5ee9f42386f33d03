"""Machines of one cluster that have different layouts: etcd as units on hosts of its own, masters with static pods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from bbr.layouts.layout import Definition, Layout
from bbr.layouts.masterfiles import MasterFiles
from bbr.machines.machine import Machine


class Mixed:
    """A `Layout` that leaves each machine to its own. ``layout_of`` says which that is, without looking there."""

    def __init__(self, layout_of: Callable[[Machine], Layout]) -> None:
        self._of = layout_of

    @property
    def name(self) -> str:
        """See `Layout.name`."""
        return "mixed"

    def collect(self, machine: Machine) -> MasterFiles:
        """See `Layout.collect`."""
        return self._of(machine).collect(machine)

    def programs(self, machine: Machine) -> Mapping[str, Definition]:
        """See `Layout.programs`."""
        return self._of(machine).programs(machine)

    def is_in_service(self, machine: Machine, program: str) -> bool:
        """See `Layout.is_in_service`."""
        return self._of(machine).is_in_service(machine, program)

    def take_out(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.take_out`."""
        self._of(machine).take_out(machine, program, aside)

    def put_back(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.put_back`."""
        self._of(machine).put_back(machine, program, aside)

    def install(self, machine: Machine, program: str, text: str) -> None:
        """See `Layout.install`."""
        self._of(machine).install(machine, program, text)

    def remove(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """See `Layout.remove`."""
        self._of(machine).remove(machine, program, aside)

    def stop_agent(self, machine: Machine) -> None:
        """See `Layout.stop_agent`."""
        self._of(machine).stop_agent(machine)

    def start_agent(self, machine: Machine) -> None:
        """See `Layout.start_agent`."""
        self._of(machine).start_agent(machine)
