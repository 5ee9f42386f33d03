"""A YAML file that a person wrote, read strictly: keys once, values of plain kinds, errors with file and line."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bbr.errors import UsageError

FILE_LIMIT_BYTES = 1024 * 1024
DEPTH_LIMIT = 8


class Strict(BaseModel):
    """A section: no key that is not declared, no value of another type than the declared one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Section = TypeVar("Section", bound=Strict)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content: plain values, and the nodes that know their lines."""

    path: Path
    value: object
    root: yaml.Node | None
    is_private: bool
    """Whether nobody but root and this user can write it: then programs that it names may be run."""

    def error(self, place: Sequence[int | str], what: str, *, hint: str = "") -> UsageError:
        """What is wrong at a place of the file."""
        return UsageError(f"{self.path}, line {_line(_find(self.root, place))}: {what}", hint=hint)

    def checked(self, model: type[Section], *, hint: str) -> Section:
        """The values of the file by a model. Raises `UsageError` for the first that does not fit."""
        try:
            return model.model_validate(self.value)
        except ValidationError as err:
            raise self._explained(model, err, hint) from err

    def _explained(self, model: type[Strict], err: ValidationError, hint: str) -> UsageError:
        problems = err.errors(include_url=False)
        first = problems[0]
        place = first["loc"]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what = ".".join(map(str, place)) or "the file"
        if first["type"] == "extra_forbidden":
            known = _keys_at(model, place[:-1])
            near = difflib.get_close_matches(str(place[-1]), known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"the keys here are: {', '.join(known)}"
            return self.error(place, f"unknown key {what!r}{more}", hint=meant)
        said = first["msg"].replace("Input should be", f"{what} should be")
        wrong = f"{what} is missing" if first["type"] == "missing" else said if what in said else f"{what}: {said}"
        return self.error(place, f"{wrong}{more}", hint=hint)


def read_document(path: Path) -> Document:
    """Read one file. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            body = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror}") from err
    if len(body) > FILE_LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {FILE_LIMIT_BYTES:,} bytes")
    root = _parsed(path, body)
    value = _value(path, root) if root is not None else {}
    others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return Document(path, value, root, not others and about.st_uid in (0, os.geteuid()))


def _parsed(path: Path, body: bytes) -> yaml.Node | None:
    try:
        return yaml.compose(body.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as err:
        raise UsageError(f"{path} is not text in UTF-8") from err
    except yaml.MarkedYAMLError as err:
        line = f", line {err.problem_mark.line + 1}" if err.problem_mark else ""
        raise UsageError(f"{path}{line}: not YAML: {err.problem}") from err
    except (yaml.YAMLError, RecursionError) as err:
        raise UsageError(f"{path}: not YAML: {type(err).__name__}") from err


def _value(path: Path, node: yaml.Node, depth: int = 0) -> object:
    """The plain value of a node. YAML itself lets the last of two equal keys win; here the second is an error."""
    if depth > DEPTH_LIMIT:
        raise UsageError(f"{path}, line {_line(node)}: nested too deep")
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
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, yaml.YAMLError) as err:
        raise UsageError(f"{path}, line {_line(node)}: {node.value!r} is not a value") from err


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


def _keys_at(model: type[Strict], place: Sequence[int | str]) -> list[str]:
    """The keys that a section may have: found through the models of the sections above it."""
    schema = model.model_json_schema()
    node = schema
    for step in place:
        ruled = [*node.get("patternProperties", {}).values(), node.get("additionalProperties") or {}]
        node = node.get("properties", {}).get(str(step)) or ruled[0]
        for one in (node, *node.get("anyOf", ())):
            if "$ref" in one:
                node = schema["$defs"][one["$ref"].rsplit("/", 1)[-1]]
    return list(node.get("properties", {}))
