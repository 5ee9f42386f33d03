"""Key files: a writer's signing key, and identities of persons and safes. Readable by their owner, or refused.

    # bbr writer key                       # bbr recovery identity
    # label: master-1                      # label: safe
    # repository: <id>                     # public key: age1...
    # root: 3                              # repository: <id>
    -----BEGIN PRIVATE KEY-----            # root: 1
    ...                                    AGE-SECRET-KEY-1...

The comments pin the repository: with such a file nobody is taken in by another repository, or by an older state of it.
The identity file is what age-keygen writes and ``age -i`` reads; the writer key is PEM PKCS#8 as OpenSSL has it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bbr.durable import sync_folder
from bbr.errors import KeyRefused, TargetNotEmpty
from bbr.private import read_private
from bbr.repository import names
from bbr.repository.keys import Identity, SigningKey
from bbr.repository.root import Pin

_COMMENT = re.compile(r"#\s*(repository|root):\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class WriterFile:
    """What a writer's key file holds. ``pin`` is None where no comment names a repository."""

    key: SigningKey
    pin: Pin | None


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """What an identity file holds, at least one identity. ``pin`` is None where no comment names a repository."""

    identities: tuple[Identity, ...]
    pin: Pin | None


def write_writer_key(path: Path, key: SigningKey, pin: Pin, label: str) -> None:
    """Write a writer's key to a new file (0600, durable). Raises `TargetNotEmpty` when something is there."""
    comments = ("bbr writer key", f"label: {label}", f"key id: {key.key_id}", *_pin_comments(pin))
    _write_new(path, _comment_block(comments) + key.pem())


def write_identity(path: Path, identity: Identity, pin: Pin, label: str) -> None:
    """Write a recovery identity to a new file (0600, durable). Raises `TargetNotEmpty` when something is there."""
    comments = ("bbr recovery identity", f"label: {label}", f"public key: {identity.recipient}", *_pin_comments(pin))
    _write_new(path, _comment_block(comments) + f"{identity.secret()}\n".encode())


def read_writer_key(path: Path) -> WriterFile:
    """Read a writer's key. Raises `KeyRefused` when it is missing, open to others, or no such key."""
    body = read_private(path)
    try:
        key = SigningKey.from_pem(body)
    except KeyRefused as err:
        raise KeyRefused(f"{path}: {err}", hint="give the file that `bbr init` or `bbr writer add` wrote") from err
    return WriterFile(key, _pin_of(path, _lines(path, body)))


def read_identities(path: Path) -> IdentityFile:
    """Read every identity of a file. Raises `KeyRefused` when it is missing, open to others, or holds anything else."""
    lines = _lines(path, read_private(path))
    identities = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            try:
                identities.append(Identity.parse(line.strip()))
            except KeyRefused as err:
                raise KeyRefused(f"{path}, line {number}: {err}", hint="age-keygen makes such files") from err
    if not identities:
        raise KeyRefused(f"{path} holds no identity", hint="a line AGE-SECRET-KEY-1... is what opens backups")
    return IdentityFile(tuple(identities), _pin_of(path, lines))


def _lines(path: Path, body: bytes) -> list[str]:
    try:
        return body.decode().splitlines()
    except UnicodeDecodeError as err:
        raise KeyRefused(f"{path} is not a text file") from err


def _pin_of(path: Path, lines: list[str]) -> Pin | None:
    """The repository that the comments name. A file may join several identities, but not of several repositories."""
    ids: set[str] = set()
    numbers = [1]
    for line in lines:
        comment = _COMMENT.fullmatch(line)
        if comment and comment[1] == "repository":
            if not re.fullmatch(names.SHA256, comment[2]):
                raise KeyRefused(f"{path}: the comment `# repository:` does not hold the id of a repository")
            ids.add(comment[2])
        elif comment:
            if not re.fullmatch("[1-9][0-9]{0,4}", comment[2]):
                raise KeyRefused(f"{path}: the comment `# root:` does not hold a number")
            numbers.append(int(comment[2]))
    if len(ids) > 1:
        raise KeyRefused(f"{path} names {len(ids)} repositories", hint="keep the keys of each in a file of their own")
    return Pin(ids.pop(), max(numbers)) if ids else None


def _pin_comments(pin: Pin) -> tuple[str, str]:
    return f"repository: {pin.repository_id}", f"root: {pin.root_number}"


def _comment_block(comments: tuple[str, ...]) -> bytes:
    """Comment lines. A label with a line break in it must not become a line that says something else."""
    return "".join(f"# {' '.join(comment.splitlines())}\n" for comment in comments).encode()


def _write_new(path: Path, body: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as err:
        raise TargetNotEmpty(f"{path} exists; it was left as it is", hint="name another file") from err
    except OSError as err:
        raise KeyRefused(f"the key file {path} cannot be written: {err.strerror}") from err
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as err:
        path.unlink(missing_ok=True)
        raise KeyRefused(f"the key file {path} cannot be written: {err.strerror}") from err
