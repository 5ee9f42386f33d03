"""``bbr doctor``: everything that a backup or a restore will need, looked at before it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli.display import progress_on
from bbr.cli.options import (
    FILE,
    EtcdAccess,
    Where,
    bin_dir_option,
    cluster_option,
    etcd_options,
    identity_option,
    output_options,
    repository_options,
)
from bbr.cli.output import Output, Report, Table
from bbr.errors import PreconditionFailed

if TYPE_CHECKING:
    from bbr.cli.checkup import Verdict

SCHEMA = "bbr.doctor/1"


@click.command("doctor")
@click.option("--writer-key", type=FILE, help="This host's writer key, to be looked at too.")
@etcd_options
@identity_option
@cluster_option
@bin_dir_option
@repository_options
@output_options
def command(
    *,
    writer_key: Path | None,
    access: EtcdAccess,
    identity: tuple[Path, ...],
    cluster: str | None,
    bin_dir: Path | None,
    where: Where,
    output: Output,
) -> None:
    """Check everything that a backup or a restore will need.

    The store: whether it answers, whether a name can really be taken only once (8 writers race for one), whether what
    was written is read back, versions, object lock, lifecycle rules that would delete parts, and its clock. The
    repository and its root. Every etcd endpoint. etcd and etcdutl. Free space for the spool. The modes of key files.

    Exit code 0 when nothing would stop a backup, else 5. Writes a few small objects under probe/, and removes them
    where it may.

    \b
    Examples:
      bbr doctor --config /etc/bbr/bbr.yaml
      bbr doctor --repo s3://backups/clusters --endpoints https://10.0.0.11:2379 \\
          --cacert ca.crt --cert client.crt --key client.key
      bbr doctor -o json | jq '.checks[] | select(.result == "failed")'
    """
    from bbr.cli.checkup import Subjects, examine
    from bbr.cli.config import load_config

    config = load_config(where.config)
    subjects = Subjects(
        where=where,
        config=config,
        access=access,
        writer_key=writer_key,
        identities=identity,
        cluster=cluster,
        bin_dir=bin_dir,
    )
    with progress_on(output.stderr) as progress:
        verdicts = list(examine(subjects, output, progress))
    output.report(report(verdicts))
    for verdict in verdicts:
        if verdict.result == "warning" and verdict.hint:
            output.note(f"{verdict.name}: {verdict.hint}")
    failed = [verdict for verdict in verdicts if verdict.result == "failed"]
    if failed:
        raise PreconditionFailed(
            f"{len(failed)} of {len(verdicts)} checks failed: {', '.join(verdict.name for verdict in failed)}",
            hint=next((verdict.hint for verdict in failed if verdict.hint), ""),
        )
    missing = _missing(verdicts, has_cluster=bool(cluster or config.cluster))
    output.next_command(
        *("bbr", "backup", *where.flags()),
        *(("--writer-key", str(writer_key)) if writer_key else ()),
        *(("--cluster", cluster) if cluster else ()),
        *access.flags(),
        *missing,
        why="since nothing stands in the way of a backup" + (", with what is still to be named" if missing else ""),
    )


def _missing(verdicts: Sequence[Verdict], *, has_cluster: bool) -> list[str]:
    """Flags that a backup will need, of what was named nowhere and so not looked at."""
    results = {verdict.name: verdict.result for verdict in verdicts}
    flags = ["--writer-key", "FILE"] if results.get("writer key") == "skipped" else []
    if results.get("etcd") == "skipped":
        flags += ["--endpoints", "URL", "--cacert", "FILE", "--cert", "FILE", "--key", "FILE"]
    if results.get("etcd") in ("skipped", "warning") and not has_cluster:
        flags += ["--cluster", "NAME"]
    return flags


def report(verdicts: Sequence[Verdict]) -> Report:
    """Every check and what it found."""
    data = {
        "passed": all(one.result != "failed" for one in verdicts),
        "checks": [
            {"name": one.name, "result": one.result, "detail": one.detail, "hint": one.hint} for one in verdicts
        ],
    }
    rows = [(one.result, one.name, one.detail) for one in verdicts]
    return Report(SCHEMA, data, [Table(("RESULT", "CHECK", "DETAIL"), rows)])
