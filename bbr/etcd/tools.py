"""etcd's own `etcdutl`: found, its version checked, and run with a time limit.

A data directory is always made by the `etcdutl` of the version that will serve it: what it writes into the write-ahead
log and the meta bucket differs between minor versions, and nobody else promises that etcd will start on it.
`--bump-revision` came with etcdutl 3.5.10 and is in every 3.6 and later (facts of etcd's changelogs).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bbr.errors import EtcdError, NoSpace, SnapshotDamaged, TargetNotEmpty, ToolMissing

FIRST_WITH_BUMP = (3, 5, 10)

VERSION_TIME = timedelta(seconds=20)
RESTORE_TIME = timedelta(hours=1)
"""Far above what any database takes (1 GB: seconds); a disk that hangs must not hold a restore for ever."""

_NOT_WHOLE = ("expected sha256", "snapshot missing hash", "invalid database", "checksum error", "file size too small")


@dataclass(frozen=True, slots=True)
class Etcdutl:
    """One `etcdutl` program and the version that it reported, such as "3.6.16"."""

    path: Path
    version: str

    def restore(
        self,
        snapshot: Path,
        data_dir: Path,
        *,
        name: str,
        initial_cluster: str,
        peer_urls: str,
        token: str,
        bump: int,
        mark_compacted: bool = True,
        wal_dir: Path | None = None,
        time_limit: timedelta = RESTORE_TIME,
    ) -> None:
        """Make a member's data directory from a snapshot file with a trailing hash, which is checked.

        ``bump`` revisions are skipped, and with ``mark_compacted`` all before them counts as compacted; 0 bumps
        nothing. Raises `ToolMissing` when this version cannot bump, `TargetNotEmpty`, `SnapshotDamaged`, `NoSpace`,
        or `EtcdError` with what the tool said.
        """
        command = ["snapshot", "restore", str(snapshot), "--data-dir", str(data_dir), "--name", name]
        command += ["--initial-cluster", initial_cluster, "--initial-advertise-peer-urls", peer_urls]
        command += ["--initial-cluster-token", token]
        if wal_dir is not None:
            command += ["--wal-dir", str(wal_dir)]
        if bump:
            if _numbers(self.version) < FIRST_WITH_BUMP:
                raise ToolMissing(
                    f"{self.path} is etcdutl {self.version}, which cannot bump revisions",
                    hint="install etcdutl 3.5.10 or later of the same minor version",
                )
            command += ["--bump-revision", str(bump)]
            if mark_compacted:
                command.append("--mark-compacted")
        _run(self.path, command, time_limit, dies_with_us=True)


def find_etcdutl(candidates: Sequence[Path], *, server_version: str) -> Etcdutl:
    """The first of the candidates that has the minor version of ``server_version`` ("3.6" or "3.6.16") and can bump.

    A candidate is a program, or a folder that may hold one. Raises `ToolMissing`, naming what was found instead.
    """
    wanted = _numbers(server_version)[:2]
    others: list[str] = []
    for candidate in candidates:
        # Absolute: a name without a slash would be looked up on the PATH when it is run.
        path = (candidate / "etcdutl" if candidate.is_dir() else candidate).absolute()
        if not path.is_file():
            continue
        try:
            found = Etcdutl(path, _version(path))
        except (ToolMissing, EtcdError) as err:
            others.append(str(err))
            continue
        numbers = _numbers(found.version)
        if numbers[:2] != wanted:
            others.append(f"{path} is {found.version}")
        elif numbers < FIRST_WITH_BUMP:
            others.append(f"{path} is {found.version}, which cannot bump revisions")
        else:
            return found
    minor = ".".join(map(str, wanted))
    raise ToolMissing(
        f"etcdutl {minor} is needed to make a data directory for etcd {server_version}; "
        f"{', '.join(others) or 'none was found'}",
        hint=f"install etcdutl {minor}{' (3.5.10 or later)' if minor == '3.5' else ''}, or name its folder (--bin-dir)",
    )


def _version(path: Path) -> str:
    said = _run(path, ["version"], VERSION_TIME)
    match = re.search(r"etcdutl version: (\d+\.\d+\.\d+\S*)", said)
    if match is None:
        raise ToolMissing(f"{path} does not answer as etcdutl does: {said[:200]!r}")
    return match.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0]))


def _run(path: Path, arguments: Sequence[str], time_limit: timedelta, *, dies_with_us: bool = False) -> str:
    """Standard output. The environment is empty: ETCDUTL_* variables would change what a flag does not say.

    ``dies_with_us``: the kernel ends it when we are killed, so that it writes into no folder that the next run sweeps.
    """
    what = f"{path} {arguments[0]}"
    try:
        done = subprocess.run(
            [*(_bound_to_us() if dies_with_us else ()), str(path), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=time_limit.total_seconds(),
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise EtcdError(f"{what} did not end within {time_limit}", hint="look at this host's disk") from err
    except OSError as err:
        raise ToolMissing(f"{path} cannot be run: {err.strerror}", hint="install etcdutl for this machine") from err
    if done.returncode != 0:
        raise _failure(what, done.stderr or done.stdout)
    return done.stdout


def _bound_to_us() -> list[str]:
    """What a command begins with so that the kernel kills it with us; nothing where no setpriv can (busybox)."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    bound = [setpriv, "--pdeathsig", "KILL", "--"]
    tried = subprocess.run([*bound, setpriv, "--version"], capture_output=True, check=False)
    return bound if tried.returncode == 0 else []


def _failure(what: str, said: str) -> Exception:
    lines = said.strip().splitlines()
    reason = next((line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")), " ".join(lines[-3:]))
    message = f"{what}: {reason or 'failed without a word'}"
    if "not empty" in reason:
        return TargetNotEmpty(message, hint="move the data directory aside, or name another one")
    if "no space left" in said:
        return NoSpace(message, hint="free space on that disk, or name another folder")
    if any(sign in said for sign in _NOT_WHOLE):
        return SnapshotDamaged(message, hint="take the snapshot from the repository again")
    return EtcdError(message)
