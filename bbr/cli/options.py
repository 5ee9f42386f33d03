"""Options that several commands share, each defined once. A group of them reaches its command as one value.

Secrets are never arguments: keys, identities and passwords are named by the files that hold them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import click

from bbr.cli.output import Output
from bbr.errors import UsageError

Command: TypeAlias = Callable[..., None]

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Where:
    """Which repository is meant, and where this host keeps what it remembers of it; None where nothing was said."""

    config: Path | None
    repository: str | None
    repository_id: str | None
    state_dir: Path | None

    def flags(self) -> list[str]:
        """The flags that lead the next command to the same repository."""
        given = {"--config": self.config, "--repo": self.repository, "--state-dir": self.state_dir}
        return [word for flag, value in given.items() if value is not None for word in (flag, str(value))]


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """How the flags say that etcd is reached. Files hold PEM; ``password_file`` one line."""

    endpoints: tuple[str, ...]
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    username: str | None
    password_file: Path | None
    manifests_dir: Path | None

    def flags(self) -> list[str]:
        """The flags that lead the next command to the same etcd."""
        given = {
            "--endpoints": ",".join(self.endpoints) or None,
            "--cacert": self.ca_file,
            "--cert": self.cert_file,
            "--key": self.key_file,
            "--user": self.username,
            "--password-file": self.password_file,
            "--manifests-dir": self.manifests_dir,
        }
        return [word for flag, value in given.items() if value is not None for word in (flag, str(value))]


def repository_options(command: Command) -> Command:
    """``--config``, ``--repo``, ``--repository-id`` and ``--state-dir``; the command gets ``where``."""

    @click.option(
        "--config",
        "-c",
        type=FILE,
        help="Configuration file. Without it, ./bbr.yaml or /etc/bbr/bbr.yaml is read where there is one.",
    )
    @click.option(
        "--repo",
        "-r",
        metavar="URL",
        help="The repository: a folder, s3://BUCKET/PREFIX or minio://HOST:PORT/BUCKET/PREFIX.",
    )
    @click.option(
        "--repository-id",
        metavar="ID",
        help="The id that the repository must have, as `bbr init` printed it. Key files and bbr.yaml have it too.",
    )
    @click.option(
        "--state-dir",
        type=FOLDER,
        help="Where this host remembers repositories. Default: /var/lib/bbr for root, else ~/.local/state/bbr.",
    )
    @functools.wraps(command)
    def gathered(
        *, config: Path | None, repo: str | None, repository_id: str | None, state_dir: Path | None, **others: object
    ) -> None:
        command(where=Where(config, repo, repository_id, state_dir), **others)

    return gathered


def etcd_options(command: Command) -> Command:
    """How etcd is reached, in the words of etcdctl; the command gets ``access``.

    A user without a password, or the other way round, is a `UsageError`: it would be left out without a word.
    """

    @click.option(
        "--endpoints",
        multiple=True,
        metavar="URL[,URL...]",
        help="etcd's members, such as https://10.0.0.11:2379. Name all of them: they are compared.",
    )
    @click.option("--cacert", type=FILE, help="The CA of etcd's server certificates (PEM).")
    @click.option("--cert", type=FILE, help="Client certificate for etcd (PEM).")
    @click.option("--key", type=FILE, help="Key of the client certificate (PEM).")
    @click.option("--user", metavar="NAME", help="User name, where etcd's authentication is on.")
    @click.option("--password-file", type=FILE, help="File with that user's password.")
    @click.option(
        "--manifests-dir",
        type=FOLDER,
        help="Static pod manifests of a kubeadm master, to find etcd by. Default: /etc/kubernetes/manifests.",
    )
    @functools.wraps(command)
    def gathered(
        *,
        endpoints: tuple[str, ...],
        cacert: Path | None,
        cert: Path | None,
        key: Path | None,
        user: str | None,
        password_file: Path | None,
        manifests_dir: Path | None,
        **others: object,
    ) -> None:
        if (user is None) != (password_file is None):
            lacking = "--password-file FILE" if password_file is None else "--user NAME"
            raise UsageError(
                "etcd's user and password belong together",
                hint=f"give {lacking} too; where a certificate's common name is the user, neither is needed",
            )
        named = tuple(one.strip() for several in endpoints for one in several.split(",") if one.strip())
        command(access=EtcdAccess(named, cacert, cert, key, user, password_file, manifests_dir), **others)

    return gathered


def output_options(command: Command) -> Command:
    """``--output`` and ``--debug``, which every command has; the command gets ``output``."""

    @click.option(
        "--output",
        "-o",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="How to print the result.",
    )
    @click.option(
        "--debug", is_flag=True, expose_value=False, help="When something fails, show where in the program it did."
    )
    @functools.wraps(command)
    def gathered(*, form: str, **others: object) -> None:
        output = Output("json" if form == "json" else "table")
        _ = output.stdout  # Raises now, not after a backup whose id nobody would learn.
        command(output=output, **others)

    return gathered


def cluster_option(command: Command) -> Command:
    """``--cluster``: the command gets ``cluster``."""
    return click.option("--cluster", metavar="NAME", help="The cluster's name in the repository.")(command)


def identity_option(command: Command) -> Command:
    """``--identity``: the command gets ``identity``, a tuple of files."""
    return click.option(
        "--identity",
        "-i",
        type=FILE,
        multiple=True,
        help="File with a recovery identity, as `bbr init` made it. May be given more than once.",
    )(command)


def certificates_option(command: Command) -> Command:
    """``--certificates``: the command gets ``certificates``, a folder or None."""
    return click.option(
        "--certificates",
        type=FOLDER,
        metavar="DIR",
        help="What an authority outside has signed: the folder of --csr-dir, with a .crt beside each .csr.",
    )(command)


def bin_dir_option(command: Command) -> Command:
    """``--bin-dir``: the command gets ``bin_dir``."""
    return click.option(
        "--bin-dir",
        type=FOLDER,
        help="Folder with etcd and etcdutl. Looked into before KUBEBUILDER_ASSETS and PATH.",
    )(command)
