"""The door to a lab: a connection to one of its hosts, from a process that is not in its network.

A socket belongs to the network namespace that its thread was in when it was made, wherever it is used afterwards. So a
thread of its own enters the lab's, connects, and ends; the socket is handed out.

As a program it serves the stock ssh, which asks for the connected socket itself (``ProxyUseFdpass yes``):

    ProxyCommand python3 door.py /run/netns/NAME %h %p

It imports nothing but the standard library, so that it runs as a file, and quickly. Source: setns(2), ssh_config(5).
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

CONNECT_LIMIT = timedelta(seconds=10)
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def connect(network: Path, address: str, port: int, *, limit: timedelta = CONNECT_LIMIT) -> socket.socket:
    """A TCP connection to an address of the network namespace that the file names. Needs root. Raises `OSError`."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(_enter_and_connect, network, address, port, limit).result()


def _enter_and_connect(network: Path, address: str, port: int, limit: timedelta) -> socket.socket:
    _enter(network)
    connection = socket.create_connection((address, port), timeout=limit.total_seconds())
    connection.settimeout(None)
    return connection


def _enter(network: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns begins with Python 3.12
    descriptor = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(network))
    finally:
        os.close(descriptor)


def _hand_to_ssh(arguments: list[str]) -> None:
    network, address, port = arguments
    with socket.socket(fileno=sys.stdout.fileno()) as ssh, connect(Path(network), address, int(port)) as connection:
        socket.send_fds(ssh, [b"\0"], [connection.fileno()])


if __name__ == "__main__":
    try:
        _hand_to_ssh(sys.argv[1:])
    except OSError as problem:
        sys.exit(f"lab: no way to {':'.join(sys.argv[2:4])} in {sys.argv[1]}: {problem}")
