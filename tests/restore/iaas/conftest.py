"""A lab with real hosts, and both adapters over it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bbr.errors import IaasError
from bbr.lab.host import HostSpec
from bbr.lab.lab import Lab
from restore.iaas.iaas import MachineMade, MachineWanted
from restore.iaas.inventory import read_inventory
from restore.iaas.lab import ssh_host
from restore.iaas.mark import Mark, Purpose, Role
from restore.iaas.site import Site, open_iaas

OLD = "old"
"""A host that was there before, and carries no mark."""

SPARE = ("n1", "n2")

POWER = """\
#!{python}
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from bbr.lab.lab import Lab
Lab.open({lab!r}, base=Path({base!r})).{what}(json.load(sys.stdin)["name"])
"""


def mark(run: str = "r1", *, hours: float = 1, purpose: Purpose = "drill") -> Mark:
    """A mark that holds for so many hours from now; it is over with less than none."""
    return Mark(run, "prod", purpose, datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours))


def wanted(name: str, its: Mark | None = None, *, role: Role = "master", take_living: bool = False) -> MachineWanted:
    """A machine that a run needs."""
    return MachineWanted(name, role, its or mark(), take_living=take_living)


@dataclass(frozen=True, slots=True)
class Bench:
    """An adapter under test, its inventory, and names that it can ensure."""

    kind: str
    lab: Lab
    inventory: Path
    site: Site
    names: tuple[str, str] = field(default=("n1", "n2"))

    def owned(self) -> dict[str, MachineMade]:
        """What is held now, asked through a new object; everything could be asked."""
        owned = open_iaas(read_inventory(self.inventory)).iaas.list_owned()
        assert owned.unknown == ()
        return {one.name: one for one in owned.machines}

    def sign_of(self, name: str) -> Path:
        """The file that appears once a host is taken, or begun; seen from outside."""
        lab = Lab.open(self.lab.name, base=self.lab.folder.parent)
        if self.kind == "hosts":
            return lab.folder / "hosts" / name / "upper/var/lib/bbr/owner.json"
        return lab.folder / "claims" / f"{name}.json"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, etcd_binary: Path) -> Iterator[Lab]:
    """Three hosts with etcd on their PATH."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    specs = [HostSpec(name, programs=(etcd_binary.parent,)) for name in (OLD, *SPARE)]
    with Lab.up(specs, base=tmp_path_factory.mktemp("labs"), name="bench") as there:
        yield there


@pytest.fixture(params=["hosts", "lab"])
def bench(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Bench]:
    """Each adapter in turn, over one lab. What a test took is given back."""
    kind = str(request.param)
    inventory = hosts_inventory(lab, tmp_path) if kind == "hosts" else lab_inventory(lab, tmp_path)
    names = SPARE if kind == "hosts" else ("v1", "v2")
    made = Bench(kind, lab, inventory, open_iaas(read_inventory(inventory)), names)
    yield made
    for one in Lab.open(lab.name, base=lab.folder.parent).status():
        if one.first_process is None:
            Lab.open(lab.name, base=lab.folder.parent).power_on(one.host.name)
    for machine in made.site.iaas.list_owned().machines:
        assert machine.mark is not None
        made.site.iaas.delete(machine.name, run=machine.mark.run)


def hosts_inventory(lab: Lab, folder: Path, *, extra: str = "") -> Path:
    """An inventory that names the hosts of a lab as hosts that exist, with hooks that switch them off and on."""
    root = str(Path(__file__).parents[3])
    for what in ("power_off", "power_on"):
        hook = folder / what
        base = str(lab.folder.parent)
        hook.write_text(POWER.format(python=sys.executable, root=root, lab=lab.name, base=base, what=what))
        hook.chmod(0o700)
    hosts = {}
    for host in lab.hosts:
        ssh = ssh_host(host)
        hosts[host.name] = {
            "role": "master",
            "address": ssh.address,
            "host_key": ssh.host_key,
            "door": list(ssh.door or ()),
        }
    identity = str(lab.hosts[0].identity)
    hooks = {"fence": ["./power_off"], "release": ["./power_on"]}
    body = {"adapter": "hosts", "defaults": {"identity_file": identity}, "hosts": hosts, **hooks}
    path = folder / "inventory.yaml"
    path.write_text(f"{json.dumps(body, indent=1)[:-2]}{extra}\n}}\n")  # JSON is YAML
    path.chmod(0o600)
    return path


def lab_inventory(lab: Lab, folder: Path, *, tier: str = "hosts") -> Path:
    """An inventory of the lab itself."""
    path = folder / "lab.yaml"
    path.write_text(f"adapter: lab\nlab: {lab.name}\nbase: {lab.folder.parent}\ntier: {tier}\n")
    return path


def refused(site: Site, name: str, run: str) -> str:
    """Why a machine is not given back."""
    with pytest.raises(IaasError) as raised:
        site.iaas.delete(name, run=run)
    return f"{type(raised.value).__name__}: {raised.value}"
