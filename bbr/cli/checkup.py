"""What `bbr doctor` looks at. Each look is a verdict: ok, a warning, failed, or not looked at, with what was seen.

A check that fails hides no other: what it would have told the next ones is passed over, and they say so.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bbr.backup import CLOCK_LIMIT
from bbr.capture.take import Source
from bbr.cli import figures
from bbr.cli.access import DEFAULT_WRITER_KEY, FilePin, Repository, open_repository, repository_address
from bbr.cli.config import Config
from bbr.cli.options import EtcdAccess, Where
from bbr.cli.output import Output
from bbr.cli.sources import cluster_name, find_sources
from bbr.errors import (
    BbrError,
    BucketMissing,
    KeyRefused,
    NotAStore,
    StoreUnavailable,
    ToolMissing,
    UsageError,
)
from bbr.etcd.client import EtcdClient, Status
from bbr.etcd.tools import find_etcdutl
from bbr.progress import Progress
from bbr.repository.keyfiles import read_identities, read_writer_key
from bbr.servers.binaries import find, search_path
from bbr.stores.probe import probe
from bbr.stores.url import open_store

CLOCK_NOTICE_S = 60.0
"""From so many seconds of difference on, the host's clock is worth a look. A backup is refused at 15 minutes."""

SPOOL_SHARE = 1.1
"""Free space for the spool should be so many times the largest database."""

_NOBODY_THERE = (StoreUnavailable, BucketMissing, NotAStore, UsageError)
"""After these the store is not asked again: the answer would be the same, and take as long. A store that only refuses
to be written to may still be read."""

Result = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look found. ``hint`` says what to do about it, or is empty."""

    name: str
    result: Result
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Subjects:
    """What is to be looked at, as the command line and the configuration name it."""

    where: Where
    config: Config
    access: EtcdAccess
    writer_key: Path | None
    identities: tuple[Path, ...]
    cluster: str | None
    bin_dir: Path | None


def examine(subjects: Subjects, output: Output, progress: Progress) -> Iterator[Verdict]:
    """Look at everything, in the order in which a backup needs it."""
    progress.step("trying the store out")
    problems: list[BbrError] = []
    yield from _store(subjects, problems)
    pins: list[FilePin] = []
    yield from _keys(subjects, pins)
    repository = None
    if any(isinstance(problem, _NOBODY_THERE) for problem in problems):
        yield Verdict("repository", "skipped", "the store could not be looked at, for the reason above")
    else:
        repository, verdict = _repository(subjects, output, pins, progress)
        yield verdict
    if repository is not None:
        yield from _writer(subjects, repository)
    progress.step("asking etcd")
    statuses: list[Status] = []
    yield from _etcds(subjects, statuses)
    yield from _tools(subjects, statuses)
    yield _spool(repository, statuses)


def _failed(name: str, err: BbrError) -> Verdict:
    return Verdict(name, "failed", str(err), err.hint)


def _store(subjects: Subjects, problems: list[BbrError]) -> Iterator[Verdict]:
    try:
        address = repository_address(subjects.where, subjects.config)
        abilities = probe(open_store(address))
    except BbrError as err:
        problems.append(err)
        yield _failed("store", err)
        return
    yield Verdict("store", "ok", f"{address} answers; what is written is read back")
    if abilities.conditional_create:
        yield Verdict("store: conditional create", "ok", "of 8 writers of one name, 1 won")
    else:
        yield Verdict(
            "store: conditional create",
            "warning",
            f"ignored: {abilities.race_winners} of 8 writers won one name; backups stay safe, names never repeat",
        )
    allowed = "allowed" if abilities.may_delete else "not allowed: right for a backup host, not for prune"
    yield Verdict("store: delete", "ok", allowed)
    for name, ability in (("versions", abilities.versions), ("object lock", abilities.retention)):
        yield Verdict(f"store: {name}", "ok", {True: "on", False: "off", None: "none, or not told"}[ability])
    rules = abilities.expiry_rules
    yield Verdict(
        "store: lifecycle rules",
        "warning" if rules else "ok",
        "; ".join(rules) if rules else ("none, or not told" if rules is None else "none"),
        "a rule that deletes or moves parts breaks backups: exempt this prefix" if rules else "",
    )
    yield _clock(abilities.clock_difference_s)


def _clock(difference_s: float) -> Verdict:
    off = abs(difference_s)
    detail = f"the store's is {figures.duration(off)} {'ahead' if difference_s > 0 else 'behind'}"
    if off < CLOCK_NOTICE_S:
        return Verdict("clock", "ok", detail)
    hint = "set this host's clock: timedatectl set-ntp true"
    return Verdict("clock", "failed" if off > CLOCK_LIMIT.total_seconds() else "warning", detail, hint)


def _keys(subjects: Subjects, pins: list[FilePin]) -> Iterator[Verdict]:
    """Key files: readable by their owner alone, and whole. What they say of the repository goes into ``pins``."""
    writer = subjects.writer_key or subjects.config.writer_key
    if writer is None and DEFAULT_WRITER_KEY.exists():
        writer = DEFAULT_WRITER_KEY
    if writer is None:
        yield Verdict("writer key", "skipped", "none was named", "give --writer-key FILE to have it looked at")
    else:
        try:
            file = read_writer_key(writer)
            pins.append(FilePin(writer, file.pin))
            yield Verdict("writer key", "ok", f"{writer}, key {file.key.key_id}")
        except KeyRefused as err:
            yield _failed("writer key", err)
    for path in subjects.identities or subjects.config.identities:
        try:
            identities = read_identities(path)
            pins.append(FilePin(path, identities.pin))
            yield Verdict("identity", "ok", f"{path}, holds {len(identities.identities)}")
        except KeyRefused as err:
            yield _failed("identity", err)


def _repository(
    subjects: Subjects, output: Output, pins: Sequence[FilePin], progress: Progress
) -> tuple[Repository | None, Verdict]:
    try:
        repository = open_repository(subjects.where, output, config=subjects.config, key_pins=pins, progress=progress)
    except BbrError as err:
        return None, _failed("repository", err)
    root = repository.trusted.root
    detail = f"root {root.number}, {figures.plural(len(root.signers), 'signer')}, id {repository.trusted.repository_id}"
    return repository, Verdict("repository", "ok", detail)


def _writer(subjects: Subjects, repository: Repository) -> Iterator[Verdict]:
    """Whether this host's key may write, where the cluster is known."""
    path = subjects.writer_key or subjects.config.writer_key
    cluster = subjects.cluster or subjects.config.cluster
    if path is None or cluster is None:
        return
    try:
        repository.trusted.root.check_writer(read_writer_key(path).key.key_id, cluster)
        yield Verdict("writer", "ok", f"may back up {cluster}")
    except BbrError as err:
        yield _failed("writer", err)


