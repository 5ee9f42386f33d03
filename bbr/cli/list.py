"""``bbr list``: every backup that was believed, and all that is wrong with the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import Where, cluster_option, output_options, repository_options
from bbr.cli.output import Output, Report, Table

if TYPE_CHECKING:
    from bbr.repository.catalog import Backup, Catalog

SCHEMA = "bbr.list/1"


@click.command("list")
@cluster_option
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@repository_options
@output_options
def command(*, where: Where, cluster: str | None, last: int | None, output: Output) -> None:
    """List the backups in the repository.

    Oldest first, the newest at the end, where the eye is. Every manifest's signature and place in its chain is checked;
    what does not hold is not listed but reported on stderr (in JSON: under findings). Needs no key.

    \b
    Examples:
      bbr list
      bbr list --cluster production --last 10
      bbr list -o json | jq -r '.backups[-1].id'
    """
    from bbr.cli.access import open_repository

    repository = open_repository(where, output)
    with progress_on(output.stderr, keep_steps=False) as progress:
        catalog = repository.archive(cluster=cluster, progress=progress).catalog
        others = repository.clusters(progress) if cluster and not catalog.backups else ""
    output.report(report(catalog, last))
    for finding in catalog.findings:
        output.warn(f"{finding}") if finding.severity == "error" else output.note(f"note: {finding}")
    if cluster and not catalog.backups:
        output.warn(f"there is no backup of cluster {cluster} here; clusters here: {others}")
    elif not catalog.backups:
        output.next_command("bbr", "backup", "--help", why="there is no backup here yet, read how to make one")


def report(catalog: Catalog, last: int | None = None) -> Report:
    """The newest ``last`` backups of a catalog, or all."""
    backups = catalog.backups[-last:] if last else catalog.backups
    columns = ("ID", "DONE", "STATUS", "KIND", "REVISION", ">SNAPSHOT", ">STORED")
    rows = [_row(backup, catalog.doubt(backup)) for backup in backups]
    text: list[str | Table] = [Table(columns, rows)] if rows else ["no backups"]
    data = {
        "backups": [_data(backup, catalog.doubt(backup)) for backup in backups],
        "findings": [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "cluster": finding.cluster,
                "object": finding.object_name,
                "message": finding.message,
            }
            for finding in catalog.findings
        ],
    }
    return Report(SCHEMA, data, text)


def _row(backup: Backup, doubt: str) -> tuple[str, ...]:
    manifest = backup.manifest
    status = manifest.status if manifest.status == "partial" or not doubt else "doubtful"
    return (
        manifest.backup_id,
        figures.moment(manifest.time),
        status,
        "+".join(dict.fromkeys(entry.kind for entry in manifest.etcds)),
        ",".join(str(entry.revision) for entry in manifest.etcds),
        figures.size(sum(entry.snapshot_bytes for entry in manifest.etcds)),
        figures.size(manifest.stored_bytes),
    )


def _data(backup: Backup, doubt: str) -> dict[str, object]:
    manifest = backup.manifest
    return {
        "id": manifest.backup_id,
        "cluster": manifest.cluster,
        "time": manifest.time,
        "status": manifest.status,
        "doubt": doubt,
        "generation": manifest.generation,
        "sequence": manifest.sequence,
        "writer": manifest.writer,
        "stored_bytes": manifest.stored_bytes,
        "etcds": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "revision": entry.revision,
                "snapshot_bytes": entry.snapshot_bytes,
            }
            for entry in manifest.etcds
        ],
    }
