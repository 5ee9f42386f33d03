"""The seam to a distribution: where a master's files lie, and how its programs are stopped, started and put in.

Every call may be made again after a crash in the middle of it: what was done is found, and not done twice. Nothing is
deleted: what leaves its place is in ``aside``, a folder of the run, and what is there already is never written over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from bbr.layouts.masterfiles import MasterFiles
from bbr.layouts.staticpod import StaticPod
from bbr.machines.machine import Machine

STOP_ORDER = (
    "cloud-controller-manager",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-apiserver",
    "etcd",
)
"""Who writes stops before whom it writes to. On all masters each before any goes on to the next."""

START_ORDER = tuple(reversed(STOP_ORDER))
"""etcd first. Between the API servers and the rest a restore does what it must do alone."""

OURS = "bbr-"
"""What the names of programs begin with that a restore adds; whatever runs in them, they are no others'."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What makes a machine run a program: the file that says so, and what it says.

    Where the program runs without a container, the pod's image is its path, and nothing is mounted.
    """

    path: PurePosixPath
    pod: StaticPod


class Layout(Protocol):
    """How a distribution runs a master's programs. Holds no state; machines are handed in.

    A program is a name of `STOP_ORDER`, or one of our own, which begins with `OURS`. All methods raise what the
    machine raises, and `UsageError` for what the machine holds and nobody can make sense of.
    """

    @property
    def name(self) -> str:
        """As it stands in a backup: ``kubeadm``."""
        ...

    def collect(self, machine: Machine) -> MasterFiles:
        """All files of a master, see `MasterFiles`. Raises `UsageError` where there are no programs."""
        ...

    def programs(self, machine: Machine) -> Mapping[str, Definition]:
        """What there is to run, by program: not what runs."""
        ...

    def is_in_service(self, machine: Machine, program: str) -> bool:
        """Whether the machine runs it, or would start it by itself, now or after a reboot."""
        ...

    def take_out(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """From here on it is not in service, durably. A missing one is no error.

        Its process may take a while to end: see `wait_ended`. Raises `PreconditionFailed` when ``aside`` already
        holds another of that name, or lies where files are run.
        """
        ...

    def put_back(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """Undo `take_out`. Does not wait until it answers. Harmless when nothing was taken out.

        Raises `PreconditionFailed` when another one is in its place by now.
        """
        ...

    def install(self, machine: Machine, program: str, text: str) -> None:
        """Put a new one in service, in one step and durably. Does not wait until it answers.

        Raises `PreconditionFailed` when another one is in service: `take_out` or `remove` it first.
        """
        ...

    def remove(self, machine: Machine, program: str, aside: PurePosixPath) -> None:
        """Take what `install` put in out again, and keep it below ``aside``. A missing one is no error."""
        ...

    def stop_agent(self, machine: Machine) -> None:
        """Stop what runs the pods of a node (the kubelet). The pods go on."""
        ...

    def start_agent(self, machine: Machine) -> None:
        """Start it, or start it anew where it runs, so that it reads its files again."""
        ...
