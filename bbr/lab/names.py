"""The hosts' names in each other's /etc/hosts: a block between two marks, so that what others wrote there stays."""

from __future__ import annotations

from collections.abc import Sequence

from bbr.lab import programs
from bbr.lab.host import Host

_BEGIN, _END = "# bbr lab", "# end of bbr lab"
_LOOPBACK = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def hosts_file(hosts: Sequence[Host]) -> str:
    """The /etc/hosts of a new host."""
    return updated(_LOOPBACK, hosts)


def updated(text: str, hosts: Sequence[Host]) -> str:
    """An /etc/hosts with the block made anew."""
    before, _, rest = text.partition(f"{_BEGIN}\n")
    _, _, after = rest.partition(f"{_END}\n")
    lines = "".join(f"{host.address} {host.name}\n" for host in hosts)
    return f"{before}{_BEGIN}\n{lines}{_END}\n{after}"


def tell(first_process: int, hosts: Sequence[Host]) -> None:
    """Bring the /etc/hosts of a running host up to date. Raises `PreconditionFailed`."""
    # From the inside: a link there would lead elsewhere on the outside.
    inside = ["nsenter", f"--target={first_process}", "--mount", "--", "/bin/sh", "-c"]
    text = programs.run([*inside, "cat /etc/hosts"])
    if updated(text, hosts) != text:
        programs.run([*inside, "cat >/etc/hosts"], stdin=updated(text, hosts))
