"""`bbr lab` as a person uses it: hosts come up, answer over SSH, and go without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")

PROGRAM = "import sys; from bbr.cli.main import main; sys.argv[0] = 'bbr'; main()"


def bbr(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A process of its own: `bbr lab ssh` becomes another program."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("labs")
    made = bbr("lab", "up", "rehearsal", "--hosts", "2", "--base", folder)
    try:
        assert made.returncode == 0, made.stderr
        assert f"bbr lab ssh --base {folder} rehearsal host-1" in made.stderr
        yield folder
    finally:
        down = bbr("lab", "down", "rehearsal", "--base", folder)
    assert down.returncode == 0, down.stderr
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []


def test_a_lab_outlives_the_command_that_made_it(base: Path) -> None:
    listed = json.loads(bbr("lab", "status", "--base", base, "-o", "json").stdout)
    (lab,) = listed["labs"]
    assert (listed["schema"], lab["name"]) == ("bbr.lab/1", "rehearsal")
    assert [(host["name"], host["state"]) for host in lab["hosts"]] == [("host-1", "on"), ("host-2", "on")]


def test_a_command_runs_on_a_host_and_its_code_is_ours(base: Path) -> None:
    there = bbr("lab", "ssh", "--base", base, "rehearsal", "host-2", "hostname")
    assert (there.returncode, there.stdout) == (0, "host-2\n")
    assert bbr("lab", "ssh", "--base", base, "rehearsal", "host-1", "exit", "7").returncode == 7
    assert bbr("lab", "ssh", "--base", base, "rehearsal", "host-1", "getent", "hosts", "host-2").returncode == 0


def test_a_host_that_is_not_there_is_exit_2_and_those_that_are_are_named(base: Path) -> None:
    ended = bbr("lab", "ssh", "--base", base, "rehearsal", "host-9", "true")
    assert ended.returncode == 2
    assert ended.stderr == "bbr: lab rehearsal has no host 'host-9'\n  hint: its hosts: host-1, host-2\n"


def test_a_lab_that_is_not_there_is_exit_5_and_those_that_are_are_named(base: Path) -> None:
    for words in (["status", "other"], ["down", "other"]):
        ended = bbr("lab", *words, "--base", base)
        assert ended.returncode == 5
        assert "hint: labs that are there: rehearsal" in ended.stderr


def test_a_name_that_is_taken_is_exit_5_and_what_has_it_stays(base: Path) -> None:
    ended = bbr("lab", "up", "rehearsal", "--base", base)
    assert ended.returncode == 5
    assert "there is a lab rehearsal in" in ended.stderr
    assert bbr("lab", "ssh", "--base", base, "rehearsal", "host-1", "true").returncode == 0
