"""``bbr writer``: which hosts may write backups. Every change is a new root, signed by an administrator."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli import figures
from bbr.cli.display import progress_on
from bbr.cli.options import FILE, Where, identity_option, output_options, repository_options
from bbr.cli.output import Facts, Output, Report, Table
from bbr.errors import AccessDenied, KeyRefused, PreconditionFailed, UsageError

if TYPE_CHECKING:
    from bbr.repository.root import Root, Signer, TrustedRoot

SCHEMA_LIST = "bbr.writer-list/1"
SCHEMA_ADD = "bbr.writer-add/1"
SCHEMA_REVOKE = "bbr.writer-revoke/1"


@click.group("writer")
def command() -> None:
    """Say which hosts may write backups.

    A writer is a host with a signing key. It can add backups of its clusters; it can read none.

    \b
    Examples:
      bbr writer list
      bbr writer add master-2 --cluster production --key-file writer-master-2.key --identity recovery-1.txt
      bbr writer revoke master-1 --identity recovery-1.txt
    """


@command.command("list")
@repository_options
@output_options
def list_(*, where: Where, output: Output) -> None:
    """List the writers of the repository, those that were revoked too.

    \b
    Example:
      bbr writer list -o json
    """
    from bbr.cli.access import open_repository

    repository = open_repository(where, output)
    output.report(list_report(repository.trusted.root))


@command.command("add")
@click.argument("label")
@click.option("--key-file", type=FILE, help="Where to write the new key. Default: writer-LABEL.key in this folder.")
@click.option(
    "--cluster",
    "clusters",
    metavar="NAME",
    multiple=True,
    help="A cluster that it may back up; may be given more than once. Default: all.",
)
@identity_option
@repository_options
@output_options
def add(
    *,
    label: str,
    key_file: Path | None,
    clusters: tuple[str, ...],
    identity: tuple[Path, ...],
    where: Where,
    output: Output,
) -> None:
    """Make a key for a host, and trust it from now on.

    LABEL is what the host is called here. The identity is an administrator's: as `bbr init` makes a repository, those
    are the recovery identities. Bring the key file to the host, mode 0600, and delete it here.

    \b
    Example:
      bbr writer add master-2 --cluster production --key-file writer-master-2.key --identity recovery-1.txt
    """
    from bbr.cli.access import load_identities, open_repository, place_of
    from bbr.cli.config import load_config
    from bbr.repository.administration import NewSigner, add_signer
    from bbr.repository.keyfiles import write_writer_key
    from bbr.repository.keys import SigningKey
    from bbr.repository.root import ALL_CLUSTERS
    from bbr.stores.url import folder_of

    config = load_config(where.config)
    identities, pins = load_identities(identity, config)
    repository = open_repository(where, output, config=config, key_pins=pins)
    path = (key_file or Path(f"writer-{_in_file_name(label)}.key")).absolute()
    key = SigningKey.generate()
    new = NewSigner(key.public, label, clusters or (ALL_CLUSTERS,))
    write_writer_key(path, key, repository.trusted.pin, label)
    try:
        with progress_on(output.stderr, keep_steps=False) as progress:
            progress.step("storing the new root")
            trusted = add_signer(repository.store, repository.trusted, identities, new, now=datetime.now(UTC))
    except (UsageError, KeyRefused, PreconditionFailed, AccessDenied):
        path.unlink()  # Nothing was stored: nobody trusts this key, and its file would be in the way of the next try.
        raise
    repository.state.raise_pin(trusted.pin)
    pairs = [
        ("writer", f"{label} ({key.key_id})"),
        ("clusters", ", ".join(new.clusters)),
        ("key file", f"{path}\nbring it to the host, mode 0600, and delete it here"),
        ("root", str(trusted.root.number)),
    ]
    data = {
        "label": label,
        "key_id": key.key_id,
        "clusters": list(new.clusters),
        "key_file": path,
        "root": trusted.root.number,
    }
    output.report(Report(SCHEMA_ADD, data, [Facts(pairs)]))
    place = place_of(repository.address)
    if folder_of(repository.address) is not None:
        output.note(f"The repository is a folder: that host must reach it as {place} too.")
    output.next_command(
        *("bbr", "backup", "--repo", place, "--writer-key", path.name),
        *(("--cluster", clusters[0] if len(clusters) == 1 else "NAME") if clusters else ()),
        why="on that host (where it is no kubeadm master, with --endpoints and --cluster)",
    )


@command.command("revoke")
@click.argument("name")
@click.option(
    "--at",
    metavar="TIME",
    help="From when on nothing that it signed is believed, such as 2026-01-02T03:04:05Z. Default: now.",
)
@identity_option
@repository_options
@output_options
def revoke(*, name: str, at: str | None, identity: tuple[Path, ...], where: Where, output: Output) -> None:
    """Trust nothing that a writer signs from now on, or from an earlier moment on.

    NAME is its label or its key's id. Backups from before stay listed and can be restored.

    \b
    Example:
      bbr writer revoke master-1 --at 2026-01-02T03:04:05Z --identity recovery-1.txt
    """
    from bbr.cli.access import load_identities, open_repository
    from bbr.cli.config import load_config
    from bbr.repository.administration import find_signer, revoke_signer

    now = datetime.now(UTC)
    since = _time(at) if at is not None else now
    config = load_config(where.config)
    identities, pins = load_identities(identity, config)
    repository = open_repository(where, output, config=config, key_pins=pins)
    signer = find_signer(repository.trusted.root, name)
    with progress_on(output.stderr, keep_steps=False) as progress:
        progress.step("storing the new root")
        trusted = revoke_signer(repository.store, repository.trusted, identities, signer.id, at=since, now=now)
    repository.state.raise_pin(trusted.pin)
    output.report(revoke_report(trusted, signer, since))
    output.next_command("bbr", "list", *where.flags(), why="see what is still believed")


def list_report(root: Root) -> Report:
    """The signers of a root."""
    writers = [signer for signer in root.signers if signer.role == "writer"]
    rows = [
        (
            one.label,
            one.id,
            ",".join(one.clusters),
            f"revoked {figures.moment(one.revoked)}" if one.revoked else "in service",
        )
        for one in writers
    ]
    data = {
        "root": root.number,
        "writers": [
            {"label": one.label, "key_id": one.id, "clusters": list(one.clusters), "revoked": one.revoked}
            for one in writers
        ],
    }
    text: list[str | Table] = [Table(("LABEL", "KEY ID", "CLUSTERS", "STATE"), rows)] if rows else ["no writers"]
    return Report(SCHEMA_LIST, data, text)


def revoke_report(trusted: TrustedRoot, signer: Signer, since: datetime) -> Report:
    """A revocation that took effect."""
    data = {"label": signer.label, "key_id": signer.id, "revoked": since, "root": trusted.root.number}
    pairs = [
        ("revoked", f"{signer.label} ({signer.id})"),
        ("from", figures.moment(since)),
        ("root", str(trusted.root.number)),
    ]
    return Report(SCHEMA_REVOKE, data, [Facts(pairs)])


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as err:
        raise UsageError(f"--at: {text!r} is not a time", hint="write it as 2026-01-02T03:04:05Z") from err
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _in_file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in label).lstrip(".") or "host"
