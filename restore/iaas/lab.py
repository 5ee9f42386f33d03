"""The adapter to a lab: hosts are made on this machine when they are wanted, and destroyed when they are given up.

A host's claim lies in the lab's folder and is written before the host is made; it says "made" once the host is ready to
be a node. So what a killed run began is found by its claim, and made anew: nothing of worth was on it yet. A host that
was there already can be taken, too; it is given back as it is, and never destroyed.

Through this adapter one process at a time changes the lab (locks in its folder); what is done inside of new hosts is
done side by side. Fencing ends a host's processes, and its processes can be counted: that is proof.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from bbr.errors import BbrError, IaasError, IaasRefused, MachineTaken, NotOurs, PreconditionFailed
from bbr.lab import door
from bbr.lab.host import Host, HostSpec
from bbr.lab.lab import BASE, Lab
from bbr.machines.host import SshHost
from bbr.machines.ssh import ssh_machine
from restore.iaas import lab_claims
from restore.iaas.iaas import Finding, IaasInfo, Known, MachineMade, MachineWanted, Owned, State, Unknown
from restore.iaas.inventory import LabInventory, Tier
from restore.iaas.living import signs_of_life
from restore.iaas.mark import Claim, How


class LabIaas:
    """An `Iaas`, `Fence`, `Release` and `Endpoint` over a lab that is kept."""

    def __init__(self, inventory: LabInventory) -> None:
        self._name, self._base, self._tier = inventory.lab, inventory.base or BASE, inventory.tier

    def info(self) -> IaasInfo:
        """See `Iaas.info`."""
        lab = self._open()
        known = tuple(
            Known(one.name, lab_claims.role_of(lab, one.name), one.address, one.name, one.address) for one in lab.hosts
        )
        return IaasInfo("lab", f"{self._name} in {self._base}", makes_machines=True, known=known)

    def preflight(self) -> tuple[Finding, ...]:
        """See `Iaas.preflight`."""
        try:
            lab = self._open()
        except BbrError as err:
            return (Finding(self._name, False, str(err), err.hint),)
        return (Finding(self._name, True, f"lab with {len(lab.hosts)} hosts; new ones of tier {self._tier}"),)

    def ensure_machine(self, wanted: MachineWanted) -> MachineMade:
        """See `Iaas.ensure_machine`. A host that is there and nobody's is taken as it is; another is made."""
        with self._alone_with(wanted.name):
            with self._only_one() as lab:
                claim = Claim(wanted.mark, wanted.role, _how(lab, wanted))
                lab_claims.write(lab, wanted.name, claim)
                if claim.how != "begun":
                    _switch_on(lab, wanted.name)
                    return _machine_made(lab, wanted.name, claim)
                self._make(lab, wanted.name)
            try:
                prepare(self._open(), self._tier, [wanted.name])
            except BaseException:
                with suppress(BbrError):  # its claim stays then, and it is found by that
                    self._delete(wanted.name, wanted.mark.run)
                raise
            with self._only_one() as lab:
                claim = replace(claim, how="made")
                lab_claims.write(lab, wanted.name, claim)
                return _machine_made(lab, wanted.name, claim)

    def list_owned(self) -> Owned:
        """See `Iaas.list_owned`."""
        lab, machines, unknown = self._open(), [], []
        for name in lab_claims.claimed(lab):
            try:
                claim = lab_claims.read(lab, name)
            except IaasError as err:
                unknown.append(Unknown(name, str(err)))
            else:
                machines += [_machine_made(lab, name, claim)] if claim is not None else []
        return Owned(tuple(machines), tuple(unknown))

    def get(self, name: str) -> MachineMade | None:
        """See `Iaas.get`."""
        lab = self._open()
        claim = lab_claims.read(lab, name)
        return _machine_made(lab, name, claim) if claim is not None or _has(lab, name) else None

    def delete(self, name: str, *, run: str) -> None:
        """See `Iaas.delete`. A host that was made goes with its disk, its claim last; one that was found stays."""
        with self._alone_with(name):
            self._delete(name, run)

    def hand_over(self, name: str, *, run: str) -> None:
        """See `Iaas.hand_over`."""
        with self._alone_with(name), self._only_one() as lab:
            held = lab_claims.read(lab, name)
            if held is not None and held.mark.run != run:
                raise NotOurs(f"host {name} of lab {lab.name} is held by run {held.mark.run}; it was left as it is")
            if held is not None:
                lab_claims.forget(lab, name)

    def fence(self, name: str) -> None:
        """See `Fence.fence`."""
        with self._only_one() as lab:
            host = _host(lab, name)
            lab.power_off(name)
            if _state(lab, name) != "off" or _answers(lab, host):
                raise IaasError(f"host {name} of lab {lab.name} was switched off and still runs")

    def release(self, name: str) -> None:
        """See `Release.release`. Returns when the host answers over SSH."""
        with self._only_one() as lab:
            _host(lab, name)
            _switch_on(lab, name)

    def point(self, endpoint: str, addresses: Sequence[str]) -> None:
        """See `Endpoint.point`. A lab has names and no load balancer: the name leads to the first address."""
        with self._only_one() as lab:
            host = next((one for one in lab.hosts if one.address in addresses[:1]), None)
            if host is None:
                raise IaasRefused(f"lab {lab.name} has no host at {', '.join(addresses) or 'no address'}")
            lab.point(endpoint.rpartition(":")[0], host.name)

    def _open(self) -> Lab:
        return Lab.open(self._name, base=self._base)

    def _delete(self, name: str, run: str) -> None:
        with self._only_one() as lab:
            held = lab_claims.read(lab, name)
            if held is None and not _has(lab, name):
                return
            if held is None or held.mark.run != run:
                whose = f"is held by run {held.mark.run}" if held is not None else "carries no mark"
                raise NotOurs(f"host {name} of lab {lab.name} {whose}, not of {run}; it was left as it is")
            if held.how != "found":
                lab.remove(name)
            lab_claims.forget(lab, name)

    def _make(self, lab: Lab, name: str) -> None:
        """A new host, like the lab's first one. Raises what the lab does; then neither host nor claim is left."""
        like = lab.hosts[0].spec if lab.hosts else HostSpec(name)
        try:
            lab.remove(name)  # what a killed run left of it
            lab.add(replace(like, name=name, address=""))
        except BbrError:
            lab_claims.forget(lab, name)
            raise

    @contextmanager
    def _only_one(self) -> Iterator[Lab]:
        """The lab as it is now, for one caller at a time."""
        with lab_claims.locked(self._open().folder / f"{lab_claims.CLAIMS}.lock"):
            yield self._open()

    @contextmanager
    def _alone_with(self, name: str) -> Iterator[None]:
        """One caller at a time makes or removes a host; others may be made meanwhile."""
        path = lab_claims.claim_file(self._open(), name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with lab_claims.locked(path.with_suffix(".lock")):
            yield


def prepare(lab: Lab, tier: Tier, names: Sequence[str]) -> None:
    """Give hosts what a node of this tier needs: nothing, a kubelet's stand-in, or a kubelet and its images."""
    if tier == "fast":
        from bbr.lab.cluster import fast

        fast.prepare(lab, names)
    elif tier == "true":
        from bbr.lab.cluster import true

        true.prepare(lab, names)


def ssh_host(host: Host) -> SshHost:
    """How a host of a lab is reached from this process, which is not in the lab's network."""
    return SshHost(
        host.name,
        host.address,
        (host.identity,),
        port=host.ssh_port,
        host_key=host.host_key,
        door=(sys.executable, "-I", door.__file__, str(host.network), host.address, str(host.ssh_port)),
    )


def _how(lab: Lab, wanted: MachineWanted) -> How:
    """How the run comes to the host that it wants. Raises `MachineTaken` when it must not."""
    held, is_there = lab_claims.read(lab, wanted.name), _has(lab, wanted.name)
    if held is None or held.mark.run != wanted.mark.run:
        _check_free(lab, held, wanted)
    if not is_there:
        return "begun"
    return held.how if held is not None else "found"


def _check_free(lab: Lab, held: Claim | None, wanted: MachineWanted) -> None:
    if held is not None and not held.mark.is_expired(datetime.now(UTC)):
        raise MachineTaken(
            f"host {wanted.name} of lab {lab.name} is held by run {held.mark.run} "
            f"until {held.mark.expires:%Y-%m-%d %H:%M} UTC",
            hint=f"end that run, or give its hosts back: bbr iaas sweep --run {held.mark.run}",
        )
    if wanted.take_living or not _has(lab, wanted.name) or _state(lab, wanted.name) == "off":
        return
    with ssh_machine(ssh_host(lab.host(wanted.name))) as machine:
        if signs := signs_of_life(machine):
            raise MachineTaken(
                f"{machine.name} serves a living cluster: {'; '.join(signs)}",
                hint="choose another name; only a restore in place takes such a one",
            )


def _host(lab: Lab, name: str) -> Host:
    try:
        return lab.host(name)
    except PreconditionFailed as err:
        raise IaasRefused(str(err), hint=f"its hosts: {', '.join(one.name for one in lab.hosts)}") from err


def _has(lab: Lab, name: str) -> bool:
    return name in {one.name for one in lab.hosts}


def _state(lab: Lab, name: str) -> State:
    first = next(one.first_process for one in lab.status() if one.host.name == name)
    return "off" if first is None else "on"


def _switch_on(lab: Lab, name: str) -> None:
    if _state(lab, name) == "off":
        lab.power_on(name)


def _answers(lab: Lab, host: Host) -> bool:
    try:
        with lab.connect(host.name) as connection:
            connection.settimeout(2)
            return bool(connection.recv(1))
    except OSError:
        return False


def _machine_made(lab: Lab, name: str, claim: Claim | None) -> MachineMade:
    host = next((one for one in lab.hosts if one.name == name), None)
    address = host.address if host is not None else ""
    is_begun = host is None or (claim is not None and claim.how == "begun")
    return MachineMade(
        name=name,
        address=address,
        ssh=ssh_host(host) if host is not None else None,
        mark=claim.mark if claim is not None else None,
        state="begun" if is_begun else _state(lab, name),
        node_name=name,
        node_address=address,
        role=claim.role if claim is not None else None,
    )
