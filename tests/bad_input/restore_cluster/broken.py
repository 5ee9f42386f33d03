"""What is broken on purpose around a cluster of the lab: inventories, programs and disks of its hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bbr.lab import keys
from bbr.lab.lab import Lab
from restore.iaas.lab import ssh_host
from tests.restore.cluster.site import IDENTITY, Site

MASTER = "m1"
KEPT = "kept"
"""A namespace that is in every backup."""

_SHIM = """\
tool=$(readlink -f "$(command -v {name})") && mkdir -p /root/real && cp -n "$tool" /root/real/{name} &&
cat > /root/real/{name}.shim && chmod 755 /root/real/{name}.shim && mount --bind /root/real/{name}.shim "$tool"
"""
_NO_SHIM = """\
tool=$(readlink -f "$(command -v {name})") && ! mountpoint -q "$tool" || umount "$tool"
"""


def hosts_inventory(
    site: Site,
    name: str = "hosts.yaml",
    *,
    user: str = "root",
    sudo: bool = False,
    identity: Path | None = None,
    host_key: str = "",
) -> Path:
    """The cluster's hosts as machines that exist; their keys are in ``NAME.known``, to be changed under a plan."""
    path = site.folder / name
    hosts = {}
    known = []
    for host in site.lab.hosts:
        ssh = ssh_host(host)
        hosts[host.name] = {"role": "master", "address": ssh.address, "door": list(ssh.door or ())}
        known.append(f"{ssh.address} {host_key or ssh.host_key}\n")
    path.with_suffix(".known").write_text("".join(known))
    defaults = {
        "user": user,
        "sudo": sudo,
        "identity_file": str(identity or site.lab.hosts[0].identity),
        "known_hosts": path.with_suffix(".known").name,
    }
    path.write_text(json.dumps({"adapter": "hosts", "defaults": defaults, "hosts": hosts}))  # JSON is YAML
    path.chmod(0o600)
    return path


def other_key(folder: Path, name: str) -> tuple[Path, str]:
    """A key pair that nobody knows: the private key's file, and the public key."""
    pair, path = keys.generate(), folder / name
    path.write_bytes(pair.private)
    path.chmod(0o600)
    return path, pair.public


def refused_plan(
    site: Site,
    inventory: Path | str,
    *words: str | Path,
    kind: str = "in-place",
    identity: Sequence[str | Path] = IDENTITY,
) -> tuple[int, str]:
    """A plan that must not be made: its exit code and its words. Nothing was written, and the cluster serves."""
    out = site.folder / "refused.json"
    line = ["restore", "plan", "latest", "--kind", kind, "--inventory", inventory, *identity, "--out", out, *words]
    done = site.bbr(*line, check=False)
    assert done.returncode != 0, done.stdout
    assert not out.exists()
    assert "hint:" in done.stderr, done.stderr
    return done.returncode, done.stderr


def checked(site: Site, inventory: Path) -> str:
    """What `bbr iaas check` says of an inventory that is not good: it is exit 5."""
    done = site.bbr("iaas", "check", inventory, check=False)
    assert done.returncode == 5, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_serves(site: Site) -> None:
    """The cluster works, with what was in it."""
    assert KEPT in site.kubectl(MASTER, "get", "namespace", KEPT, "-o", "name")


def begun(site: Site, plan: Path) -> list[str]:
    """The steps that were begun, in order."""
    return [str(entry["step"]) for entry in site.journal(plan) if entry["event"] == "begun"]


def the_lab(site: Site) -> Lab:
    """The lab as it is now: bbr's own processes change it, too."""
    return Lab.open(site.lab.name, base=site.lab.folder.parent)


@contextmanager
def shim(site: Site, name: str, script: str) -> Iterator[None]:
    """A program of the master replaced by a script; the real one is ``/root/real/NAME`` meanwhile.

    A host that was switched off and on has the real one again.
    """
    site.on(MASTER, _SHIM.format(name=name), stdin=script)
    try:
        yield
    finally:
        site.on(MASTER, _NO_SHIM.format(name=name))


@contextmanager
def small_disk(site: Site, path: str, megabytes: int) -> Iterator[None]:
    """A file system of its own at a folder of the master, which hides what is there."""
    site.on(MASTER, f"mkdir -p {path} && mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs {path}")
    try:
        yield
    finally:
        site.on(MASTER, f"umount {path}")
