"""A snapshot tried out on the machine that will serve it: restored into scratch, started, and asked for its HashKV.

Without a bump: after one, the member would answer "compacted" for the manifest's revision. On loopback, on ports of its
own, with another cluster token, so that nothing else ever speaks to it.

All of it is one command on the machine, which ends its etcd and removes its scratch folder by itself, whatever becomes
of bbr: nothing depends on a connection that holds. What a SIGKILL there left, the next rehearsal removes.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from datetime import timedelta
from pathlib import PurePosixPath

from bbr.errors import EtcdError, FileMissing, HashMismatch, NoSpace, PreconditionFailed, SnapshotDamaged
from bbr.machines.command import last_words
from bbr.machines.machine import Machine, Output
from restore.etcd import WAL_BYTES
from restore.program import Program

REHEARSAL_TIME = timedelta(minutes=30)
"""For everything: 1 GB takes seconds on a good disk."""

READY_TIME = timedelta(minutes=5)
"""For etcd to load what was restored, and to answer."""

SCRATCH = "rehearsal"
"""The folder in the run's folder."""

_LOOPBACK = "127.0.0.1"
_FIRST_PORT, _LAST_PORT = 20_000, 29_999
"""Below the node ports of Kubernetes and what Linux gives to outgoing connections."""

_TRIES = 5
_NOT_RESTORED, _NO_SPACE, _ENDED, _SILENT, _REFUSED = 70, 71, 72, 73, 74
_CODES = (0, _NOT_RESTORED, _NO_SPACE, _ENDED, _SILENT, _REFUSED)
_USERS = re.compile(r"user name is empty|permission denied", re.IGNORECASE)

_LISTENING = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || :"

_REHEARSE = f"""\
set -u
umask 077
scratch=$1 needed=$2 ready=$3 port=$4 restore=$5 serve=$6 ask=$7 end=$8
etcd=
finish() {{
  trap '' TERM INT HUP
  if [ -n "$etcd" ]; then
    kill -s TERM "$etcd" 2>/dev/null
    waited=0
    while kill -0 "$etcd" 2>/dev/null && [ "$waited" -lt 20 ]; do
      sleep 0.1
      waited=$((waited + 1))
    done
    kill -s KILL "$etcd" 2>/dev/null
    wait "$etcd" 2>/dev/null
  fi
  eval "$end"
  rm -rf -- "$scratch"
}}
trap finish EXIT
trap 'exit 143' TERM INT HUP
eval "$end"
rm -rf -- "$scratch"
mkdir -p -- "$scratch" || exit
free=$(($(stat -f -c '%a * %S' -- "$scratch")))
if [ "$free" -lt "$needed" ]; then
  echo "${{scratch%/*}} has $free bytes free; $needed are needed" >&2
  exit {_NO_SPACE}
fi
eval "$restore" >"$scratch/said" 2>&1 || {{
  tail -n 5 "$scratch/said" >&2
  exit {_NOT_RESTORED}
}}
eval "exec $serve" >"$scratch/log" 2>&1 &
etcd=$!
until=$(($(date +%s) + ready))
: >"$scratch/said"
# Asked only when etcd listens (state 0A): etcdctl holds on to an address where nobody is until its time is over.
until grep -q ":$port 0*:0* 0A " /proc/net/tcp && eval "$ask" >"$scratch/answer" 2>"$scratch/said"; do
  if ! kill -0 "$etcd" 2>/dev/null; then
    tail -n 5 "$scratch/log" >&2
    exit {_ENDED}
  fi
  if grep -qiE 'user name is empty|permission denied|compacted|future revision' "$scratch/said"; then
    tail -n 1 "$scratch/said" >&2
    exit {_REFUSED}
  fi
  if [ "$(date +%s)" -ge "$until" ]; then
    tail -n 3 "$scratch/said" "$scratch/log" >&2
    exit {_SILENT}
  fi
  sleep 0.1
done
cat "$scratch/answer"
"""
"""scratch, bytes, seconds, port in hexadecimal, and commands: restore, serve, ask, end what is left in containers.

The shell waits for no signal while a command of its own runs; `timeout` signals the whole group, so none lasts.
"""


