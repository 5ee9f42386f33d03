"""The disk of a host: an overlay on the machine's own files, with what makes it a machine of its own written on top.

Layout of a host's folder: ``upper`` and ``work`` (overlayfs), ``root`` (where the host mounts it), ``volumes`` (real
folders for what cannot lie on an overlay, a container runtime's layers), ``console.log``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.lab.keys import KeyPair

CONSOLE = "console.log"

_EMPTIED = (
    "etc/cni",
    "etc/kubernetes",
    "etc/ssh",
    "home",
    "media",
    "mnt",
    "root",
    "tmp",
    "var/lib/bbr",
    "var/lib/containerd",
    "var/lib/etcd",
    "var/lib/kubelet",
    "var/tmp",
)
"""Folders whose content is the machine's own business: its keys, its users, a cluster that it may itself be part of."""

_OPAQUE = "trusted.overlay.opaque"  # Documentation/filesystems/overlayfs.rst
_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    mode: int = 0o644


def create(
    folder: Path, *, name: str, lower: Sequence[Path], volumes: Sequence[str], host_key: KeyPair, login: str, hosts: str
) -> None:
    """Make a host's folder. ``login`` is the public key that may log in as root; ``hosts`` its /etc/hosts.

    Raises `PreconditionFailed` when the file system is full, or of a kind that cannot carry an overlay.
    """
    try:
        _create(folder, lower, volumes)
        _write(folder / "upper", _files(name, host_key, login, hosts), lower)
    except OSError as err:
        raise PreconditionFailed(
            f"host {name}: no disk for it in {folder}: {err}", hint="choose a folder on ext4, XFS, Btrfs or tmpfs"
        ) from err


def volume(folder: Path, path: str) -> Path:
    """Where in a host's folder its volume at ``path`` lies."""
    return folder / "volumes" / path.lstrip("/")


def remove(folder: Path) -> None:
    """Remove a folder of the lab. A missing one is no error.

    Raises `PreconditionFailed` when something is mounted below it: what is mounted there may be the whole machine.
    """
    mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    if there := [mount for mount in mounts if Path(mount).is_relative_to(folder)]:
        raise PreconditionFailed(f"{', '.join(there)} is mounted; nothing was removed", hint="umount it first")
    if folder.exists():
        shutil.rmtree(folder)


def _create(folder: Path, lower: Sequence[Path], volumes: Sequence[str]) -> None:
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True)
    for path in volumes:
        volume(folder, path).mkdir(parents=True)
    upper = folder / "upper"
    upper.chmod(0o755)  # it is the mode of the host's /
    for path in _EMPTIED:
        if _in_lower(path, lower) is not None:
            os.setxattr(_folder(upper, path, lower), _OPAQUE, b"y")


def _files(name: str, host_key: KeyPair, login: str, hosts: str) -> dict[str, _File]:
    return {
        "etc/hostname": _File(f"{name}\n".encode()),
        "etc/hosts": _File(hosts.encode()),
        "etc/machine-id": _File(f"{os.urandom(16).hex()}\n".encode(), 0o444),
        "etc/rc.local": _File(b"#!/bin/sh\n"),  # the machine's, if it has one, is not for a host
        "etc/resolv.conf": _File(b""),  # there is nobody to ask
        "etc/ssh/sshd_config": _File(_SSHD.encode()),
        "etc/ssh/ssh_host_ed25519_key": _File(host_key.private, 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": _File(f"{host_key.public} {name}\n".encode()),
        "root/.ssh/authorized_keys": _File(f"{login}\n".encode(), 0o600),
    }


def _write(upper: Path, files: Mapping[str, _File], lower: Sequence[Path]) -> None:
    for path, file in files.items():
        _folder(upper, str(Path(path).parent), lower)
        (upper / path).write_bytes(file.body)
        (upper / path).chmod(file.mode)


def _folder(upper: Path, path: str, lower: Sequence[Path]) -> Path:
    """A folder on top, with owner and mode of the one below: the top one's count. A new one is for its owner alone."""
    for part in (*reversed(Path(path).parents), Path(path)):
        if (upper / part).exists():
            continue
        below = _in_lower(str(part), lower)
        (upper / part).mkdir()
        (upper / part).chmod(below.st_mode & 0o7777 if below else 0o700)
        if below:
            os.chown(upper / part, below.st_uid, below.st_gid)
    return upper / path


def _in_lower(path: str, lower: Sequence[Path]) -> os.stat_result | None:
    for layer in lower:
        if (layer / path).is_dir() and not (layer / path).is_symlink():
            return (layer / path).stat()
    return None
