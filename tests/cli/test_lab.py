"""`bbr lab` as a person uses it: hosts come up, answer over SSH, and go without a trace."""

from __future__ import annotations

import json
import os
import re
import shlex
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


def test_hosts_and_nodes_are_not_mixed_up_and_nothing_is_made(tmp_path: Path) -> None:
    for words, hint in (
        (["--masters", "1"], "hint: add --tier fast or --tier true"),
        (["--tier", "fast", "--hosts", "1"], "hint: leave --hosts out"),
    ):
        ended = bbr("lab", "up", "cluster", "--base", tmp_path, *words)
        assert (ended.returncode, hint in ended.stderr) == (2, True), ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_cluster_comes_up_and_the_commands_that_are_named_work(tmp_path: Path) -> None:
    made = bbr("lab", "up", "cluster", "--tier", "fast", "--workers", "1", "--base", tmp_path)
    try:
        assert made.returncode == 0, made.stderr
        look, end = (shlex.split(line)[1:] for line in made.stderr.splitlines() if line.startswith("  bbr "))
        nodes = bbr(*look)
        assert nodes.returncode == 0, nodes.stderr
        assert re.findall(r"^(\S+) +Ready", nodes.stdout, re.MULTILINE) == ["master-1", "worker-1"]
        (lab,) = json.loads(bbr("lab", "status", "--base", tmp_path, "-o", "json").stdout)["labs"]
        assert lab["names"] == {"api.lab": "master-1"}
    finally:
        down = bbr("lab", "down", "cluster", "--base", tmp_path)
    assert (down.returncode, end) == (0, ["lab", "down", "--base", str(tmp_path), "cluster"])


def test_a_cluster_that_does_not_come_up_stays_to_be_looked_at(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("kubeadm", "kubectl", "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        (tools / name).write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    made = bbr("lab", "up", "broken", "--tier", "fast", "--bin-dir", tools, "--base", tmp_path / "labs")
    try:
        assert made.returncode == 5, made.stderr
        assert "\nbbr: " in made.stderr
        assert f"take it down with `bbr lab down --base {tmp_path / 'labs'} broken`" in made.stderr
    finally:
        down = bbr("lab", "down", "broken", "--base", tmp_path / "labs")
    assert down.returncode == 0, down.stderr
