"""bbr.yaml: read once, checked strictly, turned into one value. Flags go before it; nothing below the cli reads it.

    repository: s3://backups/clusters?region=eu-central-1
    repository_id: 4c1f...                   # as `bbr init` printed it
    cluster: production
    writer_key: writer-master-1.key          # relative to this file
    etcd:
      main:
        endpoints: [https://10.0.0.11:2379, https://10.0.0.12:2379, https://10.0.0.13:2379]
        ca_file: /etc/kubernetes/pki/etcd/ca.crt
        cert_file: /etc/kubernetes/pki/etcd/healthcheck-client.crt
        key_file: /etc/kubernetes/pki/etcd/healthcheck-client.key

A key that is unknown or given twice is an error that names file, line and the nearest key there is: a misspelled
``compare_member`` must not quietly mean the default. docs/configuration.md describes every key.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bbr.errors import UsageError
from bbr.machines.host import SSH_PORT, SshHost

FILE_LIMIT_BYTES = 1024 * 1024
DEPTH_LIMIT = 8
DEFAULT_PLACES = (Path("bbr.yaml"), Path("/etc/bbr/bbr.yaml"))


class _Strict(BaseModel):
    """No key that is not declared, no value of another type than the declared one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Text = Annotated[str, Field(min_length=1, max_length=4096)]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
RepositoryId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class EtcdSection(_Strict):
    """One etcd, under the name that it has in backups."""

    endpoints: Annotated[list[Text], Field(min_length=1)]
    ca_file: Text | None = None
    cert_file: Text | None = None
    key_file: Text | None = None
    username: Text | None = None
    password_file: Text | None = None
    prefix: Text = "/registry"


class MasterSection(_Strict):
    """One master, under the name that it has in backups, and how it is logged in to."""

    address: Text
    identity_file: Text
    known_hosts: Text
    user: Text = "root"
    port: Annotated[int, Field(ge=1, le=65535)] = SSH_PORT
    sudo: bool = False


class ConfigFile(_Strict):
    """The whole file. Everything may be left out and given by flags."""

    repository: Text | None = None
    repository_id: RepositoryId | None = None
    root: Annotated[int, Field(ge=1)] = 1
    cluster: Text | None = None
    writer_key: Text | None = None
    identities: list[Text] = []
    state_dir: Text | None = None
    bin_dir: Text | None = None
    manifests_dir: Text | None = None
    compare_members: bool = True
    etcd: dict[Text, EtcdSection] = {}
    masters: dict[HostName, MasterSection] = {}


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How one etcd is reached. Paths are absolute, or relative to where the command runs."""

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    prefix: str = "/registry"


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """How one master is reached over SSH; with ``sudo`` all is done as root by ``sudo -n``."""

    host: SshHost
    sudo: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration file says; without a file, nothing. ``root`` is the lowest root number to accept."""

    path: Path | None = None
    repository: str | None = None
    repository_id: str | None = None
    root: int = 1
    cluster: str | None = None
    writer_key: Path | None = None
    identities: tuple[Path, ...] = ()
    state_dir: Path | None = None
    bin_dir: Path | None = None
    manifests_dir: Path | None = None
    compare_members: bool = True
    etcd: Mapping[str, EtcdSettings] = field(default_factory=dict)
    masters: Mapping[str, MasterSettings] = field(default_factory=dict)


def load_config(named: Path | None, *, places: Sequence[Path] = DEFAULT_PLACES) -> Config:
    """Read the file that was named, or the first of ``places`` that exists; an empty `Config` when there is none.

    Raises `UsageError`. A file that was not named must belong to root or to this user and be writable by nobody else:
    whoever can write ./bbr.yaml says where a cluster's secrets go.
    """
    if named is not None:
        return read_config(named)
    for path in places:
        try:
            about = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as err:
            raise UsageError(f"{path} cannot be read: {err.strerror}") from err
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(
                f"{path} can be written by other users, so it is not taken unasked",
                hint=f"chmod go-w {path}, or name it with --config",
            )
        return read_config(path)
    return Config()


def read_config(path: Path) -> Config:
    """Read and check one file. Raises `UsageError` that names the file, the line and what would fit."""
    try:
        with path.open("rb") as file:
            body = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror}", hint="check --config") from err
    if len(body) > FILE_LIMIT_BYTES:
        raise UsageError(f"{path} is larger than any configuration ({FILE_LIMIT_BYTES:,} bytes)")
    root = _parsed(path, body)
    value = _value(path, root) if root is not None else {}
    try:
        checked = ConfigFile.model_validate(value)
    except ValidationError as err:
        raise _explained(path, root, err) from err
    for name, section in checked.etcd.items():
        if (section.username is None) != (section.password_file is None):
            raise UsageError(
                f"{path}, line {_line(_find(root, ('etcd', name)))}: etcd.{name} has only one of username and "
                "password_file",
                hint="give both; where a certificate's common name is the user, neither is needed",
            )
    try:
        return _config(path, checked)
    except RuntimeError as err:  # a path begins with ~ or ~somebody
        raise UsageError(f"{path}: {err}", hint="write paths without ~, or set HOME") from err


