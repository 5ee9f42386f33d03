"""Where a machine's SSH server is, and how the two sides know each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class SshHost:
    """Where a machine's sshd listens, who logs in with which keys, and how its host key is known.

    Either ``host_key`` (lines as in a .pub file) or ``known_hosts`` (a file in OpenSSH's format) must be given.
    ``jump`` is logged in to first; its sshd then connects to ``address``.
    ``door`` is a command that connects to ``address`` where this process cannot (a lab's network), and hands over the
    connected socket, as OpenSSH's ProxyCommand does with ProxyUseFdpass (see `door`).
    """

    name: str
    address: str
    identity_files: tuple[Path, ...]
    port: int = SSH_PORT
    user: str = "root"
    host_key: str | None = None
    known_hosts: Path | None = None
    jump: SshHost | None = None
    door: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        """For messages: ``master-1 (10.0.0.11)``; with the port where it is not 22."""
        port = "" if self.port == SSH_PORT else f":{self.port}"
        return f"{self.name} ({self.address}{port})"

    def route(self) -> list[SshHost]:
        """The hosts to log in to, one through the other, this one last."""
        return [*(self.jump.route() if self.jump else ()), self]
