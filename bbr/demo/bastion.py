"""The host from which a lab's cluster is backed up and restored: a folder with repository, keys, configuration and
inventory, and bbr's own command line run in it, as a person would.

Everything that is shown or measured of a restore goes through the command line: there is no second way for a demo.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bbr.errors import PreconditionFailed
from bbr.lab.cluster.remote import run
from bbr.lab.cluster.spec import Cluster
from bbr.lab.lab import Lab
from restore.journal import Entry, Journal
from restore.runfolder import RUNS, read_plan

IDENTITY = "bbr-keys/recovery-1.txt"
INVENTORY, PLAN = "inventory.yaml", "plan.json"
COMMAND_TIME = timedelta(minutes=15)

_PROGRAM = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"
_PKI = "/etc/kubernetes/pki/etcd"
_ETCD_FILES = ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")
_STATE = "state"
_POLL_S = 0.05
_STOP_TIME = timedelta(seconds=30)
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Bastion:
    """``folder`` is where bbr is run. ``target`` is the cluster's name in the repository."""

    lab: Lab
    cluster: Cluster
    folder: Path
    target: str

    def bbr(self, *words: str, inside: bool = False, watch: Callable[[], None] = lambda: None) -> str:
        """What a command line prints to stdout. ``inside``: in the lab's network, where etcd is reached by its address.
        ``watch`` is called over and over until it ends.

        It ends with this process, and is stopped when this is. Raises `PreconditionFailed` with what it said.
        """
        out, err = self.folder / "stdout", self.folder / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            # A session of its own: Ctrl-C reaches us alone, and we end it in our order.
            process = subprocess.Popen(
                self.command(*words, inside=inside),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.folder,
                start_new_session=True,
            )
            try:
                _wait(process, watch)
            finally:
                _stop(process)
        if process.returncode:
            said = "\n".join(err.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise PreconditionFailed(f"`bbr {' '.join(words[:2])}` ended with {process.returncode}:\n{said}")
        return out.read_text()

    def command(self, *words: str, inside: bool = False) -> list[str]:
        """The same as the words of a process, to be run in ``folder``."""
        setpriv = shutil.which("setpriv")
        bound = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        own = [sys.executable, "-P", "-c", _PROGRAM, *words]
        return [*bound, *(self.lab.entering(own) if inside else own)]

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """kubectl on the first master, as the administrator, through the cluster's endpoint."""
        return self.cluster.kubectl(self.lab, self.cluster.masters[0], *words, stdin=stdin)

    def init(self) -> None:
        """An empty repository, two recovery identities and a writer, and the configuration."""
        self.bbr("init", "--repo", "repository", "--writer", "bastion", "--state-dir", _STATE)
        self.configure()

    def configure(self) -> None:
        """Say in bbr.yaml which masters there are, with etcd's client certificate beside it, and in the inventory
        where new machines come from."""
        first = self.cluster.masters[0]
        for name in _ETCD_FILES:
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(run(self.lab, first, f"cat {_PKI}/{name}"))
        hosts = [self.lab.host(name) for name in self.cluster.masters]
        (key,) = (self.folder / "bbr-keys").glob("writer-*.key")
        configuration = {
            "repository": "repository",
            "state_dir": _STATE,
            "cluster": self.target,
            "writer_key": str(key),
            "etcd": {
                "main": {
                    "endpoints": [f"https://{host.address}:2379" for host in hosts],
                    "ca_file": _ETCD_FILES[0],
                    "cert_file": _ETCD_FILES[1],
                    "key_file": _ETCD_FILES[2],
                }
            },
            "masters": {
                host.name: {
                    "address": host.address,
                    "identity_file": str(host.identity),
                    "known_hosts": str(self.lab.known_hosts),
                }
                for host in hosts
            },
        }
        (self.folder / "bbr.yaml").write_text(json.dumps(configuration))  # JSON is YAML
        inventory = {"adapter": "lab", "lab": self.lab.name, "base": str(self.lab.folder.parent), "tier": "true"}
        (self.folder / INVENTORY).write_text(json.dumps(inventory))

    def plan_words(
        self, backup: str = "latest", *, make: Iterable[str] = (), to: Iterable[str] = (), attest: Iterable[str]
    ) -> list[str]:
        """The command line that plans a backup onto new machines, to be made or there already."""
        machines = [word for flag, names in (("--make", make), ("--to", to)) for name in names for word in (flag, name)]
        gone = [word for name in attest for word in ("--attest", name)]
        fixed = ("restore", "plan", backup, "--kind", "fresh", "--inventory", INVENTORY)
        return [*fixed, *machines, *gone, "--identity", IDENTITY, "--out", PLAN]

    def apply_words(self) -> list[str]:
        """The command line that does what the plan says."""
        return ["restore", "apply", PLAN, "--identity", IDENTITY, "--confirm", self.target]

    def journal(self) -> Sequence[Entry]:
        """What the run of the plan has written down so far."""
        plan = read_plan(self.folder / PLAN)
        return Journal(self.folder / _STATE / RUNS / plan.run / "journal.jsonl").read()


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None]) -> None:
    deadline = time.monotonic() + COMMAND_TIME.total_seconds()
    while process.poll() is None:
        watch()
        if time.monotonic() > deadline:
            raise PreconditionFailed(f"bbr was not done after {COMMAND_TIME}")
        time.sleep(_POLL_S)
    watch()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIME.total_seconds())
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
