"""``bbr verify``: prove a backup, at one of three depths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import (
    FOLDER,
    Where,
    bin_dir_option,
    cluster_option,
    identity_option,
    output_options,
    repository_options,
)
from bbr.cli.output import Output, Report, Table
from bbr.errors import UsageError, VerificationFailed

if TYPE_CHECKING:
    from bbr.progress import Progress
    from bbr.repository.archive import Archive
    from bbr.repository.catalog import Backup
    from bbr.verify import BootTools, Check

SCHEMA = "bbr.verify/1"


@click.command("verify")
@click.argument("backup_id", metavar="[ID]", required=False)
@cluster_option
@click.option(
    "--level",
    type=click.Choice(["stored", "readable", "bootable"]),
    default="stored",
    show_default=True,
    help="How deep to look; each level includes the ones before.",
)
@identity_option
@bin_dir_option
@click.option(
    "--scratch-dir", type=FOLDER, help="Where the backup is rebuilt, and removed again. Default: the state folder."
)
@repository_options
@output_options
def command(
    *,
    backup_id: str | None,
    where: Where,
    cluster: str | None,
    level: str,
    identity: tuple[Path, ...],
    bin_dir: Path | None,
    scratch_dir: Path | None,
    output: Output,
) -> None:
    """Prove that a backup can be restored.

    \b
    stored    every object that it needs is there, whole and signed for; needs no key
    readable  it opens, rebuilds, and has the HashKV that its manifest promises
    bootable  a real etcd of its version, started on it in a scratch folder, answers that HashKV

    ID is as in `bbr show`. Without one, at the level stored, everything in the repository is checked. Only reads. Exit
    code 4 when a check does not pass; all checks are made, the first that fails hides no other.

    \b
    Examples:
      bbr verify
      bbr verify latest --level readable --identity recovery-1.txt
      bbr verify latest --level bootable --identity recovery-1.txt --bin-dir /opt/etcd/bin
    """
    from bbr.cli.access import load_identities, open_repository
    from bbr.cli.config import load_config

    if backup_id is None and level != "stored":
        raise UsageError(f"the level {level} is for one backup", hint=f"bbr verify latest --level {level} ...")
    config = load_config(where.config)
    identities, pins = load_identities(identity, config) if level != "stored" else ((), ())
    repository = open_repository(where, output, config=config, key_pins=pins)
    with progress_on(output.stderr) as progress:
        archive = repository.archive(cluster=cluster, progress=progress, identities=identities, anew=True)
        if cluster is not None and not archive.catalog.backups and not archive.catalog.findings:
            raise UsageError(
                f"there is no backup of cluster {cluster} here, so nothing was verified",
                hint="`bbr list` shows which clusters there are",
            )
        backup = archive.catalog.find(cluster or config.cluster, backup_id) if backup_id is not None else None
        tools = _boot_tools(backup, bin_dir or config.bin_dir) if level == "bootable" and backup is not None else None
        deep = level != "stored"
        checks = list(_checks(archive, backup, scratch_dir or repository.state.spool, tools, progress, deep=deep))
    output.report(report(backup, level, checks))
    failed = sum(not check.passed for check in checks)
    what = f"backup {backup.manifest.backup_id}" if backup is not None else f"repository {repository.address}"
    if failed:
        raise VerificationFailed(
            f"{what}: {failed} of {len(checks)} checks did not pass",
            hint="`bbr list` shows the other backups; keep the store as it is until you know why",
        )
    if level == "stored":
        named = backup.manifest.backup_id if backup is not None else "latest"
        output.next_command(
            *("bbr", "verify", named, *where.flags(), "--level", "readable", "--identity", "FILE"),
            why="prove that it opens, with a key",
        )
    elif backup is not None:
        output.next_command(
            *("bbr", "restore", "etcd", backup.manifest.backup_id, *where.flags(), "--identity", "FILE"),
            *("--to-snapshot", "etcd.db"),
            why="restore what is proven now",
        )


def report(backup: Backup | None, level: str, checks: Sequence[Check]) -> Report:
    """Every check that was made, passed or not."""
    data = {
        "id": backup.manifest.backup_id if backup is not None else None,
        "level": level,
        "passed": all(check.passed for check in checks),
        "checks": [
            {"name": one.name, "passed": one.passed, "detail": one.detail, "seconds": round(one.seconds, 3)}
            for one in checks
        ],
    }
    rows = [("ok" if one.passed else "FAILED", one.name, figures.duration(one.seconds), one.detail) for one in checks]
    return Report(SCHEMA, data, [Table(("RESULT", "CHECK", ">TIME", "DETAIL"), rows)])


def _checks(
    archive: Archive,
    backup: Backup | None,
    scratch: Path,
    tools: BootTools | None,
    progress: Progress,
    *,
    deep: bool,
) -> Iterator[Check]:
    from bbr.verify import verify_readable, verify_stored

    yield from verify_stored(archive, backup, progress=progress)
    if deep and backup is not None:
        yield from verify_readable(archive, backup, scratch=scratch, boot=tools, progress=progress)


def _boot_tools(backup: Backup, bin_dir: Path | None) -> BootTools:
    """etcd and etcdutl of the backup's own version. Raises `ToolMissing`."""
    import os

    from bbr.etcd.tools import find_etcdutl
    from bbr.servers.binaries import find, search_path
    from bbr.verify import BootTools

    version = backup.manifest.etcds[0].server_version
    search = search_path(bin_dir=bin_dir, environ=os.environ)
    etcd = find("etcd", search=search, version=version.rpartition(".")[0])
    return BootTools(etcd.path, find_etcdutl(search, server_version=version))
