"""SSH against a real sshd: who is trusted, who is let in, and what happens when the other side goes away."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from bbr.errors import (
    BbrError,
    CommandTimedOut,
    ConnectionLost,
    HostKeyWrong,
    KeyRefused,
    LoginRefused,
    MachineError,
    MachineUnreachable,
    NoSpace,
    NoSudo,
    UsageError,
)
from bbr.machines import ssh
from bbr.machines.host import SshHost
from bbr.machines.machine import Digest
from bbr.machines.shell import ShellMachine
from bbr.machines.ssh import SshTransport, ssh_machine
from bbr.machines.transport import Ended, Running
from bbr.servers.ports import LOOPBACK, free_ports
from tests.machines.conftest import needs_root
from tests.machines.sshd import OPERATOR, TALKER, Sshd, make_key, start_sshd, wait_until, wait_until_gone

SOON = timedelta(seconds=2)


def said(error: BbrError) -> tuple[int, str]:
    """What the command line would end with and print."""
    return error.exit_code, f"{error} ({error.hint})"


def first_call(host: SshHost, *, sudo: bool = False) -> BbrError:
    """The error of a first call, which has to be one."""
    with pytest.raises(BbrError) as caught, ssh_machine(host, sudo=sudo) as machine:
        machine.run(["true"])
    return caught.value


def test_machine_is_named_with_its_address(sshd: Sshd) -> None:
    with ssh_machine(sshd.host()) as machine:
        assert machine.name == f"master-1 (127.0.0.1:{sshd.port})"
    assert SshHost("m", "10.0.0.11", ()).label == "m (10.0.0.11)"


def test_known_hosts_file_is_enough(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"# masters\n[127.0.0.1]:{sshd.port} {sshd.host_key}")
    with ssh_machine(sshd.host(host_key=None, known_hosts=file)) as machine:
        assert machine.run(["echo", "hi"]).stdout == b"hi\n"
    subprocess.run(["/usr/bin/ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True, timeout=60)
    assert "127.0.0.1" not in file.read_text()
    with ssh_machine(sshd.host(host_key=None, known_hosts=file)) as machine:
        assert machine.run(["echo", "hi"]).stdout == b"hi\n"


def test_host_that_is_not_in_known_hosts_is_not_spoken_to(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"10.0.0.11 {sshd.host_key}")
    error = first_call(sshd.host(host_key=None, known_hosts=file))
    assert isinstance(error, HostKeyWrong)
    code, text = said(error)
    assert code == 12
    assert f"[127.0.0.1]:{sshd.port} is not in {file}; nothing was sent" in text
    assert "at its console" in text


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("pinned", ["given", "file"])
def test_changed_host_key_is_refused_with_both_fingerprints(sshd: Sshd, tmp_path: Path, kind: str, pinned: str) -> None:
    other = make_key(tmp_path / "other", kind).with_suffix(".pub").read_text()
    file = tmp_path / "known_hosts"
    file.write_text(f"[127.0.0.1]:{sshd.port} {other}")
    how = {"host_key": other} if pinned == "given" else {"host_key": None, "known_hosts": file}
    error = first_call(sshd.host(**how))
    assert isinstance(error, HostKeyWrong)
    code, text = said(error)
    assert code == 12
    assert "SHA256:" in text.partition("; ")[2]
    if kind == "ed25519":
        shown = subprocess.run(
            ["/usr/bin/ssh-keygen", "-l", "-f", str(sshd.folder / "host.pub")],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert f"showed ssh-ed25519 {shown.stdout.split()[1].decode()}; " in text
    assert "nothing was sent" in text


def test_revoked_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}@revoked * {sshd.host_key}")
    error = first_call(sshd.host(host_key=None, known_hosts=file))
    assert isinstance(error, HostKeyWrong)
    assert "revoked" in str(error)


def test_login_with_another_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "other")
    error = first_call(sshd.host(identity_files=(key,)))
    assert isinstance(error, LoginRefused)
    code, text = said(error)
    assert code == 12
    assert f"master-1 (127.0.0.1:{sshd.port}) refused to let " in text
    assert f" in with {key} (" in text
    assert "authorized_keys" in text


def test_second_key_is_tried_after_the_first(sshd: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    with ssh_machine(sshd.host(identity_files=(other, sshd.folder / "login"))) as machine:
        assert machine.run(["true"]).exit_code == 0


def test_neither_the_agent_nor_the_users_own_files_are_asked(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    for name in ("login", "login.pub"):
        (home / ".ssh" / name.replace("login", "id_ed25519")).write_bytes((sshd.folder / name).read_bytes())
    (home / ".ssh/id_ed25519").chmod(0o600)
    (home / ".ssh/config").write_text(f"Host *\n  IdentityFile {sshd.folder}/login\n  User nobody\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    assert isinstance(first_call(sshd.host(identity_files=(make_key(tmp_path / "other"),))), LoginRefused)


@pytest.mark.parametrize(
    ("mode", "passphrase", "message"),
    [(0o644, "", "by other users .mode 0644."), (0o600, "open sesame", "passphrase"), (0, "", "does not exist")],
)
def test_identity_file_that_cannot_be_used_is_refused(
    sshd: Sshd, tmp_path: Path, mode: int, passphrase: str, message: str
) -> None:
    key = make_key(tmp_path / "key", passphrase=passphrase)
    if mode:
        key.chmod(mode)
    else:
        key.unlink()
    with pytest.raises(KeyRefused, match=message) as caught:
        ssh_machine(sshd.host(identity_files=(key,)))
    assert caught.value.exit_code == 12


def test_public_key_in_place_of_the_private_one_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key").with_suffix(".pub")
    key.chmod(0o600)
    with pytest.raises(KeyRefused, match="is not an SSH private key"):
        ssh_machine(sshd.host(identity_files=(key,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host_key": None}, "give either its host key or a known_hosts file"),
        ({"known_hosts": Path("/x")}, "give either its host key or a known_hosts file"),
        ({"host_key": None, "known_hosts": Path("/missing/known_hosts")}, "cannot be read: No such file"),
        ({"host_key": "not a key"}, "is not a public key"),
        ({"host_key": "\n"}, "is not a public key"),
        ({"identity_files": ()}, "no identity file"),
    ],
)
def test_host_that_is_described_wrongly_is_refused(sshd: Sshd, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ssh_machine(sshd.host(**changes))
    assert caught.value.exit_code == 2


def test_host_that_is_down_is_unreachable_and_may_be_tried_again(sshd: Sshd) -> None:
    (port,) = free_ports(1)
    error = first_call(sshd.host(port=port))
    assert isinstance(error, MachineUnreachable)
    assert error.retry_may_help
    code, text = said(error)
    assert code == 1
    assert text.startswith(f"master-1 (127.0.0.1:{port}) cannot be reached: ")
    assert "refused" in text


def test_name_that_does_not_resolve_is_unreachable(sshd: Sshd) -> None:
    error = first_call(sshd.host(address="master-1.invalid"))
    assert isinstance(error, MachineUnreachable)


@contextmanager
def listener(answer: bytes) -> Iterator[int]:
    """Something that listens, says ``answer`` and no more."""
    with socket.create_server((LOOPBACK, 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_host_that_says_nothing_is_unreachable_within_the_limit(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_TIME", timedelta(seconds=1))
    began = time.monotonic()
    with listener(b"") as port:
        error = first_call(sshd.host(port=port))
    assert isinstance(error, MachineUnreachable)
    assert "did not answer in 0:00:01" in str(error)
    assert time.monotonic() - began < 10


def test_what_is_no_ssh_server_is_unreachable(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_TIME", timedelta(seconds=1))
    with listener(b"HTTP/1.1 400 Bad Request\r\n" * 2000) as port:
        assert isinstance(first_call(sshd.host(port=port)), MachineUnreachable)


def test_jump_host_that_is_down_is_the_one_that_is_named(sshd: Sshd) -> None:
    (port,) = free_ports(1)
    error = first_call(sshd.host(jump=sshd.host(name="bastion", port=port)))
    assert isinstance(error, MachineUnreachable)
    assert str(error).startswith(f"bastion (127.0.0.1:{port}) cannot be reached")


def test_machine_that_is_down_behind_a_jump_host_is_the_one_that_is_named(sshd: Sshd) -> None:
    (port,) = free_ports(1)
    error = first_call(sshd.host(port=port, jump=sshd.host(name="bastion")))
    assert isinstance(error, MachineUnreachable)
    assert str(error).startswith(f"master-1 (127.0.0.1:{port}) cannot be reached")


def test_host_key_of_the_machine_counts_also_behind_a_jump_host(sshd: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    error = first_call(sshd.host(host_key=other, jump=sshd.host(name="bastion")))
    assert isinstance(error, HostKeyWrong)
    assert str(error).startswith("master-1 ")
    error = first_call(sshd.host(jump=sshd.host(name="bastion", host_key=other)))
    assert isinstance(error, HostKeyWrong)
    assert str(error).startswith("bastion ")


@needs_root
@pytest.mark.parametrize(
    ("mode", "message"),
    [("password", "sudo refused to run commands as root: sudo: a password"), ("missing", "there is no sudo")],
)
def test_user_without_sudo_is_told_what_to_do(sshd: Sshd, folder: Path, mode: str, message: str) -> None:
    sshd.let_sudo(mode)
    with pytest.raises(NoSudo) as caught, ssh_machine(sshd.host(user=OPERATOR), sudo=True) as machine:
        machine.run(["touch", f"{folder}/touched"])
    code, text = said(caught.value)
    assert code == 5
    assert message in text
    assert "NOPASSWD" in text
    assert list(folder.iterdir()) == []
    sshd.let_sudo("yes")


@needs_root
def test_sudo_is_used_for_every_call_where_another_user_logs_in_and_not_for_root(sshd: Sshd, folder: Path) -> None:
    log = sshd.folder / "sudo-log"
    log.write_text("")
    with ssh_machine(sshd.host(), sudo=True) as machine:
        machine.run(["true"])
    assert log.read_text() == ""
    with ssh_machine(sshd.host(user=OPERATOR), sudo=True) as machine:
        machine.run(["true"])
        machine.put(PurePosixPath(folder / "file"), [b"x"], mode=0o600)
        list(machine.get(PurePosixPath(folder / "file"), limit_bytes=1))
        machine.stat(PurePosixPath(folder / "file"))
    calls = [line for line in log.read_text().splitlines() if line.startswith("-n -- ")]
    assert calls[0] == "-n -- true"
    assert len(calls) == 1 + 1 + 2 + 1 + 1


@needs_root
def test_user_without_rights_gets_the_machines_own_words(sshd: Sshd, folder: Path) -> None:
    folder.chmod(0o700)
    with ssh_machine(sshd.host(user=OPERATOR)) as machine, pytest.raises(BbrError, match="Permission denied"):
        machine.stat(PurePosixPath(folder / "file"))


@needs_root
def test_user_whose_shell_talks_is_refused_for_files_would_begin_with_its_words(sshd: Sshd) -> None:
    with ssh_machine(sshd.host(user=TALKER)) as machine, pytest.raises(MachineError) as caught:
        list(machine.get(PurePosixPath(sshd.folder / "host.pub"), limit_bytes=1000))
    code, text = said(caught.value)
    assert code == 1
    assert f"the shell of {TALKER} prints b'Welcome, {TALKER}" in text
    assert "[ -t 1 ] || return" in text


def test_connection_that_dropped_between_calls_is_made_again(sshd: Sshd) -> None:
    with ssh_machine(sshd.host()) as machine:
        for _ in range(3):
            assert machine.run(["echo", "well"]).stdout == b"well\n"
            sshd.drop_connections()
            wait_until(lambda: transport_of(machine)._connections[-1].is_closed(), "the drop to be noticed")


def transport_of(machine: ShellMachine) -> SshTransport:
    transport = machine._transport
    assert isinstance(transport, SshTransport)
    return transport


def test_host_that_goes_down_before_a_call_is_unreachable(sshd: Sshd) -> None:
    with ssh_machine(sshd.host()) as machine:
        machine.run(["true"])
        transport_of(machine)._logins[0]._host = sshd.host(port=free_ports(1)[0])
        sshd.drop_connections()
        wait_until(lambda: transport_of(machine)._connections[-1].is_closed(), "the drop to be noticed")
        with pytest.raises(MachineUnreachable, match="cannot be reached"):
            machine.run(["true"])


def test_command_whose_connection_drops_is_never_run_again_and_ends_at_its_limit(sshd: Sshd, folder: Path) -> None:
    with ssh_machine(sshd.host()) as machine, ThreadPoolExecutor(1) as pool:
        command = f"echo begun >> {folder}/begun; echo $$ > {folder}/pid; sleep 310"
        call = pool.submit(machine.run, ["sh", "-c", command], timeout=SOON)
        wait_until((folder / "pid").exists, "the command to begin")
        sshd.drop_connections()
        error = call.exception(20)
        assert isinstance(error, ConnectionLost)
        assert not error.retry_may_help
        code, text = said(error)
        assert code == 1
        assert text.startswith(f"{machine.name}: `sh -c ")
        assert "the connection was lost" in text
        assert "look at the machine before you try again" in text
        assert machine.run(["echo", "well"]).stdout == b"well\n"
    wait_until_gone(folder / "pid")
    assert (folder / "begun").read_text() == "begun\n"


def test_download_whose_connection_drops_is_not_taken_for_whole(sshd: Sshd, folder: Path) -> None:
    (folder / "file").write_bytes(bytes(30 << 20))
    with ssh_machine(sshd.host()) as machine:
        chunks = machine.get(PurePosixPath(folder / "file"), limit_bytes=1 << 30)
        next(chunks)
        sshd.drop_connections()
        with pytest.raises(ConnectionLost, match="reading"):
            list(chunks)


def test_machine_that_freezes_is_noticed_by_its_silence(
    sshd: Sshd, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "KEEPALIVE_TIME", timedelta(seconds=0.3))
    with ssh_machine(sshd.host()) as machine, ThreadPoolExecutor(1) as pool:
        call = pool.submit(machine.run, ["sh", "-c", f": > {folder}/begun; sleep 311"], timeout=timedelta(seconds=4))
        wait_until((folder / "begun").exists, "the command to begin")
        frozen = sshd.sessions()
        for session in frozen:
            os.kill(session, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert isinstance(call.exception(20), ConnectionLost)
            assert time.monotonic() - began < 4
        finally:
            for session in frozen:
                os.kill(session, signal.SIGKILL)


class Counting:
    """A transport that counts the input that it is given."""

    def __init__(self, inner: SshTransport) -> None:
        self._inner, self.name, self.written_bytes = inner, inner.name, 0

    @contextmanager
    def start(self, command: Sequence[str], *, doing: str, limit: timedelta, stdin: bytes | None) -> Iterator[Running]:
        with self._inner.start(command, doing=doing, limit=limit, stdin=stdin) as running:
            yield CountingRunning(self, running)

    def close(self) -> None:
        self._inner.close()


class CountingRunning:
    """A command that counts the input that it is given."""

    def __init__(self, counting: Counting, inner: Running) -> None:
        self._counting, self._inner = counting, inner

    def write(self, chunk: bytes) -> bool:
        self._counting.written_bytes += len(chunk)
        return self._inner.write(chunk)

    def end_input(self) -> None:
        self._inner.end_input()

    def read(self) -> bytes:
        return self._inner.read()

    def wait(self) -> Ended:
        return self._inner.wait()


def test_upload_whose_connection_is_cut_is_resumed_without_sending_all_again(sshd: Sshd, folder: Path) -> None:
    content, path = os.urandom(64 << 20), PurePosixPath(folder / "snapshot.db")
    expected = Digest(hashlib.sha256(content).hexdigest())

    def cut() -> Iterator[bytes]:
        for offset in range(0, len(content), 1 << 20):
            if offset == 50 << 20:
                sshd.drop_connections()
            yield content[offset : offset + (1 << 20)]

    counting = Counting(SshTransport(sshd.host()))
    with ShellMachine(counting) as machine:
        with pytest.raises(ConnectionLost, match=f"writing {path}"):
            machine.put(path, cut(), mode=0o600, sha256=expected)
        (partial,) = folder.iterdir()
        assert partial.name.startswith(f".bbr-{expected}-")
        # What the dropped session still had in its pipes goes to the file first.
        wait_until(lambda: not writers(partial), "the receiver to end")
        already = partial.stat().st_size
        assert already > 40 << 20
        counting.written_bytes = 0
        assert machine.put(path, [content], mode=0o600, sha256=expected) == expected
        assert counting.written_bytes <= len(content) - already + (4 << 20)
    assert (folder / "snapshot.db").read_bytes() == content
    assert [one.name for one in folder.iterdir()] == ["snapshot.db"]


def writers(path: Path) -> list[str]:
    """The processes that hold a file open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path:
                found.append(link.parent.parent.name)
        except OSError:
            continue
    return found


