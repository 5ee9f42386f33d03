"""Moving a file on a machine: a crash in the middle leaves it in one place, or whole in both; never over another."""

from __future__ import annotations

from pathlib import PurePosixPath

from bbr.errors import CommandFailed, PreconditionFailed, UsageError
from bbr.machines.machine import Machine

_TAKEN_CODE = 66

_MOVE = f"""\
set -eu
umask 077
same() {{
  if [ -L "$1" ] || [ -L "$2" ]; then
    [ -L "$1" ] && [ -L "$2" ] && [ "$(readlink -- "$1")" = "$(readlink -- "$2")" ]
  else
    cmp -s -- "$1" "$2"
  fi
}}
there() {{ [ -e "$1" ] || [ -L "$1" ]; }}
from=$1 to=$2
there "$from" || exit 0
mkdir -p -- "${{to%/*}}"
if [ -n "$3" ]; then
  number=1
  while there "$to" && ! same "$from" "$to"; do
    number=$((number + 1)) to=$2.$number
  done
fi
if there "$to"; then
  same "$from" "$to" || exit {_TAKEN_CODE}
else
  partial=${{to%/*}}/.bbr-${{to##*/}}.partial
  rm -f -- "$partial"
  cp -pP -- "$from" "$partial"
  [ -L "$partial" ] || sync -- "$partial"
  mv -T -n -- "$partial" "$to"
  same "$from" "$to" || exit {_TAKEN_CODE}
fi
sync -- "${{to%/*}}"
rm -f -- "$from"
sync -- "${{from%/*}}"
"""
# Copied, for the two often lie on different disks, where a rename is a copy that may be cut. The name appears last.


def move_file(machine: Machine, source: PurePosixPath, target: PurePosixPath, *, numbered: bool = False) -> None:
    """Move a file, or a link as itself, durably, with its owner and mode. One that is not there is no error.

    What is at ``target`` stays: where it is the same the move is finished; else ``numbered`` finds another name beside
    it, or it raises `PreconditionFailed`. Folders on the way are made (0700).
    """
    try:
        machine.run(["sh", "-c", _MOVE, "bbr", str(source), str(target), "yes" if numbered else ""])
    except CommandFailed as err:
        if err.code != _TAKEN_CODE:
            raise
        raise PreconditionFailed(
            f"{machine.name}: {target} exists and is another file than {source}; both were left as they are",
            hint="see which of them is right, and move the other to another folder",
        ) from err


def check_aside(machine: Machine, aside: PurePosixPath, live: PurePosixPath) -> None:
    """Raises `UsageError` for a folder in which what was moved there would still be run."""
    if aside.is_relative_to(live) or ".." in aside.parts:
        raise UsageError(f"{machine.name}: {aside} is no place to put things aside: {live} is run from")
