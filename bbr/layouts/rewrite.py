"""Static pods' manifests, and other YAML, changed value by value: everything else in the text stays as it is. Pure.

The text is parsed for where each value begins and ends, and only those places are written anew, in the style that they
had. So comments, order and a person's formatting survive, and a diff shows what changed and nothing else. The result
is parsed again: a text in which that did not give the values that were meant is refused, never written.

A manifest is changed where a host's name or address stands: flags, annotations, hosts of probes, values of the
environment. What an etcd is started with is set, not replaced: its name and the list of members are those of the new
cluster, whatever stood there (a member that once joined has "existing" and the members of that day).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import yaml

from bbr.errors import UsageError
from bbr.layouts.renaming import Renaming

Place = tuple[str | int, ...]
"""Where a value stands: ``("spec", "containers", 0, "command", 3)``."""

Scalars = Mapping[Place, str]
Change = Callable[[Place, str, Scalars], str]
"""A value's new text, from its place, its text, and all values of the document."""

TEXT_LIMIT = 256 * 1024
"""Characters. A manifest or a kubeconfig has some thousands; reading millions takes minutes."""

_NAME_FLAGS = frozenset({"name", "node", "node-name", "nodename", "hostname", "hostname-override"})
_NAME_VARIABLE = re.compile(r"node|host", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/@\s]+@")
_OVERRIDE = re.compile(r"(--hostname-override[= ])([a-z0-9.-]+)")
_Found = tuple[Place, yaml.ScalarNode, bool]


def rewrite_manifest(text: str, renaming: Renaming, *, etcd: Mapping[str, str], what: str) -> str:
    """A static pod's manifest for the new master. ``etcd``: what flags of an etcd in it are set to, where it has them.

    An image keeps its name: it must be the one that is on the host. Raises `UsageError` for what is no YAML.
    """

    def change(place: Place, value: str, scalars: Scalars) -> str:
        if place[-1] == "image":
            return value
        if len(place) > 4 and place[-2] in ("command", "args"):
            return _word(place, value, scalars, renaming, etcd if _is_etcd(place, scalars) else {})
        variable = scalars.get((*place[:-1], "name"), "")
        if place[-1] == "value" and "env" in place and _NAME_VARIABLE.search(variable):
            return renaming.in_text(renaming.name(value))
        return renaming.in_text(value)

    return edit_scalars(text, change, what=what)


def rewrite_flags(text: str, renaming: Renaming) -> str:
    """A file of the kubelet's flags (kubeadm-flags.env, /etc/default/kubelet) or of its unit, for the new master."""
    return _OVERRIDE.sub(lambda found: f"{found[1]}{renaming.name(found[2])}", renaming.in_text(text))


def edit_scalars(text: str, change: Change, *, what: str) -> str:
    """Change values of a YAML document, and nothing else of its text. ``what`` names it in errors.

    Raises `UsageError` for what is not one YAML document, or is written in a way that this cannot change. The error
    shows nothing of the text: it may hold keys.
    """
    found = _scalars(text, what)
    scalars = {place: node.value for place, node, _ in found}
    wanted = [change(place, node.value, scalars) for place, node, _ in found]
    changed = text
    for (place, node, in_flow), value in sorted(zip(found, wanted, strict=True), key=lambda one: -_start(one[0][1])):
        if value != node.value:
            start, end = _start(node), int(node.end_mark.index)
            raw = text[start:end]
            # A block of many lines has its own rules of indentation; its lines are changed as they stand.
            new = change(place, raw, scalars) if node.style in ("|", ">") else _render(value, node.style, in_flow)
            changed = changed[:start] + new + changed[end:]
    if wanted != [node.value for _, node, _ in found] and _values(changed, what) != wanted:
        raise UsageError(
            f"{what} is written in a way that bbr cannot change", hint="write it in block style, as kubeadm does"
        )
    return changed


def difference(path: PurePosixPath, before: str, after: str) -> str:
    """A unified diff of only the lines that change (their neighbours may hold secrets), passwords in URLs masked."""
    old, new = masked(before).splitlines(), masked(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, str(path), str(path), n=0, lineterm=""))


def masked(text: str) -> str:
    """The text with what stands before the @ of a URL hidden."""
    return _PASSWORD.sub("://***@", text)


def _is_etcd(place: Place, scalars: Scalars) -> bool:
    container = place[:-2]
    program = scalars.get((*container, "command", 0), "")
    return scalars.get((*container, "name")) == "etcd" or PurePosixPath(program).name == "etcd"


def _word(place: Place, value: str, scalars: Scalars, renaming: Renaming, settings: Mapping[str, str]) -> str:
    """A word of a command: ``--name=value``, or the value of the ``--name`` before it."""
    if value.startswith("--"):
        flag, equals, old = value.partition("=")
        return f"{flag}={_flag(flag[2:], old, renaming, settings)}" if equals else value
    number = place[-1]
    before = scalars.get((*place[:-1], number - 1), "") if isinstance(number, int) else ""
    if before.startswith("--") and "=" not in before:
        return _flag(before[2:], value, renaming, settings)
    return renaming.in_text(value)


def _flag(name: str, value: str, renaming: Renaming, settings: Mapping[str, str]) -> str:
    if name in settings:
        return settings[name]
    return renaming.in_text(renaming.name(value) if name in _NAME_FLAGS else value)


def _scalars(text: str, what: str) -> Sequence[_Found]:
    if len(text) > TEXT_LIMIT:
        raise UsageError(f"{what} is larger than any of its kind: {len(text):,} characters")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return list(_walk(root, (), False, set())) if root is not None else []
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        mark = getattr(err, "problem_mark", None)
        where = f": line {mark.line + 1}" if mark else ""
        raise UsageError(f"{what} is not one YAML document{where}") from err


def _values(text: str, what: str) -> Sequence[str]:
    return [node.value for _, node, _ in _scalars(text, what)]


def _walk(node: yaml.Node, place: Place, in_flow: bool, seen: set[int]) -> Iterator[_Found]:
    if id(node) in seen:  # an alias: its text stands elsewhere, and following each would take for ever
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield place, node, in_flow
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            yield from _walk(value, (*place, name), in_flow or bool(node.flow_style), seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _walk(value, (*place, number), in_flow or bool(node.flow_style), seen)


def _start(node: yaml.Node) -> int:
    return int(node.start_mark.index)


def _render(value: str, style: str | None, in_flow: bool) -> str:
    if style == '"' or "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    if style != "'" and not in_flow and _is_plain(value):
        return value
    return "'" + value.replace("'", "''") + "'"


def _is_plain(value: str) -> bool:
    try:
        return bool(yaml.safe_load(f"- {value}\n") == [value])
    except (yaml.YAMLError, ValueError):
        return False
