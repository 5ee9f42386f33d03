"""``bbr show``: all that is known of one backup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import Where, cluster_option, identity_option, output_options, repository_options
from bbr.cli.output import Facts, Output, Report, Table
from bbr.errors import UsageError

if TYPE_CHECKING:
    from bbr.repository.archive import Archive
    from bbr.repository.catalog import Backup
    from bbr.repository.hostfiles import HostFiles
    from bbr.repository.manifest import ControlPlane, EtcdEntry

SCHEMA = "bbr.show/1"

Inventory = Mapping[str, Mapping[str, int]]


@click.command("show")
@click.argument("backup_id", metavar="ID")
@cluster_option
@identity_option
@repository_options
@output_options
def command(*, backup_id: str, where: Where, cluster: str | None, identity: tuple[Path, ...], output: Output) -> None:
    """Show one backup: its chain, sizes, revisions and members.

    ID is `latest`, a backup's ID or the beginning of one, or a time: the newest backup that was done by then. With
    --identity also how many objects of each kind it holds: names of resources are sealed.

    \b
    Examples:
      bbr show latest
      bbr show production-20260102T030405Z-9f3a
      bbr show 2026-01-02T03:00:00Z --cluster production
      bbr show latest --identity recovery-1.txt
    """
    from bbr.cli.access import load_identities, open_repository
    from bbr.cli.config import load_config

    config = load_config(where.config)
    identities, pins = load_identities(identity, config) if identity else ((), ())
    repository = open_repository(where, output, config=config, key_pins=pins)
    with progress_on(output.stderr, keep_steps=False) as progress:
        archive = repository.archive(cluster=cluster, progress=progress, identities=identities)
        if cluster and not archive.catalog.backups:
            raise UsageError(
                f"there is no backup of cluster {cluster} here", hint=f"clusters here: {repository.clusters(progress)}"
            )
    backup = archive.catalog.find(cluster or config.cluster, backup_id)
    inventory: Inventory | None = None
    masters: HostFiles | None = None
    if identities:
        inventory, masters = archive.inventory(backup).objects, archive.control_plane(backup)
    output.report(report(archive, backup, inventory, masters))
    if inventory is None:
        output.next_command(
            *("bbr", "show", backup.manifest.backup_id, *where.flags(), "--identity", "FILE"),
            why="see what it holds, by resource",
        )


def report(archive: Archive, backup: Backup, inventory: Inventory | None, masters: HostFiles | None = None) -> Report:
    """One backup, its members and its chain; with its inventory and its masters' files where those were opened."""
    manifest = backup.manifest
    doubt = archive.catalog.doubt(backup)
    chains = {entry.name: archive.catalog.chain(backup, entry.name) for entry in manifest.etcds} if not doubt else {}
    data: dict[str, object] = {
        **asdict(manifest),
        "doubt": doubt,
        "stored_bytes": manifest.stored_bytes,
        "object_name": backup.object_name,
        "chains": {name: [link.manifest.backup_id for link in chain] for name, chain in chains.items()},
        "inventory": inventory,
        "masters": _masters_data(masters) if masters else None,
    }
    signer = archive.trusted.root.signer(manifest.writer)
    pairs = [
        ("backup", manifest.backup_id),
        ("cluster", f"{manifest.cluster} ({manifest.cluster_identity})"),
        ("done", figures.moment(manifest.time)),
        ("status", "\n".join((manifest.status, *manifest.reasons))),
        ("writer", f"{signer.label if signer else '?'} ({manifest.writer})"),
        ("generation", f"{manifest.generation}, number {manifest.sequence} in it"),
        ("stored", f"{figures.size(manifest.stored_bytes)} in {figures.plural(len(manifest.parts), 'part')}"),
        ("masters", _control_plane_text(manifest.control_plane)),
        ("repository", manifest.repository_id),
    ]
    if doubt:
        pairs.insert(4, ("doubt", doubt))
    text: list[str | Table | Facts] = [Facts(pairs)]
    for entry in manifest.etcds:
        text += ["", Facts(_etcd_facts(entry)), "", _members(entry)]
        if entry.name in chains:
            text += ["", _chain(chains[entry.name], entry.name)]
    if masters is not None:
        text += ["", _masters(masters)]
    if inventory is not None:
        text += ["", _objects(inventory)]
    return Report(SCHEMA, data, text)


def _etcd_facts(entry: EtcdEntry) -> list[tuple[str, str]]:
    return [
        ("etcd", f"{entry.name}, cluster id {entry.cluster_id}"),
        ("version", entry.server_version + (f", storage {entry.storage_version}" if entry.storage_version else "")),
        ("taken from", f"{entry.member_name} ({entry.member_id})"),
        ("revision", f"{entry.revision}, compacted at {entry.compact_revision}"),
        (
            "HashKV",
            f"{entry.hash_kv}, "
            + ("compared with the servers" if entry.compared else f"not compared: {entry.not_compared_because}"),
        ),
        ("snapshot", f"{figures.size(entry.snapshot_bytes)}, {figures.plural(entry.records, 'record')}"),
        ("alarms", ", ".join(entry.alarms) or "none"),
    ]


def _members(entry: EtcdEntry) -> Table:
    rows = [
        (
            member.name or "-",
            member.id,
            member.version or "-",
            str(member.revision),
            str(member.hash_kv) if member.hash_kv is not None else "-",
            member.note,
        )
        for member in entry.members
    ]
    return Table(("MEMBER", "MEMBER ID", "VERSION", ">REVISION", ">HASHKV", "NOTE"), rows)


def _control_plane_text(stored: ControlPlane | None) -> str:
    if stored is None:
        return "none: this backup holds etcd alone"
    return f"{figures.size(sum(part.size_bytes for part in stored.parts))} stored, SHA-256 {stored.sha256[:16]}..."


def _masters(masters: HostFiles) -> Table:
    """What there is of each master, and when the first of its certificates ends."""
    rows = []
    for host, files in sorted(masters.hosts.items()):
        ends = sorted(one["not_after"] for one in masters.index["expiries"] if one["host"] == host)
        size = figures.size(sum(len(file.body) for file in files))
        programs = masters.index["hosts"][host]["programs"].values()
        images = ", ".join(sorted(str(one["image"]).rpartition("/")[2] for one in programs))
        rows.append((host, str(len(files)), size, ends[0] if ends else "-", images))
    return Table(("MASTER", ">FILES", ">SIZE", "FIRST EXPIRY", "PROGRAMS"), rows)


def _masters_data(masters: HostFiles) -> dict[str, object]:
    files = {host: [str(file.path) for file in own] for host, own in sorted(masters.hosts.items())}
    return {"files": files, "index": masters.index}


def _chain(chain: tuple[Backup, ...], etcd: str) -> Table:
    """What a restore fetches, in order."""
    rows = []
    for link in chain:
        entry = link.manifest.etcd(etcd)
        rows.append(
            (
                link.manifest.backup_id,
                entry.kind,
                str(entry.revision),
                str(len(entry.parts)),
                figures.size(entry.stored_bytes),
            )
        )
    return Table(("BUILT FROM", "KIND", ">REVISION", ">PARTS", ">STORED"), rows)


def _objects(inventory: Inventory) -> Table:
    rows = [
        (etcd, prefix, f"{count:,}")
        for etcd, prefixes in sorted(inventory.items())
        for prefix, count in sorted(prefixes.items(), key=lambda item: (-item[1], item[0]))
    ]
    return Table(("ETCD", "PREFIX", ">OBJECTS"), rows)
