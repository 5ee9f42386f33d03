"""Free ports on loopback, from below the range that the kernel gives to outgoing connections.

A port of that range may be taken at any moment by somebody's client. Worse, a client that calls again and again for a
member that is down may be given the member's own port, is then connected to itself, and the member cannot come back.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 1000


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens on right now. Another process may be faster: start the server soon.

    Raises `OSError` when there are none.
    """
    ports: list[int] = []
    with ExitStack() as held:  # until all are found, so that they differ
        for _ in range(_TRIES):
            if len(ports) == count:
                return ports
            port = random.randrange(_LOWEST, _first_outgoing())  # noqa: S311 - no secret
            one = held.enter_context(socket.socket())
            try:
                one.bind((LOOPBACK, port))
            except OSError:  # somebody has it
                continue
            ports.append(port)
    raise OSError(f"no {count} free ports on {LOOPBACK} from {_LOWEST} to {_first_outgoing()}")


def _first_outgoing() -> int:
    """Where the kernel's range begins; Linux' default where it leaves no room below, or does not say."""
    try:
        first = int(_OUTGOING.read_text().split()[0])
    except OSError:
        first = 0
    return first if first > _LOWEST + 1000 else 32_768
