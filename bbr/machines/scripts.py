"""The shell scripts that run on a machine. POSIX sh and coreutils; every name and number comes as an argument.

Each has its contract in the text beside it. They are the same over SSH and here, so that both keep one promise.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from datetime import timedelta

from bbr.machines.transport import KILL_AFTER

BLOCK_BYTES = 4 * 1024 * 1024
"""An upload goes on at a multiple of this."""

DAMAGED_CODE = 65
"""What `FINISH` ends with when the partial file has another digest."""

_LIMITED = """\
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" LC_ALL=C
export PATH LC_ALL
kill_after=$2 limit=$3
shift 3
exec 3<&0
timeout -k "$kill_after" "$limit" "$@" <&3 3<&- &
group=$!
trap 'kill -s TERM "$group" 2>/dev/null' TERM INT HUP
exec 3<&-
wait "$group"
code=$?
while kill -0 "$group" 2>/dev/null; do
  wait "$group"
  code=$?
done
kill -s KILL -- "-$group" 2>/dev/null
exit "$code"
"""
# The first argument is a token, there to be found by. `timeout` leads a process group of its own; it waits for the
# command only, so what ignores SIGTERM in the command's group, or was left there, is ended by us. Asked to end, we ask
# `timeout`, which asks its group and kills it when it does not; a trap interrupts `wait`. Descriptor 3, because a shell
# gives /dev/null to what it starts with "&". dash knows a process group only after `kill -s NAME --`.

BLOCKS = """\
set -eu
if [ -L "$1" ] || [ ! -f "$1" ] || [ ! -O "$1" ]; then
  rm -f -- "$1"
  exit 0
fi
size=$(stat -c %s -- "$1")
block=0
while [ "$block" -lt $((size / $2)) ]; do
  dd if="$1" bs="$2" skip="$block" count=1 iflag=fullblock status=none | sha256sum
  block=$((block + 1))
done
"""
"""partial, block size: one digest a line for each whole block of the partial file. Somebody else's is removed."""

RECEIVE = """\
set -eu
umask 077
[ -d "${1%/*}/" ] || {
  echo "there is no folder ${1%/*}/" >&2
  exit 1
}
if [ "$2" -eq 0 ]; then
  rm -f -- "$1"
  set -C
  : > "$1"
  set +C
else
  truncate -s "$2" -- "$1"
fi
cat >> "$1"
sync -- "$1"
"""
"""partial, offset: standard input goes to the partial file from there on. A new one is made, never a link followed."""

FINISH = f"""\
set -eu
found=$(sha256sum < "$1")
[ "${{found%% *}}" = "$3" ] || exit {DAMAGED_CODE}
[ -z "$5" ] || chown -- "$5" "$1"
chmod -- "$4" "$1"
sync -- "$1"
mv -T -f -- "$1" "$2"
sync -- "${{2%/*}}/"
"""
"""partial, path, digest, mode, owner or "": compare, then give it its owner, mode and name. chown clears mode bits."""

STAT = 'exec stat -c "%f %s %Y %U:%G %u:%g" -- "$1"'
"""path: mode in hexadecimal, size, time of change in seconds, owner by name and by number."""

READ = 'exec cat -- "$1"'
"""path: its content."""

REMOVE = 'exec rm -f -- "$1"'
"""path: gone."""


END = """\
for file in $(grep -lF -f - /proc/[0-9]*/cmdline 2>/dev/null); do
  pid=${file#/proc/}
  kill -s TERM "${pid%/cmdline}" 2>/dev/null
done
exit 0
"""
"""Ask the `limited` command to end whose token is on standard input: there it is in no command line but that one's."""


def limited(command: Sequence[str], limit: timedelta, token: str) -> list[str]:
    """The command, ended by the machine's own clock when it takes longer than ``limit``, or by `END`.

    ``token`` is a word that no other command line on the machine has.
    """
    return [*_script(_LIMITED), token, f"{KILL_AFTER.total_seconds():g}", f"{limit.total_seconds():.3f}", *command]


def new_token() -> str:
    """A word that no other command line has."""
    return f"bbr-{secrets.token_hex(16)}"


def script(text: str, *arguments: object) -> list[str]:
    """A command that runs one of the scripts above."""
    return [*_script(text), *map(str, arguments)]


def shown(command: Sequence[str]) -> str:
    """A command as a person would type it, on one line and not too long."""
    text = " ".join(shlex.join(command).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _script(text: str) -> list[str]:
    return ["sh", "-c", text, "bbr"]
