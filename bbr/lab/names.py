"""Names in the hosts' /etc/hosts: a block between two marks, so that what others wrote there stays.

Every host has its own name; further names lead to a host as long as it is there, and are the lab's DNS and balancer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bbr.lab import programs
from bbr.lab.host import Host

_BEGIN, _END = "# bbr lab", "# end of bbr lab"
_LOOPBACK = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def hosts_file(hosts: Sequence[Host], pointers: Mapping[str, str]) -> str:
    """The /etc/hosts of a new host. ``pointers`` are further names, and the host that each leads to."""
    return updated(_LOOPBACK, hosts, pointers)


def updated(text: str, hosts: Sequence[Host], pointers: Mapping[str, str]) -> str:
    """An /etc/hosts with the block made anew."""
    before, _, rest = text.partition(f"{_BEGIN}\n")
    _, _, after = rest.partition(f"{_END}\n")
    addresses = {host.name: host.address for host in hosts}
    further = {name: addresses[host] for name, host in pointers.items() if host in addresses}
    lines = "".join(f"{address} {name}\n" for name, address in (*addresses.items(), *further.items()))
    return f"{before}{_BEGIN}\n{lines}{_END}\n{after}"


def tell(first_process: int, hosts: Sequence[Host], pointers: Mapping[str, str]) -> None:
    """Bring the /etc/hosts of a running host up to date. Raises `PreconditionFailed`."""
    # From the inside: a link there would lead elsewhere on the outside.
    inside = ["nsenter", f"--target={first_process}", "--mount", "--", "/bin/sh", "-c"]
    text = programs.run([*inside, "cat /etc/hosts"])
    fresh = updated(text, hosts, pointers)
    if fresh != text:
        # In one step: who looks a name up in the meantime finds the old file, and not an empty one.
        programs.run([*inside, "cat >/etc/.hosts && chmod 644 /etc/.hosts && mv /etc/.hosts /etc/hosts"], stdin=fresh)
