"""The fresh backup that ends a restore: handed in from here, since a restore needs no backup code otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bbr.progress import Progress

if TYPE_CHECKING:
    from bbr.cli.config import Config
    from bbr.cli.options import Where
    from bbr.cli.output import Output
    from restore.site import Site


def fresh_backup(
    writer_key: Path | None, where: Where, config: Config, output: Output, progress: Progress
) -> Callable[[Site], str] | None:
    """What takes it, through the restore's own connections; None where this host has no writer key.

    Raises `KeyRefused` for a key that was named and cannot be read.
    """
    from bbr.cli.access import DEFAULT_WRITER_KEY, load_writer_key, open_repository

    if writer_key is None and config.writer_key is None and not DEFAULT_WRITER_KEY.exists():
        return None
    key, pin = load_writer_key(writer_key, config)

    def take(site: Site) -> str:
        from contextlib import ExitStack

        from bbr.backup import Request, run
        from bbr.capture.take import Source

        plan = site.plan
        repository = open_repository(where, output, config=config, key_pins=[pin], progress=progress)
        with ExitStack() as opened:
            clients = [opened.enter_context(site.etcd(host)) for host in plan.members]
            source = Source(
                plan.source.etcd.name,
                tuple(client.endpoint for client in clients),
                site.reach.etcd_credentials(site.machine(plan.members[0]), plan.members[0].ca_file),
            )
            masters = {host.name: site.machine(host) for host in plan.members}
            request = Request(cluster=plan.source.cluster, sources=(source,), masters=masters, new_generation=True)
            outcome = run(
                request,
                store=repository.store,
                trusted=repository.trusted,
                key=key,
                state=repository.state,
                progress=progress,
            )
        return outcome.backup.manifest.backup_id

    return take