def as_yaml(text: str) -> str:
    """A text as it is written into such a file: quoted where YAML would take it for anything else."""
    try:
        is_plain = yaml.safe_load(f"key: {text}") == {"key": text}
    except yaml.YAMLError:
        is_plain = False
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _parsed(path: Path, body: bytes) -> yaml.Node | None:
    try:
        return yaml.compose(body.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as err:
        raise UsageError(f"{path} is not text in UTF-8") from err
    except yaml.MarkedYAMLError as err:
        line = f", line {err.problem_mark.line + 1}" if err.problem_mark else ""
        raise UsageError(f"{path}{line}: not YAML: {err.problem}") from err
    except yaml.YAMLError as err:
        raise UsageError(f"{path}: not YAML: {err}") from err
    except RecursionError as err:  # the parser has no limit of its own
        raise UsageError(f"{path}: nested deeper than any configuration") from err


def _value(path: Path, node: yaml.Node, depth: int = 0) -> object:
    """The plain value of a node. YAML itself lets the last of two equal keys win; here the second is an error."""
    if depth > DEPTH_LIMIT:
        raise UsageError(f"{path}, line {_line(node)}: nested deeper than any configuration")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, object] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{path}, line {_line(key)}: a key must be a word")
            if key.value in mapping:
                raise UsageError(f"{path}, line {_line(key)}: {key.value!r} is given twice", hint="remove one of them")
            mapping[key.value] = _value(path, child, depth + 1)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(path, child, depth + 1) for child in node.value]
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_object(node)
    except (ValueError, yaml.YAMLError) as err:
        raise UsageError(f"{path}, line {_line(node)}: {node.value!r} is not a value: {err}") from err


def _explained(path: Path, root: yaml.Node | None, err: ValidationError) -> UsageError:
    """The first thing that is wrong, in our own words, and how many more there are."""
    problems = err.errors(include_url=False)
    first = problems[0]
    place = first["loc"]
    line = _line(_find(root, place))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        where = f" under {_dotted(place[:-1])}" if len(place) > 1 else ""
        return UsageError(
            f"{path}, line {line}: unknown key {str(place[-1])!r}{where}{more}",
            hint=f"did you mean {near[0]!r}?" if near else f"the keys here are: {', '.join(known)}",
        )
    what = _dotted(place) or "the file"
    said = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    wrong = "is missing" if first["type"] == "missing" else f"should be {said}"
    return UsageError(f"{path}, line {line}: {what} {wrong}{more}", hint="docs/configuration.md describes every key")


def _find(root: yaml.Node | None, place: Sequence[int | str]) -> yaml.Node | None:
    """The node of a place: of a mapping's entry its key. For one that is missing, the nearest node above."""
    node = root
    for depth, step in enumerate(place, start=1):
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, child) for key, child in node.value if key.value == step), None)
            if entry is None:
                break
            node = entry[0] if depth == len(place) else entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
    return node


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None else 1


def _keys_at(place: Sequence[int | str]) -> list[str]:
    model = EtcdSection if place and place[0] == "etcd" else ConfigFile
    return list(model.model_fields)


def _dotted(place: Sequence[int | str]) -> str:
    return ".".join(map(str, place))


def _config(path: Path, file: ConfigFile) -> Config:
    """The checked file as values; its relative paths start from the folder that it lies in."""
    base = path.absolute().parent

    def beside(text: str | None) -> Path | None:
        return base / Path(text).expanduser() if text is not None else None

    def etcds() -> Iterator[tuple[str, EtcdSettings]]:
        for name, section in file.etcd.items():
            yield (
                name,
                EtcdSettings(
                    endpoints=tuple(section.endpoints),
                    ca_file=beside(section.ca_file),
                    cert_file=beside(section.cert_file),
                    key_file=beside(section.key_file),
                    username=section.username or "",
                    password_file=beside(section.password_file),
                    prefix=section.prefix,
                ),
            )

    def masters() -> Iterator[tuple[str, MasterSettings]]:
        for name, section in file.masters.items():
            host = SshHost(
                name,
                section.address,
                (base / Path(section.identity_file).expanduser(),),
                port=section.port,
                user=section.user,
                known_hosts=beside(section.known_hosts),
            )
            yield name, MasterSettings(host, section.sudo)

    repository = file.repository
    if repository is not None and "://" not in repository:
        repository = str(beside(repository))
    return Config(
        path=path,
        repository=repository,
        repository_id=file.repository_id,
        root=file.root,
        cluster=file.cluster,
        writer_key=beside(file.writer_key),
        identities=tuple(base / Path(text).expanduser() for text in file.identities),
        state_dir=beside(file.state_dir),
        bin_dir=beside(file.bin_dir),
        manifests_dir=beside(file.manifests_dir),
        compare_members=file.compare_members,
        etcd=dict(etcds()),
        masters=dict(masters()),
    )
