"""The claims of a lab's hosts: one file for each host, in the lab's folder, which goes with the lab."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bbr.durable import replace_file, sync_folder
from bbr.errors import IaasError, IaasRefused
from bbr.lab.lab import Lab
from restore.iaas.mark import CLAIM_LIMIT_BYTES, Claim, Role, read_claim

CLAIMS = "claims"
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")


def claim_file(lab: Lab, name: str) -> Path:
    """Where a host's claim lies. Raises `IaasRefused` for a name that no host can have."""
    if _HOST_NAME.fullmatch(name) is None:
        raise IaasRefused(f"{name[:100]!r} is no name for a host of a lab", hint="small letters, digits, - inside")
    return lab.folder / CLAIMS / f"{name}.json"


def claimed(lab: Lab) -> list[str]:
    """The names of all hosts that somebody claims, also of those that are not there (yet)."""
    return sorted(path.stem for path in (lab.folder / CLAIMS).glob("*.json"))


def read(lab: Lab, name: str) -> Claim | None:
    """A host's claim, or None. Raises `IaasError` when it cannot be understood."""
    path = claim_file(lab, name)
    try:
        with path.open("rb") as file:
            return read_claim(file.read(CLAIM_LIMIT_BYTES), where=str(path))
    except FileNotFoundError:
        return None


def role_of(lab: Lab, name: str) -> Role | None:
    """The role that a host was claimed for, as far as its claim can be read."""
    try:
        claim = read(lab, name)
    except IaasError:  # `Iaas.list_owned` says so
        return None
    return claim.role if claim is not None else None


def write(lab: Lab, name: str, claim: Claim) -> None:
    """Write a host's claim. Durable on return."""
    replace_file(claim_file(lab, name), claim.to_bytes())
    sync_folder(lab.folder)  # the folder of claims may be new


def forget(lab: Lab, name: str) -> None:
    """Remove a host's claim. A missing one is no error."""
    path = claim_file(lab, name)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for whoever has the lock; the kernel drops it when a process ends, however it ends."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