@needs_root
@pytest.mark.parametrize("announced", [False, True])
def test_full_disk_is_told_and_what_was_there_stays(sshd: Sshd, announced: bool) -> None:
    body = os.urandom(16 << 20)
    digest = Digest(hashlib.sha256(body).hexdigest())
    path = PurePosixPath(sshd.small / "file")
    with ssh_machine(sshd.host()) as machine:
        machine.put(path, [b"old"], mode=0o600)
        with pytest.raises(NoSpace) as caught:
            machine.put(path, [body], mode=0o600, sha256=digest if announced else None)
        code, text = said(caught.value)
        assert code == 5
        assert text.startswith(f"{machine.name}: writing {path}: the disk is full: ")
        assert "make room" in text
        assert b"".join(machine.get(path, limit_bytes=3)) == b"old"
        assert machine.run(["ls", "-A", str(sshd.small)]).stdout == b"file\n"


def test_at_most_8_commands_run_at_once_on_one_connection(sshd: Sshd, folder: Path) -> None:
    count = f"mkdir {folder}/$1; ls {folder} | wc -l; sleep 0.3; rmdir {folder}/$1"
    with ssh_machine(sshd.host()) as machine, ThreadPoolExecutor(20) as pool:
        seen = list(pool.map(lambda n: int(machine.run(["sh", "-c", count, "sh", str(n)]).stdout), range(20)))
        connections = len({Path(f"/proc/{pid}").stat().st_ino for pid in sshd.sessions()})
    assert 2 <= max(seen) <= 8
    assert connections <= 2  # of one connection: sshd's monitor, and its child where privileges are separated


