"""``bbr init``: a repository, and the key files that go with it."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bbr.cli.display import progress_on
from bbr.cli.options import FOLDER, Where, output_options, repository_options
from bbr.cli.output import Facts, Output, Report
from bbr.errors import BbrError, PreconditionFailed, TargetNotEmpty

if TYPE_CHECKING:
    from bbr.cli.config import Config
    from bbr.repository.keys import Identity, SigningKey
    from bbr.repository.root import Pin, TrustedRoot
    from bbr.stores.probe import Abilities
    from bbr.stores.store import Store

SCHEMA = "bbr.init/1"
KEYS_DIR = Path("bbr-keys")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file that was written. ``public`` is a recipient, or a writer key's id; ``advice`` says where it goes."""

    kind: str
    path: Path
    label: str
    public: str
    advice: str


@click.command("init")
@click.option(
    "--recovery",
    multiple=True,
    metavar="age1...",
    help="Recipient of a recovery identity that exists already. At least two; without any, both are made.",
)
@click.option(
    "--keys-dir", type=FOLDER, default=KEYS_DIR, show_default=True, help="Where the key files are written, mode 0600."
)
@click.option("--writer", "label", metavar="LABEL", help="What this backup host is called. Default: its host name.")
@click.option(
    "--cluster",
    "clusters",
    metavar="NAME",
    multiple=True,
    help="A cluster that the writer may back up; may be given more than once. Default: all.",
)
@repository_options
@output_options
def command(
    *,
    recovery: tuple[str, ...],
    keys_dir: Path,
    label: str | None,
    clusters: tuple[str, ...],
    where: Where,
    output: Output,
) -> None:
    """Make a repository, its recovery identities and a writer key.

    Backups are sealed to recovery identities: who holds one can read and restore everything, and administers the
    repository. There must be two, so that one can be lost. Without --recovery both are made here, each in a file of
    its own; keep one offline. The writer key stays on the backup host; it can add backups and read none.

    The store is tried out first, and what it lacks is said. Nothing that exists is overwritten.

    \b
    Examples:
      bbr init --repo /mnt/backups
      bbr init --repo 's3://backups/clusters?region=eu-central-1' --keys-dir /root/bbr-keys
      bbr init --repo minio://minio.example.com:9000/backups/clusters \\
          --recovery age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p \\
          --recovery age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg
    """
    from bbr.cli.access import place_of, repository_address, state_dir
    from bbr.cli.config import load_config
    from bbr.repository.administration import Holder, NewSigner, draft, publish
    from bbr.repository.keys import Identity, SigningKey
    from bbr.repository.root import ALL_CLUSTERS
    from bbr.repository.state import State, remember
    from bbr.stores.probe import probe
    from bbr.stores.url import create_place, open_store

    config = load_config(where.config)
    address = repository_address(where, config)
    base = state_dir(where, config)
    host = label or socket.gethostname()
    create_place(address)
    store = open_store(address)
    with progress_on(output.stderr, keep_steps=False) as progress:
        progress.step(f"opening {address}")
        _refuse_existing(store, address)
    identities = [] if recovery else [Identity.generate(), Identity.generate()]
    key = SigningKey.generate()
    drafted = draft(
        recovery=[Holder(one, f"recovery-{number}") for number, one in enumerate(_recipients(recovery, identities), 1)],
        writers=[NewSigner(key.public, host, clusters or (ALL_CLUSTERS,))],
        now=datetime.now(UTC),
    )
    with progress_on(output.stderr, keep_steps=False) as progress:
        progress.step("trying the store out")
        abilities = probe(store)
    for line in abilities.lacks:
        output.warn(f"this store: {line}")
    files = _write_keys(keys_dir.absolute(), identities, key, host, drafted.pin)
    try:
        with progress_on(output.stderr, keep_steps=False) as progress:
            progress.step("storing keys and root")
            trusted = publish(store, drafted)
    except BbrError:
        output.warn(f"the key files in {keys_dir} belong to a repository that may not have been made; remove them")
        raise
    State.open(base, trusted.repository_id).raise_pin(trusted.pin)
    place = place_of(address)
    remember(base, place, trusted.pin)
    cluster = (clusters[0] if len(clusters) == 1 else "NAME") if clusters else ""
    output.report(report(place, trusted, files, abilities, cluster))
    output.next_command(
        *("bbr", "backup", *where.flags(), "--writer-key", str(files[-1].path), *_etcd_flags(config, cluster)),
        why="make the first backup",
    )


