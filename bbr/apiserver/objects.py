"""Objects of Kubernetes as plain data: fields that may be missing, and objects kept to be put back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bbr.apiserver.client import ApiServer, Object
from bbr.errors import Conflict, NotFoundObject

_GIVEN_BY_SERVER = ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields", "selfLink")


@dataclass(frozen=True, slots=True)
class Saved:
    """An object as it was before we removed or changed it: its ``path``, and all of it.

    Whoever has it keeps it before the change, with `text`. It may be a Secret: it is not in its ``repr``.
    """

    path: str
    object: Object = field(repr=False)

    def text(self) -> str:
        """As JSON, which kubectl takes too."""
        return json.dumps(self.object, indent=1, sort_keys=True) + "\n"


def saved_from_text(path: str, text: str) -> Saved:
    """What `Saved.text` wrote."""
    return Saved(path, json.loads(text))


def at(source: Mapping[str, Any], *keys: str) -> Any:
    """A field within fields; None when one of them is not there."""
    found: Any = source
    for key in keys:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def text_at(source: Mapping[str, Any], *keys: str) -> str:
    """A field of text; empty when it is not there."""
    found = at(source, *keys)
    return found if isinstance(found, str) else ""


def items_at(source: Mapping[str, Any], *keys: str) -> Sequence[Object]:
    """A field that is a list of objects; empty when it is not there."""
    found = at(source, *keys)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def name_of(source: Mapping[str, Any]) -> str:
    """An object's name."""
    return text_at(source, "metadata", "name")


def uid_of(source: Mapping[str, Any]) -> str:
    """An object's uid."""
    return text_at(source, "metadata", "uid")


def read(api: ApiServer, path: str) -> Saved:
    """An object, to be kept. Raises `NotFoundObject`."""
    return Saved(path, api.get(path))


def read_all(api: ApiServer, paths: Iterable[str]) -> tuple[Saved, ...]:
    """The objects of these paths, to be kept, less those that do not exist."""
    found = []
    for path in paths:
        with suppress(NotFoundObject):
            found.append(read(api, path))
    return tuple(found)


def remove(api: ApiServer, saved: Saved) -> bool:
    """Delete the very object that was saved; False when it is gone. Raises `Conflict` when another has its name."""
    return api.delete(saved.path, uid=uid_of(saved.object) or None)


def delete_all(api: ApiServer, saved: Iterable[Saved]) -> int:
    """Delete what was saved; returns how many were there. Raises `Conflict` for one that is new since."""
    return sum(remove(api, one) for one in saved)


def put_back(api: ApiServer, saved: Saved) -> bool:
    """Create an object again that was removed. False when one of its name is there; that is left as it is.

    It gets a new uid: objects that belong to it by the old one are no more its own.
    """
    body = {**saved.object, "metadata": dict(saved.object.get("metadata") or {})}
    body.pop("status", None)
    for key in _GIVEN_BY_SERVER:
        body["metadata"].pop(key, None)
    try:
        api.create(saved.path.rpartition("/")[0], body)
    except Conflict:
        return False
    return True
