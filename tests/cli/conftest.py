"""The command line as a person uses it: run in this process, in a folder of its own, with what it printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bbr.cli.main import run
from bbr.servers.binaries import testbed_cache


@dataclass(frozen=True, slots=True)
class Said:
    """How one command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Bbr = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands run in; state and home lie below it. The real servers are where they were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(testbed_cache(os.environ).parents[1]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def bbr(here: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Bbr]:
    """Run one command line."""

    def called(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    yield called


@pytest.fixture
def repository(bbr: Bbr, here: Path) -> Path:
    """A repository in ./repository, its keys in ./keys, a configuration that names it and a state folder."""
    said = bbr("init", "--repo", "repository", "--keys-dir", "keys", "--writer", "m1", "--state-dir", "state")
    assert said.code == 0, said.err
    (here / "bbr.yaml").write_text(
        "repository: repository\ncluster: prod\nwriter_key: keys/writer-m1.key\nstate_dir: state\n", encoding="utf-8"
    )
    return here / "repository"
