"""The files that a configuration file names: kubeconfigs, admission, authorization, egress, cloud.conf. Pure.

Kinds of configuration come and go, and each names files under keys of its own (``certificate-authority``,
``kubeConfigFile``, ``caBundle``, ``path``). So no kind is known here: every text in a YAML or JSON document that is an
absolute path counts, and so does every value of an INI file that is one; whoever asks looks which of them are files. A
kubeconfig may name its files relative to itself; those keys are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import yaml

BODY_LIMIT_BYTES = 1024 * 1024
"""No configuration is larger; what is, is not read for names."""

_PATH_LIMIT = 4096
_DEPTH_LIMIT = 30
_RELATIVE_KEYS = frozenset({"certificate-authority", "client-certificate", "client-key", "tokenFile"})
_INI_VALUE = re.compile(r"^\s*[A-Za-z][\w.-]*\s*=\s*\"?(/[^\"\s]+)\"?\s*$", re.MULTILINE)


def named_files(path: PurePosixPath, body: bytes) -> frozenset[PurePosixPath]:
    """Every path that the file ``path`` with this body names. Empty for keys, certificates and what is no text."""
    if len(body) > BODY_LIMIT_BYTES or body.startswith(b"-----BEGIN"):
        return frozenset()
    try:
        text = body.decode()
        documents = list(yaml.safe_load_all(text))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError):
        documents = []
    found = {place for document in documents for place in _places(document, path.parent, _DEPTH_LIMIT)}
    if not found and not any(isinstance(document, dict | list) for document in documents):
        found = {PurePosixPath(match) for match in _INI_VALUE.findall(body.decode(errors="replace"))}
    return frozenset(found - {path})


def _places(value: object, folder: PurePosixPath, depth: int, key: str = "") -> Iterator[PurePosixPath]:
    if depth == 0:
        return
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _places(one, folder, depth - 1, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from _places(one, folder, depth - 1)
    elif isinstance(value, str) and value and len(value) <= _PATH_LIMIT and value.isprintable():
        if value.startswith("/") and value.strip("/"):
            yield PurePosixPath(value)
        elif key in _RELATIVE_KEYS:
            yield folder / value
