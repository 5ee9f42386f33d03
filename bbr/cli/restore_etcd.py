"""``bbr restore etcd``: an etcd back from a backup, as a snapshot file or as a member's data directory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import (
    Where,
    bin_dir_option,
    cluster_option,
    identity_option,
    output_options,
    repository_options,
)
from bbr.cli.output import Facts, Output, Report
from bbr.errors import UsageError

if TYPE_CHECKING:
    from bbr.etcd.tools import Etcdutl
    from bbr.rebuild import Rebuilt
    from bbr.repository.catalog import Backup
    from bbr.repository.manifest import EtcdEntry
    from restore.etcd import Member, Restored

SCHEMA = "bbr.restore-etcd/1"
TARGET = click.Path(path_type=Path)


@click.command("etcd")
@click.argument("backup_id", metavar="ID")
@cluster_option
@identity_option
@click.option("--etcd", "etcd_name", metavar="NAME", help="Which etcd of the backup. Default: its only one, or main.")
@click.option("--to-snapshot", type=TARGET, metavar="FILE", help="Write a snapshot file that any etcd tool takes.")
@click.option("--to-data-dir", type=TARGET, metavar="DIR", help="Make a member's data directory, by etcdutl.")
@click.option("--name", metavar="NAME", help="With --to-data-dir: the member's name, as in etcd's --name.")
@click.option("--initial-cluster", metavar="NAME=URL,...", help="With --to-data-dir: all members and their peer URLs.")
@click.option("--initial-advertise-peer-urls", metavar="URL,...", help="With --to-data-dir: this member's peer URLs.")
@click.option(
    "--initial-cluster-token",
    metavar="TOKEN",
    help="With --to-data-dir: must be equal on all members. Default: made of the backup's ID.",
)
@click.option(
    "--bump-revision",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --to-data-dir: revisions to skip, more than clients have seen since. Default: 1000000000.",
)
@bin_dir_option
@repository_options
@output_options
def command(
    *,
    backup_id: str,
    where: Where,
    cluster: str | None,
    identity: tuple[Path, ...],
    etcd_name: str | None,
    to_snapshot: Path | None,
    to_data_dir: Path | None,
    name: str | None,
    initial_cluster: str | None,
    initial_advertise_peer_urls: str | None,
    initial_cluster_token: str | None,
    bump_revision: int | None,
    bin_dir: Path | None,
    output: Output,
) -> None:
    """Restore one etcd from a backup.

    ID is `latest`, a backup's ID or the beginning of one, or a time: the newest backup that was done by then.

    With --to-snapshot: the snapshot file, for whatever tool you trust. With --to-data-dir: a data directory that etcd
    starts on, made by the etcdutl of the backup's own version. Revisions are always bumped and everything before them
    marked compacted, so that clients notice and list anew. Run it on each member's host, with that member's name and
    the same --initial-cluster.

    What is written was compared with the HashKV in the signed manifest. The target must not exist, and the folder that
    it is in must. A data directory may exist when it is empty, also as the mount point of a disk: it keeps its owner,
    group and mode, and what is put in it gets that owner. What appears is whole, so an interrupted restore is simply
    run again.

    \b
    Examples:
      bbr restore etcd latest --identity recovery-1.txt --to-snapshot etcd.db
      bbr restore etcd 2026-01-02T03:00:00Z --cluster production --identity recovery-1.txt \\
          --to-data-dir /var/lib/etcd --name master-1 \\
          --initial-cluster master-1=https://10.0.0.11:2380,master-2=https://10.0.0.12:2380 \\
          --initial-advertise-peer-urls https://10.0.0.11:2380
    """
    from bbr.cli.access import load_identities, open_repository
    from bbr.cli.config import load_config
    from restore.etcd import DEFAULT_BUMP, Member, default_token
    from restore.etcd import to_data_dir as make_data_dir
    from restore.etcd import to_snapshot as make_file
    from restore.peers import check_peers

    member_flags = {
        "--name": name,
        "--initial-advertise-peer-urls": initial_advertise_peer_urls,
        "--initial-cluster": initial_cluster,
        "--initial-cluster-token": initial_cluster_token,
        "--bump-revision": bump_revision,
    }
    _check_form(to_snapshot, to_data_dir, member_flags)
    if name and initial_advertise_peer_urls:
        if initial_cluster is None:
            initial_cluster = _alone(name, initial_advertise_peer_urls)
        check_peers(name, initial_cluster, initial_advertise_peer_urls)
    config = load_config(where.config)
    identities, pins = load_identities(identity, config)
    repository = open_repository(where, output, config=config, key_pins=pins)
    with progress_on(output.stderr) as progress:
        archive = repository.archive(cluster=cluster, progress=progress, identities=identities)
        backup = archive.catalog.find(cluster or config.cluster, backup_id)
        chosen = _chosen_etcd(backup, etcd_name)
        if to_snapshot is not None:
            rebuilt = make_file(archive, backup, chosen, to_snapshot.absolute(), progress=progress)
        elif to_data_dir is not None and name and initial_cluster and initial_advertise_peer_urls:
            member = Member(
                name=name,
                initial_cluster=initial_cluster,
                peer_urls=initial_advertise_peer_urls,
                token=initial_cluster_token or default_token(backup),
            )
            restored = make_data_dir(
                archive,
                backup,
                chosen,
                to_data_dir.absolute(),
                member=member,
                etcdutl=_etcdutl(backup.manifest.etcd(chosen), bin_dir or config.bin_dir),
                bump=bump_revision or DEFAULT_BUMP,
                progress=progress,
            )
    if to_snapshot is not None:
        output.report(snapshot_report(backup, chosen, rebuilt))
        output.next_command("etcdutl", "snapshot", "status", str(rebuilt.path), "-w", "table", why="look at the file")
    else:
        output.report(data_dir_report(backup, chosen, restored, member))
        output.note(f"\nNext,\n{_start_text(restored, member)}")
    _remind(output, backup, backup.manifest.etcd(chosen))


def snapshot_report(backup: Backup, etcd_name: str, rebuilt: Rebuilt) -> Report:
    """A snapshot file that was written."""
    pairs = [*_common_pairs(backup, etcd_name, rebuilt), ("snapshot", f"{rebuilt.path} ({_size(rebuilt)})")]
    return Report(SCHEMA, {**_common_data(backup, etcd_name, rebuilt), "snapshot": rebuilt.path}, [Facts(pairs)])


def data_dir_report(backup: Backup, etcd_name: str, restored: Restored, member: Member) -> Report:
    """A data directory that was made, and what its member will answer once it runs."""
    pairs = [
        *_common_pairs(backup, etcd_name, restored.rebuilt),
        ("data directory", f"{restored.data_dir}, for member {member.name}"),
        ("made by", f"etcdutl {restored.etcdutl.version} ({restored.etcdutl.path})"),
        (
            "after the start",
            f"revision {restored.bumped_revision} (bumped by {restored.bump:,}), HashKV {restored.bumped_hash_kv}",
        ),
        ("cluster token", member.token),
    ]
    data = {
        **_common_data(backup, etcd_name, restored.rebuilt),
        "data_dir": restored.data_dir,
        "member": member.name,
        "initial_cluster": member.initial_cluster,
        "initial_cluster_token": member.token,
        "etcdutl": {"path": restored.etcdutl.path, "version": restored.etcdutl.version},
        "bump": restored.bump,
        "bumped_revision": restored.bumped_revision,
        "bumped_hash_kv": restored.bumped_hash_kv,
    }
    return Report(SCHEMA, data, [Facts(pairs)])


def _check_form(to_snapshot: Path | None, to_data_dir: Path | None, member_flags: Mapping[str, object]) -> None:
    if (to_snapshot is None) == (to_data_dir is None):
        raise UsageError("give one of --to-snapshot FILE and --to-data-dir DIR")
    given = [flag for flag, value in member_flags.items() if value is not None]
    if to_snapshot is not None and given:
        raise UsageError(f"{given[0]} is for --to-data-dir", hint="a snapshot file belongs to no member")
    if to_data_dir is not None:
        for flag in ("--name", "--initial-advertise-peer-urls"):
            if not member_flags[flag]:
                raise UsageError(
                    f"--to-data-dir needs {flag}",
                    hint="a data directory belongs to one member: give what that etcd's own command line has",
                )


def _chosen_etcd(backup: Backup, named: str | None) -> str:
    entries = backup.manifest.etcds
    if named is None and len(entries) == 1:
        return entries[0].name
    return backup.manifest.etcd(named or "main").name


def _alone(name: str, peer_urls: str) -> str:
    """The initial cluster of a member that comes back alone."""
    return ",".join(f"{name}={url}" for url in peer_urls.split(","))


def _etcdutl(entry: EtcdEntry, bin_dir: Path | None) -> Etcdutl:
    from bbr.etcd.tools import find_etcdutl
    from bbr.servers.binaries import search_path

    return find_etcdutl(search_path(bin_dir=bin_dir, environ=os.environ), server_version=entry.server_version)


def _common_pairs(backup: Backup, etcd_name: str, rebuilt: Rebuilt) -> list[tuple[str, str]]:
    manifest = backup.manifest
    return [
        ("restored", f"etcd {etcd_name} of {manifest.backup_id}, done {figures.moment(manifest.time)}"),
        ("revision", f"{rebuilt.revision}, {figures.plural(rebuilt.records, 'record')}"),
        ("HashKV", f"{rebuilt.hash_kv}, as the signed manifest promises"),
    ]


def _common_data(backup: Backup, etcd_name: str, rebuilt: Rebuilt) -> dict[str, object]:
    return {
        "id": backup.manifest.backup_id,
        "etcd": etcd_name,
        "revision": rebuilt.revision,
        "compact_revision": rebuilt.compact_revision,
        "hash_kv": rebuilt.hash_kv,
        "records": rebuilt.records,
        "snapshot_bytes": rebuilt.size_bytes,
        "snapshot_sha256": rebuilt.sha256,
    }


def _size(rebuilt: Rebuilt) -> str:
    return figures.size(rebuilt.size_bytes)


def _start_text(restored: Restored, member: Member) -> str:
    where = shlex.join(["--data-dir", str(restored.data_dir), "--name", member.name])
    cluster = shlex.join(["--initial-cluster", member.initial_cluster])
    token = shlex.join(["--initial-cluster-token", member.token])
    return (
        "  do the same for the other members, stop every kube-apiserver, and start etcd on the new directory with\n"
        f"  {where} {cluster} \\\n"
        f"  {token} --initial-cluster-state new"
    )


def _remind(output: Output, backup: Backup, entry: EtcdEntry) -> None:
    """What a backup brings back that a person has to see to."""
    for reason in backup.manifest.reasons:
        output.warn(f"this backup is partial: {reason}")
    if any("NOSPACE" in alarm for alarm in entry.alarms):
        output.warn(
            "the alarm NOSPACE was raised when this backup was taken and comes back with it: etcd refuses writes.\n"
            "  Once it runs, compact and defragment it or raise --quota-backend-bytes, then: etcdctl alarm disarm"
        )
