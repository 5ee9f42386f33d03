"""The programs that a cluster's hosts need: which there are, and the folders of the machine that have them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbr.errors import ToolMissing
from bbr.lab.lab import Lab
from bbr.lab.programs import SYSTEM_PATH


@dataclass(frozen=True, slots=True)
class Family:
    """Programs of one version, taken from one folder. ``hint`` says where they are to be had."""

    names: tuple[str, ...]
    hint: str


_BUILD = "name their folder with --bin-dir, or build them: `make testbed-lab`"

KUBERNETES = Family(
    ("kubeadm", "kubectl", "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler"), _BUILD
)
ETCD = Family(("etcd", "etcdctl", "etcdutl"), "name their folder with --bin-dir, or build them: `make testbed`")
CONTAINERD = Family(("containerd", "containerd-shim-runc-v2", "ctr"), _BUILD)
RUNC = Family(("runc",), "apt-get install runc, or what your distribution calls it")

TRUE = (KUBERNETES, ETCD, CONTAINERD, RUNC)
FAST = (KUBERNETES, ETCD)

_SYSTEM = tuple(map(Path, SYSTEM_PATH.split(os.pathsep)))


def folders(families: Iterable[Family], search: Sequence[Path]) -> tuple[Path, ...]:
    """The folders to give to hosts (`HostSpec.programs`), so that they have these programs on their PATH.

    Of each family the first folder in ``search`` that has it whole, then those of the system, which every host has
    anyway. Raises `ToolMissing`.
    """
    found: dict[Path, None] = {}
    for family in families:
        there = next((folder for folder in (*search, *_SYSTEM) if _has(folder, family.names)), None)
        if there is None:
            names = ", ".join(family.names)
            raise ToolMissing(f"the lab's clusters need {names}, of one folder, and there is none", hint=family.hint)
        if there not in _SYSTEM:
            found[there.absolute()] = None
    return tuple(found)


def of_host(lab: Lab, host: str, name: str) -> Path:
    """Where on the machine a program of a host lies. Raises `ToolMissing`."""
    for folder in (*lab.host(host).spec.programs, *_SYSTEM):
        if _has(folder, (name,)):
            return folder / name
    raise ToolMissing(
        f"host {host} of lab {lab.name} has no {name}", hint="make the lab with the folder that has it (--bin-dir)"
    )


def _has(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() and os.access(folder / name, os.X_OK) for name in names)
