"""``bbr restore``: a cluster, or one etcd, back from a backup. Each command has a file of its own."""

from __future__ import annotations

import click

from bbr.cli import restore_apply, restore_etcd, restore_plan, restore_status


@click.group("restore")
def command() -> None:
    """Bring a cluster, or one etcd, back from a backup.

    `plan` looks and decides, `apply` does just that, `undo` takes it back up to the point of no return, `status` tells
    how far it is, `clean` removes what was kept aside. `etcd` gives one etcd as a file, for whatever tool you trust.

    \b
    Examples:
      bbr restore plan latest --kind in-place --inventory prod.yaml --identity recovery-1.txt --out plan.json
      bbr restore apply plan.json --identity recovery-1.txt
      bbr restore etcd latest --identity recovery-1.txt --to-snapshot etcd.db
    """


command.add_command(restore_plan.command)
command.add_command(restore_apply.apply)
command.add_command(restore_status.status)
command.add_command(restore_apply.undo)
command.add_command(restore_status.clean)
command.add_command(restore_etcd.command)