def test_sshd_that_allows_fewer_sessions_is_waited_for() -> None:
    with (
        start_sshd("MaxSessions 2") as narrow,
        ssh_machine(narrow.host()) as machine,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda n: machine.run(["sh", "-c", f"sleep 0.1; echo {n}"]).stdout, range(8)))
    assert answers == [b"%d\n" % number for number in range(8)]


def test_sshd_that_allows_no_session_is_told() -> None:
    with start_sshd("MaxSessions 0") as closed:
        error = first_call(closed.host())
    code, text = said(error)
    assert code == 1
    assert "runs nothing: open failed" in text


def test_ninth_command_waits_no_longer_than_its_limit(sshd: Sshd, folder: Path) -> None:
    with ssh_machine(sshd.host()) as machine, ThreadPoolExecutor(8) as pool:
        waiting = f": > {folder}/$1; until [ -e {folder}/go ]; do sleep 0.05; done"
        calls = [pool.submit(machine.run, ["sh", "-c", waiting, "sh", str(n)]) for n in range(8)]
        wait_until(lambda: len(list(folder.iterdir())) == 8, "eight commands to run")
        with pytest.raises(CommandTimedOut, match=r"did not begin within 0:00:00.5.*: 8 other commands run there"):
            machine.run(["true"], timeout=timedelta(seconds=0.5))
        (folder / "go").touch()
        for call in calls:
            call.result(20)


