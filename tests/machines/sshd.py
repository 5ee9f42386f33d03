"""A real sshd on loopback: a host key, a login key and a configuration of its own, in a folder of its own.

As root it runs in a mount namespace of its own, which ends with it. There it has a user without rights (`OPERATOR`),
one whose shell talks (`TALKER`), a small disk, and the folder in /run that it asks for. As another user it lets that
user in, and nobody else. `sudo` is a stand-in on its PATH, which does what the file ``sudo-mode`` says.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bbr.machines.host import SshHost
from bbr.servers.ports import LOOPBACK, free_ports
from bbr.servers.process import Process

OPERATOR, OPERATOR_ID = "operator", 61_234
TALKER = "talker"
SMALL_DISK_BYTES = 8 << 20
DEADLINE_S = 20

_CONFIG = """\
Port {port}
ListenAddress {loopback}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
SetEnv PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin
"""

_SUDO = """\
#!/bin/sh
echo "$*" >> "{folder}/sudo-log"
case $(cat "{folder}/sudo-mode") in
  password) echo "sudo: a password is required" >&2; exit 1 ;;
  missing) echo "sh: 1: sudo: not found" >&2; exit 127 ;;
esac
[ "$1 $2" = "-n --" ] || exit 2
shift 2
exec "$@"
"""

_NAMESPACE = """\
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount -t tmpfs -o size="$2",mode=1777 tmpfs "$1/small"
exec "$3" -D -e -f "$1/config"
"""


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running sshd. ``work`` is a folder that every user may write to."""

    folder: Path
    port: int
    process: Process

    @property
    def host_key(self) -> str:
        """What it shows."""
        return (self.folder / "host.pub").read_text()

    @property
    def work(self) -> Path:
        """A folder that every user may write to."""
        return self.folder / "work"

    @property
    def small(self) -> Path:
        """A disk of `SMALL_DISK_BYTES`, which only its sessions see."""
        return self.folder / "small"

    def host(self, **changes: object) -> SshHost:
        """How it is reached, by its pinned key, as the user of this test run."""
        usual: dict[str, object] = {
            "name": "master-1",
            "address": LOOPBACK,
            "port": self.port,
            "user": getpass.getuser(),
            "identity_files": (self.folder / "login",),
            "host_key": self.host_key,
        }
        return SshHost(**(usual | changes))  # type: ignore[arg-type]  # what a test changes is its own affair

    def let_sudo(self, mode: str) -> None:
        """From now on its sudo does as told: "yes", "password" or "missing"."""
        (self.folder / "sudo-mode").write_text(mode)

    def sessions(self) -> list[int]:
        """The processes that serve its connections, without what they run."""
        found, parents = [], [self.process.pid]
        while parents:
            parent = parents.pop()
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
                    if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
                        found.append(child)
                        parents.append(child)
        return found

    def drop_connections(self) -> None:
        """End every connection as a crash would."""
        for session in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)
        wait_until(lambda: not self.sessions(), "connections to end")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(file: Path) -> None:
    """Poll until the process whose id the file holds has ended."""
    pid = int(file.read_text())
    wait_until(lambda: not is_alive(pid), f"process {pid} to end")


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new SSH key, with its public half beside it."""
    subprocess.run(
        ["/usr/bin/ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path)], check=True, timeout=60
    )
    return path


@contextmanager
def start_sshd(setting: str = "") -> Iterator[Sshd]:
    """An sshd for as long as the context lasts, with one more line in its configuration."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program is not None, "sshd is not on this machine (`make testbed` installs it)"
    with tempfile.TemporaryDirectory(prefix="bbr-sshd-") as name:  # pytest's own folders are closed to other users
        folder, (port,) = Path(name), free_ports(1)
        _furnish(folder, port, setting)
        command = [program, "-D", "-e", "-f", str(folder / "config")]
        if os.getuid() == 0:
            namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _NAMESPACE]
            command = [*namespace, "sh", name, str(SMALL_DISK_BYTES), program]
        environ = {"PATH": os.environ["PATH"]}
        with Process("sshd", command, log=folder / "log", environ=environ) as process:
            sshd = Sshd(folder, port, process)
            process.wait_ready(lambda: _answers(port), what="an SSH banner")
            yield sshd
            sshd.drop_connections()


def _furnish(folder: Path, port: int, setting: str) -> None:
    folder.chmod(0o755)
    for key in ("host", "login"):
        make_key(folder / key)
    shutil.copy(folder / "login.pub", folder / "authorized_keys")
    (folder / "config").write_text(f"{_CONFIG.format(port=port, folder=folder, loopback=LOOPBACK)}{setting}\n")
    (folder / "bin").mkdir()
    (folder / "bin/sudo").write_text(_SUDO.format(folder=folder))
    (folder / "bin/sudo").chmod(0o755)
    (folder / "sudo-mode").write_text("yes")
    (folder / "sudo-log").touch()
    (folder / "sudo-log").chmod(0o666)
    for name in ("work", "small"):
        (folder / name).mkdir()
        (folder / name).chmod(0o1777)
    passwd = Path("/etc/passwd").read_text()
    users = [
        "root:x:0:0::/:/bin/sh",  # what root's own start-up files do on this machine is none of the tests' business
        *(line for line in passwd.splitlines() if not line.startswith("root:")),
        f"{OPERATOR}:x:{OPERATOR_ID}:{OPERATOR_ID}::/:/bin/sh",
        f"{TALKER}:x:{OPERATOR_ID + 1}:{OPERATOR_ID + 1}::{folder}/talker:/bin/bash",
    ]
    (folder / "passwd").write_text("\n".join([*users, ""]))
    (folder / "talker").mkdir()
    (folder / "talker/.bashrc").write_text("echo Welcome, $USER\n")
    (folder / "shadow").write_text("root:*:19000:0:99999:7:::\n")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
