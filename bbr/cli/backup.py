"""``bbr backup``: one backup of one cluster, now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import (
    FILE,
    EtcdAccess,
    Where,
    cluster_option,
    etcd_options,
    output_options,
    repository_options,
)
from bbr.cli.output import Facts, Output, Report

if TYPE_CHECKING:
    from bbr.backup import Outcome
    from bbr.repository.manifest import EtcdEntry, Manifest

SCHEMA = "bbr.backup/1"


@click.command("backup")
@cluster_option
@click.option(
    "--writer-key",
    type=FILE,
    help="This host's writer key. Default: what the configuration names, then /etc/bbr/writer.key.",
)
@etcd_options
@click.option("--no-compare", is_flag=True, help="Do not ask the members for HashKV; the backup says that it was not.")
@click.option(
    "--accept-disagreement",
    is_flag=True,
    help="Go on though members differ or the CORRUPT alarm is raised. The backup is then partial (exit 3).",
)
@click.option(
    "--accept-identity", is_flag=True, help="This cluster really takes the place of the one that had the name before."
)
@click.option(
    "--no-control-plane",
    is_flag=True,
    help="Leave out the masters' certificates, keys and manifests, and store etcd alone.",
)
@click.option("--new-generation", is_flag=True, help="Store a whole base, also where an increment would do.")
@repository_options
@output_options
def command(
    *,
    where: Where,
    cluster: str | None,
    writer_key: Path | None,
    access: EtcdAccess,
    no_compare: bool,
    accept_disagreement: bool,
    accept_identity: bool,
    no_control_plane: bool,
    new_generation: bool,
    output: Output,
) -> None:
    """Back a cluster up: its etcd, and on a kubeadm master the control plane's files.

    Asks every member whether it is healthy and holds the same data, streams a snapshot from one of them, compares it
    with the server, and stores it sealed and signed: whole the first time of a day, then only what changed. It is
    listed once its last object was read back; until then nothing is.

    On a kubeadm master no flag about etcd is needed, and this host's certificates, keys, manifests and whatever else
    they name are stored too, once while they do not change. Exit codes: 0 all that was asked is stored, 3 the backup is
    stored and partial, 11 another run of this host is at it.

    \b
    Examples:
      # on a kubeadm master
      bbr backup --repo s3://backups/clusters --writer-key writer-master-1.key
      # from anywhere, by a configuration file
      bbr backup --config /etc/bbr/bbr.yaml
      # by flags alone
      bbr backup --repo /mnt/backups --writer-key writer.key --cluster production \\
          --endpoints https://10.0.0.11:2379,https://10.0.0.12:2379 \\
          --cacert ca.crt --cert client.crt --key client.key
    """
    from contextlib import ExitStack
    from dataclasses import replace

    from bbr.backup import Request, run
    from bbr.capture.take import Caution
    from bbr.cli.access import load_writer_key, open_repository
    from bbr.cli.config import load_config
    from bbr.cli.sources import cluster_name, find_sources, open_masters
    from bbr.errors import PartialBackup

    config = load_config(where.config)
    found = find_sources(access, config)
    name = cluster_name(cluster, config, found)
    key, pin = load_writer_key(writer_key, config)
    repository = open_repository(where, output, config=config, key_pins=[pin])
    compare = config.compare_members and not no_compare
    request = Request(
        cluster=name,
        sources=found.sources,
        caution=Caution(compare=compare, accept_disagreement=accept_disagreement),
        accept_identity=accept_identity,
        new_generation=new_generation,
    )
    try:
        with progress_on(output.stderr) as progress, ExitStack() as opened:
            masters = {} if no_control_plane else open_masters(config, found, opened)
            outcome = run(
                replace(request, masters=masters),
                store=repository.store,
                trusted=repository.trusted,
                key=key,
                state=repository.state,
                progress=progress,
            )
    except PartialBackup:
        # It is committed, so a program that reads our output must learn its id all the same.
        with progress_on(output.stderr) as progress:
            head = repository.archive(cluster=name, progress=progress).catalog.head(key.key_id, name)
        if head is not None:
            output.report(partial_report(head.manifest))
        raise
    output.report(report(outcome))
    output.next_command("bbr", "verify", outcome.backup.manifest.backup_id, *where.flags(), why="prove what is stored")


def report(outcome: Outcome) -> Report:
    """What a complete backup stored."""
    manifest = outcome.backup.manifest
    data = {
        **_data(manifest),
        "why_base": outcome.why_base,
        "stored_bytes": outcome.stored_bytes,
        "raw_bytes": outcome.raw_bytes,
        "seconds": round(outcome.seconds, 3),
    }
    read_bytes = sum(entry.snapshot_bytes for entry in manifest.etcds)
    rate = f"{figures.size(read_bytes / max(outcome.seconds, 1e-3))}/s"
    pairs = [
        ("backup", manifest.backup_id),
        ("done", f"{figures.moment(manifest.time)}, in {figures.duration(outcome.seconds)}"),
        *((f"etcd {entry.name}", _etcd_text(entry)) for entry in manifest.etcds),
        ("stored", f"{figures.size(outcome.stored_bytes)} for {figures.size(read_bytes)} of etcd, {rate}"),
    ]
    if outcome.why_base:
        pairs.append(("a base, because", outcome.why_base))
    return Report(SCHEMA, data, [Facts(pairs)])


def partial_report(manifest: Manifest) -> Report:
    """What a partial backup holds, and what it lacks."""
    pairs = [
        ("backup", manifest.backup_id),
        ("done", figures.moment(manifest.time)),
        *((f"etcd {entry.name}", _etcd_text(entry)) for entry in manifest.etcds),
        ("partial", "\n".join(manifest.reasons)),
    ]
    data = {**_data(manifest), "stored_bytes": manifest.stored_bytes}
    return Report(SCHEMA, data, [Facts(pairs)])


def _data(manifest: Manifest) -> dict[str, object]:
    return {
        "id": manifest.backup_id,
        "cluster": manifest.cluster,
        "time": manifest.time,
        "status": manifest.status,
        "reasons": list(manifest.reasons),
        "generation": manifest.generation,
        "sequence": manifest.sequence,
        "etcds": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "revision": entry.revision,
                "hash_kv": entry.hash_kv,
                "compared": entry.compared,
                "records": entry.records,
                "snapshot_bytes": entry.snapshot_bytes,
                "stored_bytes": entry.stored_bytes,
            }
            for entry in manifest.etcds
        ],
        "control_plane": manifest.control_plane.sha256 if manifest.control_plane else None,
    }


def _etcd_text(entry: EtcdEntry) -> str:
    compared = "equal on all members asked" if entry.compared else f"not compared: {entry.not_compared_because}"
    return (
        f"{entry.kind} at revision {entry.revision:,}, {figures.size(entry.stored_bytes)} stored "
        f"of {figures.size(entry.snapshot_bytes)}, HashKV {entry.hash_kv} ({compared})"
    )
