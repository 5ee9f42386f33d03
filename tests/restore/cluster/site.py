"""A cluster in a lab with a repository beside it, and bbr's own command line: what a person has in an incident.

The same for both tiers, so that what is tested in seconds is what is tested with real containers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from bbr.lab.cluster import fast, programs, true
from bbr.lab.cluster.spec import ADMIN_CONF, Cluster, ClusterSpec, host_specs
from bbr.lab.lab import Lab
from bbr.progress import Silent
from bbr.servers.binaries import search_path

PROGRAM = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"
TARGET = "prod"
IDENTITY = ("--identity", "bbr-keys/recovery-1.txt")
COMMAND_TIME = timedelta(minutes=15)
SETTLED_S, SETTLING_S = 4.0, 90.0
ETCD_FILES = ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")
TIERS = {"fast": (fast, programs.FAST), "true": (true, programs.TRUE)}


@dataclass(frozen=True, slots=True)
class Site:
    """``folder`` is where bbr is run: bbr.yaml, repository, keys, inventory.yaml (adapter lab) lie there."""

    lab: Lab
    cluster: Cluster
    folder: Path
    tier: str

    def bbr(
        self, *words: str | Path, inside: bool = False, check: bool = True, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One command line. ``inside``: in the lab's network, where etcd and masters are reached by their addresses."""
        command = [sys.executable, "-c", PROGRAM, *map(str, words)]
        done = subprocess.run(
            self.lab.entering(command) if inside else command,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIME.total_seconds(),
            cwd=self.folder,
            env={**os.environ, **(environ or {})},
        )
        assert not check or done.returncode == 0, f"bbr {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        return done

    def on(self, host: str, command: str, *, stdin: str = "", check: bool = True) -> str:
        """What a command on a host prints."""
        line = ["ssh", "-F", str(self.lab.ssh_config), host, command]
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, check=False, timeout=300)
        assert not check or done.returncode == 0, f"{host}: {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kubectl(self, host: str, *words: str, stdin: str = "") -> str:
        """kubectl on a master, as the administrator, through the cluster's endpoint."""
        return self.cluster.kubectl(self.lab, host, *words, stdin=stdin)

    def configure(self, masters: Sequence[str]) -> Site:
        """Say in bbr.yaml and inventory.yaml which masters there are, with etcd's client certificate beside it."""
        for name in ETCD_FILES:
            path = self.folder / name
            path.write_text(self.on(masters[0], f"cat /etc/kubernetes/pki/etcd/{name}"))
            path.chmod(0o600)
        lab = Lab.open(self.lab.name, base=self.lab.folder.parent)  # the adapter may have made hosts meanwhile
        hosts = [lab.host(name) for name in masters]
        (key,) = (self.folder / "bbr-keys").glob("writer-*.key")
        configuration = {
            "repository": "repository",
            "state_dir": "state",
            "cluster": TARGET,
            "writer_key": str(key),
            "etcd": {
                "main": {
                    "endpoints": [f"https://{host.address}:2379" for host in hosts],
                    "ca_file": ETCD_FILES[0],
                    "cert_file": ETCD_FILES[1],
                    "key_file": ETCD_FILES[2],
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
        inventory = {"adapter": "lab", "lab": self.lab.name, "base": str(self.lab.folder.parent), "tier": self.tier}
        (self.folder / "inventory.yaml").write_text(json.dumps(inventory))
        return replace(self, lab=lab, cluster=replace(self.cluster, masters=tuple(masters)))

    def back_up(self) -> str:
        """A backup of etcd and all masters. Returns its id."""
        done = self.bbr("backup", "-o", "json", inside=True)
        return str(json.loads(done.stdout)["id"])

    def plan(self, kind: str, *words: str, name: str = "plan.json", check: bool = True) -> Path:
        """A plan of the newest backup. Returns its file."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        inventory = ("--inventory", "inventory.yaml")
        self.bbr("restore", "plan", "latest", "--kind", kind, *inventory, *IDENTITY, "--out", path, *words, check=check)
        return path

    def apply(self, plan: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Do what a plan says."""
        return self.bbr("restore", "apply", plan, *IDENTITY, "--confirm", TARGET, *words, check=check)

    def undo(self, plan: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Take it back."""
        return self.bbr("restore", "undo", plan, "--confirm", TARGET, check=check)

    def journal(self, plan: Path) -> list[dict[str, object]]:
        """What the journal of a plan's run says."""
        run = json.loads(plan.read_text())["plan"]["run"]
        path = self.folder / "state" / "restores" / run / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def opened_site(
    folder: Path, *, masters: Sequence[str], workers: Sequence[str] = (), tier: str = "fast"
) -> Iterator[Site]:
    """A new cluster of these hosts, an empty repository, and the configuration. All of it goes at the end."""
    create, families = TIERS[tier]
    spec = ClusterSpec(tuple(masters), tuple(workers))
    found = programs.folders(families, search_path(bin_dir=None, environ=os.environ))
    # Kept, so that other processes (the adapter in bbr) may open and change it.
    lab = Lab.up(host_specs(spec, found), base=folder / "labs", is_kept=True)
    try:
        cluster = create.create(lab, spec, progress=Silent())
        site = Site(lab, cluster, folder, tier)
        site.bbr("init", "--repo", "repository", "--writer", "bastion", "--state-dir", "state")
        yield site.configure(masters)
    finally:
        Lab.open(lab.name, base=folder / "labs").down()


def object_names(site: Site, host: str, *kinds: str) -> set[str]:
    """``kind/namespace/name`` of all objects of these kinds."""
    listed = site.kubectl(host, "get", ",".join(kinds), "-A", "-o", "json")
    return {
        f"{one['kind']}/{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
        for one in json.loads(listed)["items"]
    }


def settled(site: Site, host: str, *kinds: str) -> set[str]:
    """`object_names`, once controllers have made what they make of themselves: the same for `SETTLED_S`."""
    names, since = object_names(site, host, *kinds), time.monotonic()
    deadline = since + SETTLING_S
    while time.monotonic() - since < SETTLED_S:
        assert time.monotonic() < deadline, "the cluster's objects do not come to rest"
        time.sleep(0.5)
        if (now := object_names(site, host, *kinds)) != names:
            names, since = now, time.monotonic()
    return names


__all__ = ["ADMIN_CONF", "IDENTITY", "TARGET", "Site", "object_names", "opened_site", "settled"]