def rehearse(
    machine: Machine,
    snapshot: PurePosixPath,
    etcdutl: Program,
    etcd: Program,
    etcdctl: Program,
    *,
    revision: int,
    hash_kv: int,
    run: PurePosixPath,
    limit: timedelta = REHEARSAL_TIME,
) -> int:
    """Restore ``snapshot`` into scratch under ``run``, serve it, and compare HashKV at ``revision``. Returns it.

    A snapshot with users must come with authentication off (`bbr.etcd.auth.disable_auth`, on a copy): HashKV does not
    cover users, and nobody here knows a password. Raises `HashMismatch`, `FileMissing`, `SnapshotDamaged` when it is
    not restored, `NoSpace`, `PreconditionFailed` when it has users, `EtcdError` when etcd does not serve it.
    """
    stat = machine.stat(snapshot)
    if stat is None:
        raise FileMissing(f"{machine.name}: there is no snapshot {snapshot}", hint="upload it again")
    needed_bytes = stat.size_bytes + 2 * WAL_BYTES
    for _ in range(_TRIES):
        ports = _free_ports(machine)
        words = _words(snapshot, (etcdutl, etcd, etcdctl), run / SCRATCH, revision, ports, needed_bytes)
        answer = machine.run(["sh", "-c", _REHEARSE, "bbr", *words], timeout=limit, expect=_CODES)
        # Somebody else may have taken the port since it was looked up.
        if answer.exit_code != _ENDED or b"address already in use" not in answer.stderr:
            break
    _check_ran(machine, answer)
    found = _hash(machine, answer)
    if found != hash_kv:
        raise HashMismatch(
            f"{machine.name}: etcd {etcd.version} answers HashKV {found} at revision {revision:,} of the restored "
            f"snapshot; {hash_kv} was promised",
            hint="nothing was changed; choose another backup, and `bbr verify` this one",
        )
    return found


def _words(
    snapshot: PurePosixPath,
    programs: tuple[Program, Program, Program],
    scratch: PurePosixPath,
    revision: int,
    ports: tuple[int, int],
    needed_bytes: int,
) -> list[str]:
    """The arguments of the script."""
    etcdutl, etcd, etcdctl = programs
    client, peer = (f"http://{_LOOPBACK}:{port}" for port in ports)
    data_dir, cluster = str(scratch / "data"), f"scratch={peer}"
    restore = ["snapshot", "restore", str(snapshot), "--data-dir", data_dir, "--name", "scratch"]
    restore += ["--initial-cluster", cluster, "--initial-advertise-peer-urls", peer]
    restore += ["--initial-cluster-token", "bbr-rehearsal"]
    serve = ["--name", "scratch", "--data-dir", data_dir, "--initial-cluster", cluster]
    serve += ["--listen-client-urls", client, "--advertise-client-urls", client]
    serve += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    serve += ["--log-level", "warn", "--unsafe-no-fsync"]  # nobody needs it after a power cut
    ask = ["--endpoints", client, "--dial-timeout", "2s", "--command-timeout", "60s"]
    ask += ["endpoint", "hashkv", "--rev", str(revision), "-w", "json"]
    commands = (
        etcdutl.command(restore, binds=(snapshot.parent, scratch)),
        etcd.command(serve, binds=(scratch,), network=True),
        etcdctl.command(ask, network=True),
    )
    end = "; ".join(shlex.join(program.ending()) for program in programs)
    return [
        *(str(scratch), str(needed_bytes), f"{READY_TIME.total_seconds():.0f}", f"{ports[0]:04X}"),
        *(shlex.join(command) for command in commands),
        end,
    ]


def _free_ports(machine: Machine) -> tuple[int, int]:
    """Two ports that nothing uses right now, as the machine's kernel tells it."""
    table = machine.run(["sh", "-c", _LISTENING]).stdout.decode(errors="replace")
    used = {int(port, 16) for port in re.findall(r"^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) ", table, re.MULTILINE)}
    free = [port for port in range(_FIRST_PORT, _LAST_PORT + 1) if port not in used]
    client, peer = random.sample(free, 2)
    return client, peer


def _check_ran(machine: Machine, answer: Output) -> None:
    code, told = answer.exit_code, last_words(answer.stderr)
    message = f"{machine.name}: the rehearsal: "
    if code == _NO_SPACE or "no space left" in told.lower():
        raise NoSpace(f"{message}{told}", hint="make room on the machine, then try again")
    if code == _NOT_RESTORED:
        raise SnapshotDamaged(f"{message}etcdutl did not restore the snapshot: {told}", hint="upload it again")
    if code == _REFUSED and _USERS.search(told):
        raise PreconditionFailed(
            f"{message}the snapshot has users, and etcd asks for one: {told}",
            hint="rehearse a copy of it with authentication off",
        )
    if code:
        what = {_ENDED: "etcd ended", _REFUSED: "etcd refused to answer"}.get(code, f"no answer within {READY_TIME}")
        raise EtcdError(f"{message}{what}: {told}", hint="nothing was changed; choose another backup")


def _hash(machine: Machine, answer: Output) -> int:
    try:
        return int(json.loads(answer.stdout)[0]["HashKV"]["hash"])
    except (ValueError, LookupError, TypeError) as err:
        told = answer.stdout[:200].decode(errors="replace")
        raise EtcdError(f"{machine.name}: the rehearsal: etcdctl did not tell a HashKV: {told!r}") from err
