"""The control-plane archive: the files of each master, as a tar that any tool opens, the same bytes for the same files.

    index.json                  what is known of the cluster (canonical JSON; its fields are the writer's affair)
    hosts/<host>/<path>         files and symbolic links, with mode and numeric owner, sorted

POSIX pax, times all zero, so that an archive that did not change has the same SHA-256 and need not be stored again.
What is read back is hostile: only files and links, only below ``hosts/``, no name twice, all of it bounded; nothing is
ever unpacked by a path that the archive says.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bbr.errors import PartDamaged
from bbr.repository import document

INDEX = "index.json"
HOSTS = "hosts"

ARCHIVE_LIMIT_BYTES = 256 * 1024 * 1024
FILE_LIMIT_BYTES = 4 * 1024 * 1024
FILES_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file of a host, or with ``link`` a symbolic link (then ``body`` is empty). ``path`` is absolute."""

    path: PurePosixPath
    mode: int
    uid: int
    gid: int
    body: bytes
    link: str = ""


@dataclass(frozen=True, slots=True)
class HostFiles:
    """All files of each host by its name, and what is known of the cluster."""

    index: Mapping[str, Any]
    hosts: Mapping[str, tuple[HostFile, ...]]


def encode_host_files(archive: HostFiles) -> bytes:
    """The archive's bytes: the same for the same files in any order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, INDEX, document.canonical(dict(archive.index)), mode=0o600)
        for host, files in sorted(archive.hosts.items()):
            for file in sorted(files, key=lambda one: one.path):
                name = f"{HOSTS}/{host}{file.path}"
                _add(tar, name, file.body, mode=file.mode, owner=(file.uid, file.gid), link=file.link)
    return out.getvalue()


def decode_host_files(data: bytes) -> HostFiles:
    """Read an archive. Raises `PartDamaged` for one that bbr would not have written."""
    hosts: dict[str, dict[PurePosixPath, HostFile]] = {}
    index: object = None
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for number, member in enumerate(tar):
                if number >= FILES_LIMIT or member.size > FILE_LIMIT_BYTES:
                    raise PartDamaged("the control-plane archive has more, or larger, files than any master")
                body = _body(tar, member)
                if member.name == INDEX and index is None:
                    index = document.parse(body, error=PartDamaged, what="the control-plane archive's index")
                    continue
                host, file = _placed(member, body)
                if hosts.setdefault(host, {}).setdefault(file.path, file) is not file:
                    raise PartDamaged(f"the control-plane archive has {member.name[:200]!r} twice")
    except (tarfile.TarError, ValueError, EOFError, UnicodeError, OverflowError) as err:
        raise PartDamaged(f"the control-plane archive is no tar: {err}") from err
    if not isinstance(index, dict):
        raise PartDamaged("the control-plane archive has no index")
    return HostFiles(index, {host: tuple(files.values()) for host, files in hosts.items()})


def split_owner(owner: str) -> tuple[int, int]:
    """``uid:gid`` as numbers."""
    uid, _, gid = owner.partition(":")
    return int(uid), int(gid)


def merged(archives: Sequence[HostFiles], index: Mapping[str, Any]) -> HostFiles:
    """Several masters' files as one archive. Their hosts must have different names."""
    hosts = {host: files for archive in archives for host, files in archive.hosts.items()}
    if len(hosts) != sum(len(archive.hosts) for archive in archives):
        raise ValueError("two masters have one name")
    return HostFiles(index, hosts)


def _add(
    tar: tarfile.TarFile, name: str, body: bytes, *, mode: int, owner: tuple[int, int] = (0, 0), link: str = ""
) -> None:
    member = tarfile.TarInfo(name)
    member.mode, (member.uid, member.gid), member.mtime = mode, owner, 0
    if link:
        member.type, member.linkname = tarfile.SYMTYPE, link
    else:
        member.size = len(body)
    tar.addfile(member, io.BytesIO(body))


def _body(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.issym():
        return b""
    stream = tar.extractfile(member) if member.isreg() else None
    if stream is None or member.issparse():
        raise PartDamaged(f"the control-plane archive holds {member.name[:200]!r}, which is neither file nor link")
    body = stream.read(FILE_LIMIT_BYTES + 1)
    if len(body) != member.size:
        raise PartDamaged(f"the control-plane archive is cut in {member.name[:200]!r}")
    return body


def _placed(member: tarfile.TarInfo, body: bytes) -> tuple[str, HostFile]:
    top, _, rest = member.name.partition("/")
    host, _, path = rest.partition("/")
    parts = path.split("/")
    if top != HOSTS or not host or not path or not {"", ".", ".."}.isdisjoint([host, *parts]):
        raise PartDamaged(f"the control-plane archive has a file at {member.name[:200]!r}")
    if member.issym() and not member.linkname:
        raise PartDamaged(f"the control-plane archive has a link to nowhere at {member.name[:200]!r}")
    place = PurePosixPath("/", *parts)
    return host, HostFile(place, member.mode & 0o7777, member.uid, member.gid, body, member.linkname)