def test_process_that_keeps_the_outputs_open_does_not_hold_us_up_for_ever(
    sshd: Sshd, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "GRACE", timedelta(seconds=1))
    runaway = f"setsid sh -c 'echo $$ > {folder}/pid; exec sleep 312' & until [ -s {folder}/pid ]; do :; done"
    with ssh_machine(sshd.host()) as machine, pytest.raises(CommandTimedOut, match="could not be ended"):
        machine.run(["sh", "-c", runaway], timeout=timedelta(seconds=1))
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


CALLER = """\
import sys
from datetime import timedelta
from pathlib import Path
from bbr.machines.host import SshHost
from bbr.machines.ssh import ssh_machine

port, user, folder, work, limit = sys.argv[1:]
host = SshHost("m", "127.0.0.1", (Path(folder, "login"),), int(port), user, Path(folder, "host.pub").read_text())
with ssh_machine(host) as machine:
    machine.run(["sh", "-c", f"echo $$ > {work}/pid; sleep 313"], timeout=timedelta(seconds=int(limit)))
"""


@pytest.mark.parametrize(("ends_by", "limit_s"), [(signal.SIGINT, 120), (signal.SIGKILL, 2)])
def test_command_ends_when_its_caller_is_interrupted_and_at_its_limit_when_killed(
    sshd: Sshd, folder: Path, ends_by: signal.Signals, limit_s: int
) -> None:
    words = [str(sshd.port), sshd.host().user, str(sshd.folder), str(folder), str(limit_s)]
    with subprocess.Popen([sys.executable, "-c", CALLER, *words], stderr=subprocess.PIPE) as caller:
        wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "the command to begin")
        began = time.monotonic()
        caller.send_signal(ends_by)
        caller.wait(20)
    assert time.monotonic() - began < 10
    wait_until_gone(folder / "pid")


def test_closed_machine_leaves_no_thread_and_no_session(sshd: Sshd) -> None:
    before = threading.active_count()
    with ssh_machine(sshd.host()) as machine:
        machine.run(["true"])
        assert threading.active_count() > before
    assert threading.active_count() == before
    wait_until(lambda: not sshd.sessions(), "the session to end")
    machine.close()
