"""The machines of a run: each connected to, and taken for the run, when it is first needed.

A machine that the plan makes is not there when the run begins; so nothing is opened ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from bbr.errors import BbrError, MachineUnreachable
from bbr.machines.machine import Machine
from bbr.machines.shell import ShellMachine
from restore.guard import RUNS, GuardedMachine, leave, take
from restore.iaas.iaas import Iaas, machine_of
from restore.journal import JOURNAL_NAME

_COPY = 'set -eu; umask 077; cat > "$1.new"; sync -- "$1.new"; mv -T -f -- "$1.new" "$1"; sync -- "${1%/*}/"'
"""journal: what is on standard input takes its place."""


class Fleet(Mapping[str, GuardedMachine]):
    """Machines by the names that the inventory gives them. A context manager; may be used by many threads."""

    def __init__(self, iaas: Iaas, names: tuple[str, ...], *, run: str, token: str) -> None:
        self._iaas, self._names, self._run, self._token = iaas, names, run, token
        self._opened: dict[str, GuardedMachine] = {}
        self._bare: dict[str, ShellMachine] = {}
        self._stack = ExitStack()
        self._locks = {name: threading.Lock() for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> GuardedMachine:
        """Connects and takes the machine at the first call. Raises what doing so raises, `HeldByAnotherRun` too."""
        with self._locks[name]:
            if name not in self._opened:
                self._opened[name] = take(self._machine(name), self._run, self._token)
            return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def bare(self, name: str) -> Machine:
        """The machine without the run's hold: to look, before it is taken."""
        with self._locks[name]:
            return self._machine(name)

    def mirror(self, journal: bytes) -> None:
        """Copy the journal to every machine that was taken, all of it: one that was taken late lacks nothing.

        Raises what the machine raises.
        """
        for machine in list(self._opened.values()):
            path = RUNS / self._run / JOURNAL_NAME
            machine.run(["sh", "-c", _COPY, "bbr", str(path)], stdin=journal)

    def leave(self, warn: Callable[[str], None]) -> None:
        """Free every machine for other plans; one that cannot be reached is told to ``warn``."""
        for name in self._names:
            try:
                with self._locks[name]:
                    leave(self._machine(name), self._run)
            except BbrError as err:
                warn(f"{name} was not given free: {err}")

    def _machine(self, name: str) -> ShellMachine:
        if name not in self._bare:
            made = self._iaas.get(name)
            if made is None:
                raise MachineUnreachable(f"there is no machine {name}", hint="`bbr iaas list` shows those that are")
            machine = machine_of(made)
            self._stack.enter_context(machine)
            self._bare[name] = machine
        return self._bare[name]
