"""Taking a host, and giving it back: the mark file on it, changed only by who saw what stands there.

Every change is a compare-and-swap on the host: under a lock of its folder (flock(1), util-linux) the file's digest is
compared with that of the file that was read. Two runs that want one host at one moment do not both get it. Nothing is
deleted: a mark that expired or was given back is moved beside, under the name of the run that it names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath

from bbr.errors import CommandFailed, FileMissing, IaasUnavailable
from bbr.machines.machine import Machine
from restore.iaas.mark import CLAIM_LIMIT_BYTES, Claim, read_claim

OWNER = PurePosixPath("/var/lib/bbr/owner.json")
ASK_TIME = timedelta(seconds=30)
_NOTHING = "nothing"
_CHANGED_CODE = 65
_LOCK_TIME_S = 20

_SWAP = f"""\
set -eu
umask 077
folder=${{1%/*}}
mkdir -p -- "$folder"
exec 9< "$folder"
flock -w {_LOCK_TIME_S} 9
found={_NOTHING}
if [ -e "$1" ] || [ -L "$1" ]; then
  found=$(sha256sum < "$1")
  found=${{found%% *}}
fi
[ "$found" = "$2" ] || exit {_CHANGED_CODE}
if [ "$4" = write ]; then
  cat > "$1.writing"
  sync -- "$1.writing"
fi
[ -z "$3" ] || mv -T -f -- "$1" "$3"
[ "$4" != write ] || mv -T -f -- "$1.writing" "$1"
sync -- "$folder/"
"""
# The file, the digest that it must have, where what is there goes ("": it is replaced), and whether a new one comes.
# Descriptor 9 is the folder: no lock file is left. A crash between the two renames leaves a host that nobody holds.


@dataclass(frozen=True, slots=True)
class Held:
    """What stands on a host, and the digest that a change must name."""

    claim: Claim
    digest: str


def look(machine: Machine) -> Held | None:
    """Who holds a host; None when nobody does. Raises `IaasError` when its mark file says something else."""
    try:
        body = b"".join(machine.get(OWNER, limit_bytes=CLAIM_LIMIT_BYTES, timeout=ASK_TIME))
    except FileMissing:
        return None
    return Held(read_claim(body, where=f"{machine.name}: {OWNER}"), hashlib.sha256(body).hexdigest())


def take(machine: Machine, claim: Claim, *, found: Held | None) -> None:
    """Write a claim where ``found`` is what stands there: another run's goes aside. Durable on return.

    Raises `IaasUnavailable` when somebody else was quicker.
    """
    is_others = found is not None and found.claim.mark.run != claim.mark.run
    aside = _beside(found.claim.mark.run, "expired") if found is not None and is_others else None
    _swap(machine, found, aside, claim.to_bytes())


def give_back(machine: Machine, held: Held) -> None:
    """Move a claim aside. Durable on return. Raises `IaasUnavailable` when it is another by now."""
    _swap(machine, held, _beside(held.claim.mark.run, "released"), None)


def was_given_back(machine: Machine, run: str) -> bool:
    """Whether a host was once given back by this run."""
    return machine.stat(_beside(run, "released")) is not None


def _beside(run: str, why: str) -> PurePosixPath:
    return OWNER.with_name(f"owner-{run}.{why}.json")


def _swap(machine: Machine, found: Held | None, aside: PurePosixPath | None, body: bytes | None) -> None:
    digest = found.digest if found is not None else _NOTHING
    words = [str(OWNER), digest, str(aside or ""), "write" if body is not None else "remove"]
    try:
        machine.run(["sh", "-c", _SWAP, "bbr", *words], stdin=body or b"", timeout=ASK_TIME)
    except CommandFailed as err:
        if err.code != _CHANGED_CODE:
            raise
        raise IaasUnavailable(f"{machine.name}: somebody else changed {OWNER} just now", hint="try again") from err
