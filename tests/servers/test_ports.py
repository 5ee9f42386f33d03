"""Ports that servers can be given."""

from __future__ import annotations

import socket
from pathlib import Path

from bbr.servers.ports import LOOPBACK, free_ports


def test_ports_differ_and_can_be_listened_on() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as server:
            server.bind((LOOPBACK, port))
            server.listen()


def test_ports_are_not_those_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[1])
    assert first <= 11_000 or all(port < first or port > last for port in free_ports(50))
