"""The rebuild of a lost control plane as a person sees it: a real cluster, the real command lines, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bbr.cli.demo import command
from bbr.errors import UsageError
from tests.lab.conftest import traces

ROOT = Path(__file__).parents[2]
LIMIT_S = 280
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")


def bbr_demo(folder: Path, *flags: str) -> subprocess.Popen[str]:
    code = "from bbr.cli.main import main; main()"
    (folder / "scratch").mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--cluster", "--base", str(folder / "labs"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "scratch")},
    )


def lab_name(folder: Path) -> str:
    """Once its label is written."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := list((folder / "labs").glob("*/label.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[0].parent.name


def check_nothing_left(folder: Path, name: str) -> None:
    assert traces(name, folder / "labs") == []
    assert list((folder / "scratch").iterdir()) == []


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_master_comes_back_and_everything_is_proven_and_gone(tmp_path: Path) -> None:
    process = bbr_demo(tmp_path, "-o", "json")
    name = lab_name(tmp_path)
    out, err = process.communicate(timeout=580)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["schema"], report["equal"]) == ("bbr.demo-cluster/1", True)
    (applied,) = (step for step in report["steps"] if "api_ready_s" in step)
    assert 0 < applied["api_ready_s"] <= applied["seconds"]
    assert "take everything down" in report["steps"][-1]["what"]
    check_nothing_left(tmp_path, name)


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("until", ["", "restore apply"])
def test_a_stop_leaves_nothing_behind(tmp_path: Path, until: str) -> None:
    process = bbr_demo(tmp_path)
    name = lab_name(tmp_path)
    assert process.stdout is not None
    while until and until not in process.stdout.readline():
        assert process.poll() is None
    if until:  # bbr itself is at work then, and must have ended before its lab goes
        journals = tmp_path / "scratch"
        deadline = time.monotonic() + LIMIT_S
        while not any(journals.glob(".bbr-scratch-*/state/restores/*/journal.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.strip().endswith("bbr: interrupted")
    check_nothing_left(tmp_path, name)


@pytest.mark.parametrize(
    "words", [("--cluster", "--store", "minio"), ("--cluster", "--objects", "500"), ("--base", "x")]
)
def test_options_of_the_other_demo_are_refused(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(command, list(words))
    assert isinstance(done.exception, UsageError)
