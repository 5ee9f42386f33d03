"""Two EncryptionConfigurations made one: an API server writes as before, and reads what another one wrote. Pure.

    mine      stays: its resources, its providers, and above all the first of them, which is what is written with
    theirs    its keys go behind the first provider of every entry, for reading only

Where both call a key alike and it is not the same key, mine gets another name: the name of theirs stands in every
value that it sealed. Values that were sealed with mine under the old name must be gone, as they are when etcd's data is
replaced. What is not encrypted by mine at all, and is by theirs, gets an entry that writes in the clear as before.
Source: k8s.io/apiserver's EncryptionConfiguration (the first provider writes, each is tried for reading).
"""

from __future__ import annotations

import base64
import binascii
import copy
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import yaml

from bbr.errors import UsageError

_BY_KEY = ("aescbc", "aesgcm", "secretbox")
_KMS, _IDENTITY = "kms", "identity"
_RENAMED = "-new"
_HIDDEN = "***"

Document: TypeAlias = dict[str, Any]


def merge_read_keys(mine: bytes, theirs: bytes, *, what: str) -> bytes:
    """``mine`` with the keys of ``theirs``; just ``mine`` where it has them all.

    Raises `UsageError` for what is no EncryptionConfiguration; ``what`` names mine there. No error shows a key.
    """
    document, other = _read(mine, what), _read(theirs, "the backup's encryption configuration")
    before = copy.deepcopy(document)
    _rename_clashing(document, other)
    for entry in document["resources"]:
        lacking = list(_lacking(entry, other["resources"]))
        entry["providers"][1:1] = lacking
    for entry in other["resources"]:
        unknown = [one for one in entry["resources"] if not _is_covered(one, document["resources"])]
        if unknown:
            document["resources"].append({"resources": unknown, "providers": [{_IDENTITY: {}}, *_sealing(entry)]})
    if document == before:
        return mine
    return yaml.safe_dump(document, sort_keys=False).encode()


def masked_difference(path: str, before: bytes, after: bytes) -> str:
    """A unified diff of two configurations, by what they say, with every secret hidden. "" where they say the same."""
    old, new = _masked(before).splitlines(), _masked(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, path, path, n=0, lineterm=""))


def _read(body: bytes, what: str) -> Document:
    try:
        document = yaml.safe_load(body)
        for entry in document["resources"]:
            if not entry["providers"] or not all(isinstance(one, str) for one in entry["resources"]):
                raise UsageError(f"{what} has an entry without providers or resources")
            for _, key in _keys(entry):
                base64.b64decode(key["secret"], validate=True)
    except (yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError, binascii.Error, ValueError) as err:
        raise UsageError(f"{what} is not an EncryptionConfiguration ({type(err).__name__})") from err
    return dict(document)


def _keys(entry: Document) -> Iterator[tuple[str, Document]]:
    """(provider, key) of every key that is in the file itself."""
    for one in entry["providers"]:
        for provider in _BY_KEY:
            for key in (one.get(provider) or {}).get("keys") or ():
                yield provider, key


def _rename_clashing(document: Document, other: Document) -> None:
    wanted = {(kind, str(key["name"])): key["secret"] for entry in other["resources"] for kind, key in _keys(entry)}
    mine = [(kind, key) for entry in document["resources"] for kind, key in _keys(entry)]
    taken = {str(key["name"]) for _, key in mine} | {name for _, name in wanted}
    for kind, key in mine:
        name = str(key["name"])
        held = {one["secret"] for other_kind, one in mine if other_kind == kind and str(one["name"]) == name}
        # Where mine has theirs too, beside its own of that name, it was merged before, or reads both as it is.
        if wanted.get((kind, name), key["secret"]) == key["secret"] or wanted[kind, name] in held:
            continue
        while name in taken:
            name += _RENAMED
        key["name"] = name


def _lacking(entry: Document, theirs: Sequence[Document]) -> Iterator[Document]:
    """The providers that an entry needs to read what any of theirs sealed, with only the keys that it has not got."""
    held = {(kind, str(key["name"]), key["secret"]) for kind, key in _keys(entry)}
    services = {str(one[_KMS].get("name")) for one in entry["providers"] if one.get(_KMS)}
    for other in theirs:
        for one in _sealing(other):
            if _KMS in one:
                if str(one[_KMS].get("name")) not in services:
                    services.add(str(one[_KMS].get("name")))
                    yield one
                continue
            ((kind, section),) = one.items()
            new = [key for key in section["keys"] if (kind, str(key["name"]), key["secret"]) not in held]
            held |= {(kind, str(key["name"]), key["secret"]) for key in new}
            if new:
                yield {kind: {**section, "keys": new}}


def _sealing(entry: Document) -> Iterator[Document]:
    """The providers of an entry that encrypt, each a new value."""
    for one in entry["providers"]:
        for kind in (*_BY_KEY, _KMS):
            if one.get(kind):
                yield {kind: copy.deepcopy(one[kind])}


def _is_covered(resource: str, entries: Sequence[Document]) -> bool:
    """Whether an entry is for this resource (``secrets``, ``deployments.apps``), by its name or by a wildcard."""
    _, _, group = resource.partition(".")
    names = {name for entry in entries for name in entry["resources"]}
    return bool(names & {resource, "*.*", f"*.{group}"})


def _masked(body: bytes) -> str:
    document = _read(body, "an encryption configuration")
    for entry in document["resources"]:
        for _, key in _keys(entry):
            key["secret"] = _HIDDEN
    return yaml.safe_dump(document, sort_keys=False)
