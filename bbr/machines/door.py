"""A door: a program that makes a connection where this process cannot, and hands the connected socket over.

It gets one end of a socket pair as its stdout, sends one byte with the descriptor of its connection, and ends. This is
what OpenSSH asks of a ProxyCommand with ``ProxyUseFdpass yes`` (ssh_config(5)), so one door serves both.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from datetime import timedelta

_SAID_BYTES = 300


def enter(command: Sequence[str], limit: timedelta) -> socket.socket:
    """The socket that the door connected. Raises `OSError`, with what the door said, also past ``limit``."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            door = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
            )
        with door:
            try:
                ours.settimeout(limit.total_seconds())
                _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
                said = _ended(door, limit)
            finally:
                door.kill()
    if not descriptors:
        raise ConnectionError(f"its door let nobody in: {said or f'it ended with {door.returncode}'}")
    return socket.socket(fileno=descriptors[0])


def _ended(door: subprocess.Popen[bytes], limit: timedelta) -> str:
    """The end of what it said; it has nothing more to do."""
    try:
        _, said = door.communicate(timeout=limit.total_seconds())
    except subprocess.TimeoutExpired:
        return "it did not end"
    return said[-_SAID_BYTES:].decode(errors="replace").strip()
