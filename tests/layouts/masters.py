"""Masters' files as a backup has them, made by the real kubeadm: one master, and what kubeadm makes for another one
with the same authorities."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bbr.layouts.leaves import LEAVES
from bbr.layouts.masterfiles import collect
from bbr.layouts.renaming import MasterName
from bbr.repository.hostfiles import HostFile, split_owner
from tests.layouts.kubeadm_tree import CONFIGURATION, PHASES, Rooted, make_tree

M1, M9 = MasterName("m1", "10.77.0.11"), MasterName("m9", "10.77.0.19")
V1, V9 = MasterName("m1", "fd00:77::11"), MasterName("m9", "fd00:77::19")
KUBERNETES = PurePosixPath("/etc/kubernetes")
Files = Mapping[PurePosixPath, HostFile]


def kubeadm_master(kubeadm: Path, root: Path) -> None:
    """The files of `M1`."""
    make_tree(kubeadm, root)


def kubeadm_again(kubeadm: Path, old: Path, root: Path, master: MasterName) -> None:
    """What kubeadm makes for ``master``, with the authorities and the service-account key of ``old``."""
    shutil.copytree(old, root, symlinks=True)
    for name in LEAVES:
        for ending in (".crt", ".key"):
            (root / f"etc/kubernetes/pki/{name}{ending}").unlink()
    for conf in (root / "etc/kubernetes").glob("*.conf"):
        conf.unlink()
    text = CONFIGURATION.replace("10.77.0.11", f'"{master.address}"').replace("name: m1", f"name: {master.name}")
    if ":" in master.address:
        text = text.replace("10.244.0.0/16", "fd01::/64").replace("10.96.0.0/12", "fd02::/112")
    (root / "kubeadm.yaml").write_text(text)
    for phase in PHASES:
        words = [str(kubeadm), "--rootfs", str(root), "init", "phase", *phase.split(), "--config", "/kubeadm.yaml"]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
    (root / "kubeadm.yaml").unlink()


def backed_up(root: Path) -> tuple[HostFile, ...]:
    """The files as a backup takes them, in order of their paths."""
    return tuple(
        HostFile(file.path, file.mode, *split_owner(file.owner), body=file.body, link=file.link)
        for file in collect(Rooted(root)).files
    )


def by_path(files: tuple[HostFile, ...]) -> Files:
    """The files by their paths."""
    return {file.path: file for file in files}


def changed(files: tuple[HostFile, ...], changes: Mapping[str, str | bytes | None]) -> tuple[HostFile, ...]:
    """The files with some of other content, added, or taken away (None)."""
    found = dict(by_path(files))
    for name, body in changes.items():
        path = PurePosixPath(name)
        found.pop(path, None)
        if body is not None:
            found[path] = HostFile(path, 0o600, 0, 0, body.encode() if isinstance(body, str) else body)
    return tuple(found.values())
