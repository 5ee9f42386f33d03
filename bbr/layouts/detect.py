"""Which layout a master has: asked of the machine, so that nobody needs to say it."""

from __future__ import annotations

from collections.abc import Mapping

from bbr.errors import UsageError
from bbr.layouts.layout import STOP_ORDER, Definition, Layout
from bbr.layouts.masterfiles import MANIFESTS
from bbr.layouts.staticpods import StaticPods
from bbr.layouts.systemd import Systemd
from bbr.machines.machine import Machine

LAYOUTS: tuple[Layout, ...] = (StaticPods(), Systemd())
"""In the order in which they are tried: a kubeadm master has units too, the kubelet's."""


def detect(machine: Machine) -> Layout:
    """The layout of a machine that runs, or would run, one of the programs. Raises `UsageError` for any other.

    A master whose API server is a static pod and whose etcd is a unit beside it counts as kubeadm's.
    """
    found = look(machine)
    if found is not None:
        return found[0]
    raise UsageError(
        f"{machine.name} has no static pods in {MANIFESTS}, and no unit that runs one of {', '.join(STOP_ORDER)}",
        hint="is this a master?",
    )


def look(machine: Machine) -> tuple[Layout, Mapping[str, Definition]] | None:
    """The layout of a machine and what there is to run, as `detect`; None where it is nothing of a control plane."""
    for layout in LAYOUTS:
        programs = layout.programs(machine)
        if programs.keys() & set(STOP_ORDER):
            return layout, programs
    return None


def named(name: str) -> Layout:
    """The layout of that name, as a backup has it. Raises `UsageError` for one that this bbr does not know."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise UsageError(f"there is no layout {name!r}", hint=f"known: {', '.join(one.name for one in LAYOUTS)}")