def report(
    address: str, trusted: TrustedRoot, files: Sequence[KeyFile], abilities: Abilities, cluster: str = ""
) -> Report:
    """What was made, where each file goes, and a configuration to begin with, good wherever its file is put."""
    from bbr.cli.config import as_yaml

    pairs = [
        ("repository", address),
        ("id", f"{trusted.repository_id}\nwrite it down: it tells this repository from any other"),
        *((f"{one.kind}", f"{one.path}\n{one.advice}") for one in files),
    ]
    snippet = "\n".join(
        (
            "# bbr.yaml for the backup host",
            f"repository: {as_yaml(address)}",
            f"repository_id: {trusted.repository_id}",
            f"cluster: {as_yaml(cluster or 'NAME')}",
            f"writer_key: {as_yaml(str(files[-1].path))}",
        )
    )
    data = {
        "repository": address,
        "repository_id": trusted.repository_id,
        "root": trusted.root.number,
        "files": [{"kind": one.kind, "path": one.path, "label": one.label, "public": one.public} for one in files],
        "store": {
            "conditional_create": abilities.conditional_create,
            "may_delete": abilities.may_delete,
            "versions": abilities.versions,
            "object_lock": abilities.retention,
            "lacks": list(abilities.lacks),
        },
    }
    return Report(SCHEMA, data, [Facts(pairs), "", snippet])


def _etcd_flags(config: Config, cluster: str) -> list[str]:
    """What a backup from this host needs besides: nothing on a kubeadm master, or where it is configured."""
    from bbr.cli.sources import MANIFESTS_DIR

    if config.etcd or (config.manifests_dir or MANIFESTS_DIR).is_dir():
        return ["--cluster", cluster] if cluster else []
    named = [] if config.cluster and not cluster else ["--cluster", cluster or "NAME"]
    return [*named, "--endpoints", "URL", "--cacert", "FILE", "--cert", "FILE", "--key", "FILE"]


def _refuse_existing(store: Store, address: str) -> None:
    from bbr.repository import names

    if next(iter(store.list(names.ROOT_PREFIX)), None) is not None:
        raise TargetNotEmpty(
            f"there is a repository at {address}; it was left as it is", hint="use it, or name another address"
        )


def _recipients(named: Sequence[str], made: Sequence[Identity]) -> list[str]:
    return list(named) or [identity.recipient for identity in made]


def _write_keys(
    folder: Path, identities: Sequence[Identity], key: SigningKey, host: str, pin: Pin
) -> tuple[KeyFile, ...]:
    """Write every key file, the writer's last. Refuses before the first when any of them exists."""
    from bbr.repository.keyfiles import write_identity, write_writer_key

    recovery = [(folder / f"recovery-{number}.txt", identity) for number, identity in enumerate(identities, start=1)]
    writer = folder / f"writer-{re.sub(r'[^A-Za-z0-9._-]', '-', host)}.key"
    for path in (*(path for path, _ in recovery), writer):
        if path.exists():
            raise TargetNotEmpty(f"{path} exists; it was left as it is", hint="name another folder with --keys-dir")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise PreconditionFailed(f"the folder {folder} cannot be made: {err.strerror}") from err
    files = []
    for number, (path, identity) in enumerate(recovery, start=1):
        label = f"recovery-{number}"
        write_identity(path, identity, pin, label)
        files.append(KeyFile("recovery identity", path, label, identity.recipient, _ADVICE[number - 1]))
    write_writer_key(writer, key, pin, host)
    files.append(KeyFile("writer key", writer, host, key.key_id, "stays on the backup host; it cannot read backups"))
    return tuple(files)


_ADVICE = (
    "print it or put it on a stick, lock it away offline, and delete it here",
    "give it to who restores (a password safe), and delete it here",
)