def _etcds(subjects: Subjects, statuses: list[Status]) -> Iterator[Verdict]:
    try:
        found = find_sources(subjects.access, subjects.config)
    except UsageError as err:
        yield Verdict("etcd", "skipped", str(err), err.hint)
        return
    except BbrError as err:
        yield _failed("etcd", err)
        return
    try:
        name = cluster_name(subjects.cluster, subjects.config, found)
        yield Verdict("etcd", "ok", f"cluster {name}, by {found.told_by}")
    except UsageError as err:
        yield Verdict("etcd", "warning", str(err), err.hint)
    for path in found.key_files:
        yield _mode(path)
    for source in found.sources:
        for endpoint in source.endpoints:
            yield _endpoint(source, endpoint, statuses)


def _mode(path: Path) -> Verdict:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Verdict("key file", "warning", f"{path} can be read by other users ({mode:04o})", f"chmod 600 {path}")
    return Verdict("key file", "ok", f"{path} is private ({mode:04o})")


def _endpoint(source: Source, endpoint: str, statuses: list[Status]) -> Verdict:
    name = f"etcd {source.name}: {endpoint}"
    try:
        with EtcdClient(endpoint, source.credentials) as client:
            status = client.status()
            alarms = client.alarms() if status.leader_id else ()
    except BbrError as err:
        return _failed(name, err)
    statuses.append(status)
    size = f"{figures.size(status.db_size_bytes)}, {figures.size(status.db_in_use_bytes)} in use"
    detail = f"etcd {status.version}, revision {status.revision}, {size}"
    if any(alarm.kind == "CORRUPT" for alarm in alarms):
        return Verdict(name, "failed", f"{detail}; alarm CORRUPT", "find the member that differs before anything else")
    if alarms:
        return Verdict(name, "warning", f"{detail}; alarm NOSPACE", "etcd refuses writes: compact, defragment, disarm")
    if not status.leader_id:
        return Verdict(name, "warning", f"{detail}; no leader", "a backup is still taken, but not compared")
    return Verdict(name, "ok", detail + (", leader" if status.leader_id == status.member_id else ""))


def _tools(subjects: Subjects, statuses: Sequence[Status]) -> Iterator[Verdict]:
    """What a restore and `bbr verify --level bootable` will need; a backup needs neither."""
    search = search_path(bin_dir=subjects.bin_dir or subjects.config.bin_dir, environ=os.environ)
    if not statuses:
        yield Verdict("programs", "skipped", "which versions are needed is not known without etcd")
    for version in sorted({status.version for status in statuses}):
        try:
            etcdutl = find_etcdutl(search, server_version=version)
            yield Verdict("program etcdutl", "ok", f"{etcdutl.version}, {etcdutl.path}")
            etcd = find("etcd", search=search, version=version.rpartition(".")[0])
            yield Verdict("program etcd", "ok", f"{etcd.version}, {etcd.path}")
        except ToolMissing as err:
            hint = "a backup does not need it; a restore and `bbr verify --level bootable` do (--bin-dir)"
            yield Verdict("programs", "warning", str(err), hint)


def _spool(repository: Repository | None, statuses: Sequence[Status]) -> Verdict:
    if repository is None:
        return Verdict("spool", "skipped", "no repository, so no spool")
    folder = repository.state.spool
    free = shutil.disk_usage(folder).free
    needed = SPOOL_SHARE * max((status.db_size_bytes for status in statuses), default=0)
    detail = f"{figures.size(free)} free in {folder}"
    if not statuses:
        return Verdict("spool", "ok", f"{detail}; how much is needed is not known without etcd")
    if free < needed:
        return Verdict("spool", "failed", f"{detail}, {figures.size(needed)} needed", "free space, or --state-dir DIR")
    return Verdict("spool", "ok", f"{detail}, {figures.size(needed)} needed")
