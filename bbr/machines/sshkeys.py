"""The keys that SSH needs, from files and settings: ours to log in with, and the pinned ones of a host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import asyncssh

from bbr.errors import HostKeyWrong, KeyRefused, UsageError
from bbr.machines.host import SSH_PORT, SshHost
from bbr.private import read_private

HostKeys = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]
"""Host keys, authorities of host keys, and revoked keys."""


def identity(path: Path) -> asyncssh.SSHKey:
    """A private key. Raises `KeyRefused`."""
    body = read_private(path)
    try:
        return asyncssh.import_private_key(body)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as err:
        if "passphrase" in str(err).lower():
            raise KeyRefused(
                f"the SSH key {path} is protected by a passphrase, and nobody is there to type it",
                hint="name a key without one: `ssh-keygen -p -N ''` takes it off a copy",
            ) from err
        raise KeyRefused(f"{path} is not an SSH private key: {err}", hint="name the file without .pub") from err


def host_keys(host: SshHost) -> HostKeys:
    """(host keys, authorities, revoked keys) that are pinned for a host. Raises `UsageError` or `HostKeyWrong`."""
    if (host.host_key is None) == (host.known_hosts is None):
        raise UsageError(
            f"{host.label}: give either its host key or a known_hosts file",
            hint="read /etc/ssh/ssh_host_ed25519_key.pub at its console; there is no trust on first use",
        )
    if host.host_key is not None:
        try:
            lines = [line for line in host.host_key.splitlines() if line.strip()] or [""]
            return [asyncssh.import_public_key(line) for line in lines], [], []
        except (asyncssh.KeyImportError, ValueError) as err:
            raise UsageError(
                f"{host.label}: its host key is not a public key: {err}", hint="a line like `ssh-ed25519 AAAA...`"
            ) from err
    return _known(host, host.known_hosts)


def _known(host: SshHost, file: Path | None) -> HostKeys:
    try:
        hosts = asyncssh.read_known_hosts(str(file))
        keys, authorities, revoked, *_ = asyncssh.match_known_hosts(hosts, host.address, host.address, host.port)
    except OSError as err:
        raise UsageError(f"{host.label}: {file} cannot be read: {err.strerror}") from err
    except ValueError as err:
        raise UsageError(f"{host.label}: {file} is not a known_hosts file: {err}") from err
    if not keys and not authorities:
        address = host.address if host.port == SSH_PORT else f"[{host.address}]:{host.port}"
        raise HostKeyWrong(
            f"{host.label}: {address} is not in {file}; nothing was sent",
            hint=f"add a line `{address} ssh-ed25519 AAAA...` with the key that is read at its console",
        )
    return keys, authorities, revoked
