"""Which etcds are meant, and how they are reached: by flags, by the configuration, or found on a kubeadm master."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

from bbr.capture.take import Source
from bbr.cli.config import Config, EtcdSettings
from bbr.cli.options import EtcdAccess
from bbr.errors import KeyRefused, UsageError
from bbr.etcd.address import Credentials
from bbr.layouts import kubeadm
from bbr.machines.local import local_machine
from bbr.machines.machine import Machine

MANIFESTS_DIR = Path("/etc/kubernetes/manifests")
KUBEADM_CLUSTER = "kubernetes"
"""What kubeadm calls a cluster unless told otherwise; with it a backup on a master needs no name."""

PEM_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """The etcds of a cluster. ``told_by`` says how they were found; ``key_files`` are secrets that must be private."""

    sources: tuple[Source, ...]
    told_by: str
    key_files: tuple[Path, ...]
    is_kubeadm: bool
    is_this_master: bool
    """Whether this host is the master: its manifests lie where kubeadm puts them, not in a copy somewhere else."""


def find_sources(access: EtcdAccess, config: Config) -> Found:
    """The etcds that the flags name; else those of the configuration; else those of this kubeadm master.

    Raises `UsageError` when none of them names one, or a file is not to be read; `KeyRefused` for an exposed password.
    """
    settings, told_by = _settings(access, config)
    sources = tuple(Source(name, one.endpoints, credentials(one), one.prefix) for name, one in settings.items())
    secrets = [file for one in settings.values() for file in (one.key_file, one.password_file) if file is not None]
    return Found(
        sources,
        told_by,
        tuple(dict.fromkeys(secrets)),
        told_by.startswith("kubeadm"),
        told_by == f"kubeadm's {MANIFESTS_DIR}",
    )


def open_masters(config: Config, found: Found, opened: ExitStack) -> dict[str, Machine]:
    """The masters whose files are taken: those of the configuration, over SSH; else this host, where it is one.

    None is connected to yet. Raises `KeyRefused` or `HostKeyWrong` for what would be logged in with.
    """
    if config.masters:
        from bbr.machines.ssh import ssh_machine

        return {
            name: opened.enter_context(ssh_machine(one.host, sudo=one.sudo)) for name, one in config.masters.items()
        }
    return {gethostname(): local_machine()} if found.is_this_master else {}


def cluster_name(named: str | None, config: Config, found: Found) -> str:
    """The cluster's name in the repository. Raises `UsageError` when nobody gave one."""
    name = named or config.cluster or (KUBEADM_CLUSTER if found.is_kubeadm else None)
    if name is None:
        raise UsageError("the cluster has no name", hint="give --cluster NAME, or write `cluster: NAME` into bbr.yaml")
    return name


def credentials(settings: EtcdSettings) -> Credentials:
    """What opens one etcd, read from its files."""
    return Credentials(
        ca=_pem(settings.ca_file),
        certificate=_pem(settings.cert_file),
        key=_pem(settings.key_file),
        username=settings.username,
        password=_password(settings.password_file),
    )


def _settings(access: EtcdAccess, config: Config) -> tuple[dict[str, EtcdSettings], str]:
    files = (access.ca_file, access.cert_file, access.key_file, access.username, access.password_file)
    if access.endpoints:
        one = EtcdSettings(
            access.endpoints,
            access.ca_file,
            access.cert_file,
            access.key_file,
            access.username or "",
            access.password_file,
        )
        return {"main": one}, "--endpoints"
    if any(files):
        raise UsageError("etcd's certificate or user was given, but not where it is", hint="give --endpoints too")
    if config.etcd and access.manifests_dir is None:
        return dict(config.etcd), str(config.path)
    folder = access.manifests_dir or config.manifests_dir or MANIFESTS_DIR
    if access.manifests_dir is None and config.manifests_dir is None and not folder.is_dir():
        raise UsageError(
            f"no etcd was named, and this is no kubeadm master ({folder} does not exist)",
            hint="give --endpoints URL with --cacert, --cert and --key, or an `etcd:` section in bbr.yaml",
        )
    return dict(_discovered(folder)), f"kubeadm's {folder}"


def _discovered(folder: Path) -> Iterator[tuple[str, EtcdSettings]]:
    for name, one in kubeadm.discover(folder).items():
        yield name, EtcdSettings(one.endpoints, one.ca_file, one.certificate_file, one.key_file, prefix=one.prefix)


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            body = file.read(PEM_LIMIT_BYTES + 1)
    except OSError as err:
        raise UsageError(f"etcd's certificate file {path} cannot be read: {err.strerror}", hint="run as root?") from err
    if b"-----BEGIN " not in body or len(body) > PEM_LIMIT_BYTES:
        raise UsageError(f"{path} is not a PEM file")
    return body


def _password(path: Path | None) -> str:
    """One line from a file that nobody else can read."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o077:
                raise KeyRefused(
                    f"the password file {path} can be read by other users (mode {stat.S_IMODE(mode):04o})",
                    hint=f"chmod 600 {path}",
                )
            text = file.read(PEM_LIMIT_BYTES).decode()
    except OSError as err:
        raise UsageError(f"the password file {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise UsageError(f"the password file {path} is not text in UTF-8") from err
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise UsageError(f"the password file {path} must hold one line")
    return password
