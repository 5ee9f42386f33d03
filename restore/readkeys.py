"""What an API server must have to read what came back: the keys of Secrets, and those of service-account tokens. Pure.

A master's own files win in a restore in place. But its encryption configuration may be younger than the backup, or made
anew after a loss, and so may its service-account key: then what the backup holds could not be read, and every token
that was issued before would be refused. So what the backup's masters had is added, for reading only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from bbr.errors import PreconditionFailed, UsageError
from bbr.layouts.rewrite import difference
from bbr.layouts.signers import key_files, keys_in, with_keys
from bbr.layouts.staticpod import parse_pod
from bbr.objects.readkeys import masked_difference, merge_read_keys

API_SERVER = "kube-apiserver"
ENCRYPTION_FLAG = "encryption-provider-config"

Read = Callable[[PurePosixPath], bytes | None]
"""A file of a host, or None where there is none."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What an API server reads with. ``manifest`` is the text of its own, which lies at ``path``; ``signers`` are files
    of public keys."""

    path: PurePosixPath
    manifest: str = field(repr=False)
    encryption_path: PurePosixPath | None
    encryption: bytes | None = field(repr=False)
    signers: tuple[bytes, ...] = field(repr=False)

    @property
    def sha256(self) -> str:
        """Of all of it."""
        digest = hashlib.sha256(repr((self.encryption_path, self.encryption, self.signers)).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Added:
    """What is not as it was. ``files`` are new bodies by path; ``manifest`` the API server's, None where it stays."""

    files: dict[PurePosixPath, bytes] = field(repr=False)
    manifest: str | None = field(repr=False)
    diffs: tuple[str, ...]


def read_keys(path: PurePosixPath, manifest: str, read: Read, *, what: str) -> Keys:
    """What an API server with this manifest reads with. Raises `UsageError` for what is no manifest."""
    pod = parse_pod(manifest, API_SERVER, what=what)
    sealing = pod.file(ENCRYPTION_FLAG)
    bodies = (read(pod.on_host(one)) for one in key_files(manifest))
    signers = tuple(one for one in bodies if one is not None)
    return Keys(path, manifest, sealing, read(sealing) if sealing else None, signers)


def added_keys(mine: Keys, theirs: Keys, *, what: str) -> Added:
    """What a master needs besides, to read what the backup's master wrote. ``what`` names the master in errors.

    Raises `PreconditionFailed` where that cannot be added without a person. No diff and no error shows a key.
    """
    files: dict[PurePosixPath, bytes] = {}
    diffs = []
    if theirs.encryption is not None:
        if mine.encryption is None or mine.encryption_path is None:
            raise PreconditionFailed(
                f"{what}: its API server has no encryption configuration, and the backup's Secrets are encrypted",
                hint=f"put the configuration there that `bbr show` names, and --{ENCRYPTION_FLAG} into its manifest",
            )
        path = mine.encryption_path
        merged = _merged(mine.encryption, theirs.encryption, f"{what}: {path}")
        if merged != mine.encryption:
            files[path] = merged
            diffs.append(masked_difference(str(path), mine.encryption, merged))
    lacking = keys_in(theirs.signers) - keys_in(mine.signers)
    if not lacking:
        return Added(files, None, tuple(diffs))
    pod = parse_pod(mine.manifest, API_SERVER, what=f"{what}: {mine.path}")
    try:
        new = with_keys(
            mine.manifest,
            pod,
            [one for one in theirs.signers if keys_in([one]) & lacking],
            what=f"{what}: {mine.path}",
        )
    except UsageError as err:
        raise PreconditionFailed(str(err), hint=err.hint) from err
    files[new.path] = new.body
    return Added(files, new.manifest, (*diffs, difference(mine.path, mine.manifest, new.manifest)))


def _merged(mine: bytes, theirs: bytes, what: str) -> bytes:
    try:
        return merge_read_keys(mine, theirs, what=what)
    except UsageError as err:
        raise PreconditionFailed(str(err), hint="put a configuration there that its API server takes") from err
