"""How a person, or any program, logs in to the hosts of a lab: an ssh_config with keys pinned and the door filled in.

ssh -F <lab>/ssh_config <host>
"""

from __future__ import annotations

import sys
from pathlib import Path

from bbr.durable import replace_file
from bbr.errors import PreconditionFailed
from bbr.lab import door
from bbr.lab.keys import KeyPair
from bbr.lab.label import Label

IDENTITY = "identity"
KNOWN_HOSTS = "known_hosts"
SSH_CONFIG = "ssh_config"


def create_identity(folder: Path, pair: KeyPair) -> None:
    """Keep the key that may log in to every host of the lab."""
    replace_file(folder / IDENTITY, pair.private)
    replace_file(folder / f"{IDENTITY}.pub", f"{pair.public}\n".encode())


def public_identity(folder: Path) -> str:
    """The public half of the lab's key. Raises `PreconditionFailed` when it is not there."""
    try:
        return (folder / f"{IDENTITY}.pub").read_text().strip()
    except FileNotFoundError as err:
        raise PreconditionFailed(f"{folder} has no {IDENTITY}.pub", hint="take the lab down and up again") from err


def write_ssh_files(label: Label) -> None:
    """Write known_hosts and ssh_config for the hosts that the label names."""
    known = "".join(f"{host.name},{host.address} {host.host_key}\n" for host in label.hosts)
    replace_file(label.folder / KNOWN_HOSTS, known.encode())
    replace_file(label.folder / SSH_CONFIG, "\n".join(_sections(label)).encode())


def _sections(label: Label) -> list[str]:
    sections = [
        f"""\
Host {host.name}
  HostName {host.address}
  Port {host.ssh_port}
  ProxyCommand "{sys.executable}" -I "{door.__file__}" "{host.network}" %h %p
"""
        for host in label.hosts
    ]
    common = f"""\
Host *
  User root
  IdentityFile "{label.folder / IDENTITY}"
  IdentitiesOnly yes
  UserKnownHostsFile "{label.folder / KNOWN_HOSTS}"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  BatchMode yes
  ConnectTimeout 10
  ProxyUseFdpass yes
"""
    return [*sections, common]
