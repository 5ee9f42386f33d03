"""From options and configuration to an opened repository: address, pins, root, what this host remembers, keys.

Several places may know the repository's id: a flag, the configuration, key files, this host's state. All that do must
agree, and the highest root number among them counts. Where none does, this is the first contact, and the id is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bbr.cli.config import Config, load_config
from bbr.cli.display import progress_on
from bbr.cli.options import Where
from bbr.cli.output import Output
from bbr.errors import KeyRefused, NoRepository, UsageError
from bbr.progress import Progress
from bbr.repository.archive import Archive
from bbr.repository.catalog import Catalog
from bbr.repository.keyfiles import IdentityFile, read_identities, read_writer_key
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.root import Pin, TrustedRoot, load_roots
from bbr.repository.state import State, recall, remember
from bbr.stores.store import Store
from bbr.stores.url import folder_of, open_store

DEFAULT_WRITER_KEY = Path("/etc/bbr/writer.key")


@dataclass(frozen=True, slots=True)
class FilePin:
    """The repository that a key file says it is of; ``pin`` is None where it does not say."""

    path: Path
    pin: Pin | None


@dataclass(frozen=True, slots=True)
class Repository:
    """An opened repository and what this host remembers of it."""

    config: Config
    address: str
    store: Store
    trusted: TrustedRoot
    state: State

    def archive(
        self, *, cluster: str | None, progress: Progress, identities: Sequence[Identity] = (), anew: bool = False
    ) -> Archive:
        """The repository with its catalog loaded, of one cluster or of all; ``anew`` believes nothing remembered."""
        progress.step("listing the backups")
        cache = None if anew else self.state.manifests
        catalog = Catalog.load(
            self.store, self.trusted, cluster=cluster, cache=cache, memory=self.state.heads, progress=progress
        )
        return Archive(self.store, self.trusted, catalog, identities)

    def clusters(self, progress: Progress) -> str:
        """The clusters that have backups here, as text: for a person who named another."""
        backups = self.archive(cluster=None, progress=progress).catalog.backups
        return ", ".join(sorted({backup.manifest.cluster for backup in backups})) or "none"


def open_repository(
    where: Where,
    output: Output,
    *,
    config: Config | None = None,
    key_pins: Iterable[FilePin] = (),
    progress: Progress | None = None,
) -> Repository:
    """Open the repository that the options or the configuration name, and remember its root.

    Says that it is at it: to ``progress``, or without one to a progress of its own on stderr. Raises `UsageError` when
    none is named, `NoRepository` when there is none or another than expected, `RootInvalid`.
    """
    config = config or load_config(where.config)
    address = repository_address(where, config)
    base = state_dir(where, config)
    store = open_store(address)
    pin = _agreed(_pins(where, config, key_pins) | {"this host's state": recall(base, place_of(address))})
    with nullcontext(progress) if progress else progress_on(output.stderr, keep_steps=False) as shown:
        shown.step(f"opening {address}")
        trusted = load_roots(store, pin)
        state = State.open(base, trusted.repository_id)
        known = state.pin()
        if known is not None and known.root_number > trusted.root.number:
            trusted = load_roots(store, known)
    state.raise_pin(trusted.pin)
    remember(base, place_of(address), trusted.pin)
    if trusted.first_contact:
        warn = progress.warn if progress else output.warn
        warn(
            "first contact with this repository; compare its id with what `bbr init` printed:\n"
            f"  {trusted.repository_id}"
        )
    return Repository(config, address, store, trusted, state)


def repository_address(where: Where, config: Config) -> str:
    """The address that a flag or the configuration gives. Raises `UsageError` when neither does."""
    address = where.repository or config.repository
    if not address:
        raise UsageError(
            "no repository was named", hint="give --repo URL, or write `repository: URL` into bbr.yaml (--config)"
        )
    return address


def state_dir(where: Where, config: Config) -> Path:
    """Where this host keeps its state: told, or /var/lib/bbr for root, else the user's state folder."""
    told = where.state_dir or config.state_dir
    if told is not None:
        return told
    if os.geteuid() == 0:
        return Path("/var/lib/bbr")
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "bbr"
    except RuntimeError as err:
        raise UsageError(
            f"this user ({os.geteuid()}) has no home folder, so there is no place for what this host remembers",
            hint="give --state-dir DIR, or set HOME or XDG_STATE_HOME",
        ) from err


def place_of(address: str) -> str:
    """An address in its one form: a folder is its absolute path, from wherever and however it is named."""
    folder = folder_of(address)
    return address if folder is None else str(folder.resolve())


def load_identities(files: Sequence[Path], config: Config) -> tuple[tuple[Identity, ...], tuple[FilePin, ...]]:
    """The identities of the files that a flag names, or else the configuration, and the repository each is of.

    Raises `KeyRefused` when no file is named.
    """
    named = files or config.identities
    if not named:
        raise KeyRefused(
            "this needs a recovery identity, and none was named",
            hint="give --identity FILE: one of the files that `bbr init` made",
        )
    read: list[IdentityFile] = [read_identities(path) for path in named]
    pins = tuple(FilePin(path, file.pin) for path, file in zip(named, read, strict=True))
    return tuple(one for file in read for one in file.identities), pins


def load_writer_key(named: Path | None, config: Config) -> tuple[SigningKey, FilePin]:
    """This host's writer key, from a flag, the configuration, or /etc/bbr/writer.key. Raises `KeyRefused`."""
    path = named or config.writer_key or DEFAULT_WRITER_KEY
    if path is DEFAULT_WRITER_KEY and not path.exists():
        raise KeyRefused(
            f"no writer key was named, and {path} does not exist",
            hint="give --writer-key FILE: `bbr init` made the first, `bbr writer add` makes more",
        )
    file = read_writer_key(path)
    return file.key, FilePin(path, file.pin)


def _pins(where: Where, config: Config, key_pins: Iterable[FilePin]) -> dict[str, Pin | None]:
    pins: dict[str, Pin | None] = {}
    if where.repository_id:
        if len(where.repository_id) != 64 or not set(where.repository_id) <= set("0123456789abcdef"):
            raise UsageError(
                f"--repository-id {where.repository_id!r} is no repository's id", hint="it has 64 hex digits"
            )
        pins["--repository-id"] = Pin(where.repository_id, 1)
    # A repository named by a flag instead of the configured one has another id.
    if config.repository_id and where.repository in (None, config.repository):
        pins[str(config.path)] = Pin(config.repository_id, config.root)
    for file in key_pins:
        pins[f"key file {file.path}"] = file.pin
    return pins


def _agreed(pins: dict[str, Pin | None]) -> Pin | None:
    """One pin of all that are there: the same id, the highest number. Raises `NoRepository` where two differ."""
    there = {source: pin for source, pin in pins.items() if pin is not None}
    if not there:
        return None
    first_source, first = next(iter(there.items()))
    for source, pin in there.items():
        if pin.repository_id != first.repository_id:
            raise NoRepository(
                f"{first_source} is for repository {first.repository_id}, {source} for {pin.repository_id}",
                hint="use the key files of this repository, or correct the address",
            )
    return Pin(first.repository_id, max(pin.root_number for pin in there.values()))
