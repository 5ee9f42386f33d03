"""The keys by which an API server knows service-account tokens: which it has, and one more for it. Pure.

A token that was issued before a disaster is signed with the key of that day. An API server takes tokens of every key
that ``--service-account-key-file`` names; the flag may stand several times, and a file may hold several keys.
Source: kube-apiserver's flag help, k8s.io/client-go's util/keyutil.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml

from bbr.errors import UsageError
from bbr.layouts.staticpod import StaticPod

FLAG = "--service-account-key-file"

_LINE = re.compile(rf"^(?P<head>\s*-\s+)(?P<quote>[\"']?){FLAG}=(?P<path>[^\"'\s]+)(?P=quote)\s*$", re.MULTILINE)
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One more file of keys: ``path`` on the host, and the API server's manifest that names it."""

    path: PurePosixPath
    body: bytes
    manifest: str


def key_files(manifest: str) -> tuple[PurePosixPath, ...]:
    """The files that the flag names, as the container sees them."""
    try:
        containers = yaml.safe_load(manifest)["spec"]["containers"]
        words = [str(word) for one in containers for word in (*(one.get("command") or ()), *(one.get("args") or ()))]
    except (yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(PurePosixPath(word.partition("=")[2]) for word in words if word.startswith(f"{FLAG}="))


def keys_in(bodies: Iterable[bytes]) -> frozenset[bytes]:
    """Every key (PEM) of these files, without what stands between them."""
    return frozenset(b"".join(found[0].split()) for body in bodies for found in _BLOCK.finditer(body))


def with_keys(manifest: str, pod: StaticPod, lacking: Iterable[bytes], *, what: str) -> KeyFile:
    """One more file, beside the last one that the manifest names, with the keys of these bodies.

    Raises `UsageError` where the manifest names none in a line of its own, or that folder is not mounted.
    """
    body = b"".join(found[0] + b"\n" for one in lacking for found in _BLOCK.finditer(one))
    lines = list(_LINE.finditer(manifest))
    if not lines:
        raise UsageError(f"{what} has no line with {FLAG}=", hint="add one that names sa.pub of the backup by hand")
    last = lines[-1]
    inside = PurePosixPath(last["path"]).parent / f"sa-{hashlib.sha256(body).hexdigest()[:12]}.pub"
    if not any(inside.is_relative_to(mount.inside) for mount in pod.mounts):
        raise UsageError(f"{what}: {inside.parent} is not mounted", hint="mount sa.pub of the backup by hand")
    line = f"\n{last['head']}{last['quote']}{FLAG}={inside}{last['quote']}"
    changed = f"{manifest[: last.end()]}{line}{manifest[last.end() :]}"
    if key_files(changed) != (*key_files(manifest), inside):
        raise UsageError(f"{what} is written in a way that bbr cannot change", hint="write it as kubeadm does")
    return KeyFile(pod.on_host(inside), body, changed)
