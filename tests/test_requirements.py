"""The lock: whole, hashed, and free of where it was made."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent
LOCK = (PROJECT / "requirements.lock").read_text()
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))


def name_of(requirement: str) -> str:
    """The distribution's name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ;]", requirement)[0]).lower()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = {name_of(one) for one in project["dependencies"] + project["optional-dependencies"]["dev"]}
    assert wanted - LOCKED.keys() == set()


def test_what_an_editable_install_without_isolation_needs_is_locked() -> None:
    assert {"hatchling", "editables", "pip", "setuptools"} <= LOCKED.keys()


def test_every_line_is_a_pinned_version_a_hash_or_a_comment() -> None:
    form = re.compile(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?|\s*#.*|")
    assert [line for line in LOCK.splitlines() if not form.fullmatch(line)] == []


def test_every_requirement_has_a_hash() -> None:
    assert [name for name in LOCKED if not re.search(rf"^{name}==\S+ \\\n    --hash=", LOCK, re.MULTILINE)] == []


def test_no_host_and_no_folder_is_named() -> None:
    assert re.findall(r"\w+://\S+|^#.*\.(?:com|org|net|io)\b.*|(?<!\w)/\w+/\S+", LOCK, re.MULTILINE) == []
