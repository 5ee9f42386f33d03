"""What listens on a machine is reached through its SSH connection: real sshds, real sockets, and a lab's door."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bbr.errors import MachineError, MachineUnreachable, UsageError
from bbr.lab import door as lab_door
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from bbr.machines.host import SshHost
from bbr.machines.local import local_machine
from bbr.machines.shell import ShellMachine
from bbr.machines.ssh import ssh_machine
from bbr.servers.ports import LOOPBACK, free_ports
from tests.machines.conftest import every_machine, needs_root
from tests.machines.sshd import Sshd, start_sshd, wait_until

BODY = bytes(range(256)) * 40_000
SOON_S = 10


@contextmanager
def backwards() -> Iterator[int]:
    """A server that answers each connection with all that it said, backwards, once that is at its end."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=[connection], daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, connection.makefile("rb") as said:
                connection.sendall(said.read()[::-1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(SOON_S)


def ask(address: tuple[str, int], body: bytes) -> bytes:
    """Say something, and hear the answer to its end. An interrupted connection is an empty answer."""
    with socket.create_connection(address, timeout=SOON_S) as connection:
        sending = threading.Thread(target=_send, args=[connection, body])
        sending.start()
        with connection.makefile("rb") as answer:
            try:
                return answer.read()
            except ConnectionResetError:
                return b""
            finally:
                sending.join(SOON_S)


def _send(connection: socket.socket, body: bytes) -> None:
    try:
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return


def is_open(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(address, timeout=SOON_S).close()
    except OSError:
        return False
    return True


@every_machine
def test_what_is_said_arrives_whole_both_ways(machine: ShellMachine) -> None:
    with backwards() as port, machine.forward(port) as address:
        assert address[0] == LOOPBACK
        assert ask(address, BODY) == BODY[::-1]
        assert ask(address, b"again") == b"niaga"


def test_many_connections_at_once(sshd: Sshd) -> None:
    with backwards() as port, ssh_machine(sshd.host()) as machine, machine.forward(port) as address:
        answers: list[bytes] = []

        def one(at: int) -> None:
            answers.append(ask(address, str(at).encode() * 1000))

        threads = [threading.Thread(target=one, args=[at]) for at in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)
        assert sorted(answers) == sorted(str(at).encode()[::-1] * 1000 for at in range(20))


def test_port_is_closed_after_the_context_and_connections_with_it(sshd: Sshd) -> None:
    with backwards() as port, ssh_machine(sshd.host()) as machine:
        with machine.forward(port) as address:
            held = socket.create_connection(address, timeout=SOON_S)
            assert ask(address, b"abc") == b"cba"
        assert not is_open(address)
        with held:
            held.settimeout(SOON_S)
            assert _ended(held)
        assert machine.run(["echo", "on"]).stdout == b"on\n"


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_local_machine_is_reached_as_it_is() -> None:
    with local_machine() as machine, machine.forward(1234) as address:
        assert address == (LOOPBACK, 1234)


def test_next_connection_survives_a_dropped_ssh_connection(sshd: Sshd) -> None:
    with backwards() as port, ssh_machine(sshd.host()) as machine, machine.forward(port) as address:
        assert ask(address, b"abc") == b"cba"
        sshd.drop_connections()
        wait_until(lambda: ask(address, b"abc") == b"cba", "a new SSH connection")


def test_forward_begun_after_a_drop_connects_anew(sshd: Sshd) -> None:
    with backwards() as port, ssh_machine(sshd.host()) as machine:
        machine.run(["true"])
        sshd.drop_connections()
        with machine.forward(port) as address:
            assert ask(address, b"abc") == b"cba"


def test_server_that_does_not_listen_yet_is_waited_for_by_the_caller(sshd: Sshd) -> None:
    (port,) = free_ports(1)
    with ssh_machine(sshd.host()) as machine, machine.forward(port) as address:
        assert ask(address, b"abc") == b""
        with (
            socket.create_server((LOOPBACK, port)) as server,
            socket.create_connection(address, timeout=SOON_S) as connection,
        ):
            connection.sendall(b"x")
            there, _ = server.accept()
            with there:
                assert there.recv(1) == b"x"


def test_sshd_that_forbids_forwarding_is_told() -> None:
    with start_sshd("AllowTcpForwarding no") as strict, ssh_machine(strict.host()) as machine:
        with pytest.raises(MachineError, match="forwards no connection") as caught, machine.forward(1):
            pass
        assert "AllowTcpForwarding" in caught.value.hint
        assert machine.run(["echo", "on"]).stdout == b"on\n"


def test_machine_that_is_gone_is_unreachable(sshd: Sshd) -> None:
    (port,) = free_ports(1)
    with ssh_machine(sshd.host(port=port)) as machine, pytest.raises(MachineUnreachable), machine.forward(1):
        pass


DOOR = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as to, socket.socket(fileno=1) as out:
    socket.send_fds(out, [b"x"], [to.fileno()])
"""


def through(sshd: Sshd, *command: str) -> SshHost:
    """The sshd, at an address that leads nowhere, but for a door."""
    return sshd.host(address="192.0.2.1", door=(sys.executable, "-I", *command))


def test_door_hands_over_the_connection(sshd: Sshd) -> None:
    host = through(sshd, "-c", DOOR, str(sshd.port))
    with ssh_machine(host) as machine, backwards() as port:
        assert machine.run(["echo", "in"]).stdout == b"in\n"
        sshd.drop_connections()
        with machine.forward(port) as address:
            assert ask(address, b"abc") == b"cba"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("-c", "import sys; sys.exit('the bell is broken')"), "the bell is broken"),
        (("-c", "raise SystemExit(7)"), "ended with 7"),
        (("-c", "print('SSH-2.0-no descriptor')"), "let nobody in"),
    ],
)
def test_door_that_stays_closed_says_why(sshd: Sshd, command: tuple[str, ...], said: str) -> None:
    with ssh_machine(through(sshd, *command)) as machine, pytest.raises(MachineUnreachable, match=said):
        machine.run(["true"])


def test_door_that_is_no_program_is_told(sshd: Sshd) -> None:
    host = sshd.host(door=("/nowhere/door",))
    with ssh_machine(host) as machine, pytest.raises(MachineUnreachable, match="No such file"):
        machine.run(["true"])


def test_door_and_jump_host_exclude_each_other(sshd: Sshd) -> None:
    with pytest.raises(UsageError, match="not by both"):
        ssh_machine(sshd.host(door=("true",), jump=sshd.host()))


@needs_root
def test_lab_host_is_reached_from_outside_its_network(tmp_path: Path) -> None:
    with Lab.up([HostSpec("m1"), HostSpec("m2")], base=tmp_path / "labs") as lab:
        one = lab.host("m1")
        reached = SshHost(
            one.name,
            one.address,
            (one.identity,),
            port=one.ssh_port,
            host_key=one.host_key,
            door=(sys.executable, "-I", lab_door.__file__, str(one.network), one.address, str(one.ssh_port)),
        )
        with ssh_machine(reached) as machine:
            assert machine.run(["hostname"]).stdout == b"m1\n"
            with (
                machine.forward(lab.host("m2").ssh_port, lab.host("m2").address) as address,
                socket.create_connection(address, timeout=SOON_S) as connection,
            ):
                assert connection.recv(4) == b"SSH-"
