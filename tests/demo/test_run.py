"""The guided tour against real servers: what it shows, and that it would not be shown a lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from bbr.demo.keyspace import Keyspace
from bbr.demo.run import Tools, compare, tour
from bbr.demo.step import Step
from bbr.errors import VerificationFailed
from bbr.etcd.tools import find_etcdutl
from bbr.etcd.write import delete, put
from bbr.progress import Silent
from bbr.servers.binaries import find
from bbr.servers.etcd import start_etcd
from bbr.stores.memory import MemoryStore
from bbr.stores.store import Store

ROOT = Path(__file__).parents[2]
OBJECTS = 600


@pytest.fixture
def tools(search: Sequence[Path]) -> Tools:
    etcd = find("etcd", search=search, version="3.6")
    return Tools(etcd, find_etcdutl(search, server_version=etcd.version))


def in_memory(running: ExitStack) -> Store:
    return MemoryStore()


def named(steps: Iterator[Step], word: str) -> Step:
    return next(step for step in steps if word in step.what)


def test_the_tour_ends_with_everything_equal(tools: Tools, tmp_path: Path) -> None:
    steps = list(tour(tools, tmp_path, objects=OBJECTS, open_place=in_memory, progress=Silent()))
    base, increment = named(iter(steps), "first backup"), named(iter(steps), "second backup")
    assert int(increment.figures["stored_bytes"]) < int(base.figures["stored_bytes"]) / 10
    assert "all equal" in steps[-1].detail
    assert not (tmp_path / "etcd" / "m0.etcd").exists()


@pytest.mark.parametrize("change", ["a key too many", "a key too few", "another value"])
def test_a_restored_etcd_that_differs_is_found(tools: Tools, tmp_path: Path, change: str) -> None:
    keyspace = Keyspace()
    with start_etcd(tools.etcd.path, tmp_path, flags=["--unsafe-no-fsync"]) as servers, servers.client() as client:
        for written in keyspace.create(100):
            put(client, written.written.key, written.written.value)
        first = next(one for one in keyspace.contents() if not one.leased)
        if change == "a key too many":
            put(client, b"/registry/more", b"")
        elif change == "a key too few":
            delete(client, first.key)
        else:
            put(client, first.key, first.value + b"\0")
        with pytest.raises(VerificationFailed):
            compare(client, keyspace)


def bbr_demo(folder: Path, *flags: str) -> subprocess.Popen[str]:
    # Under nohup it would rightly ignore SIGHUP.
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); from bbr.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--objects", str(OBJECTS), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def test_the_command_prints_each_step_and_leaves_nothing(tmp_path: Path) -> None:
    process = bbr_demo(tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("HashKV") == 2
    assert "Everything came back, byte for byte" in out
    assert "bbr init" in err
    assert list(tmp_path.iterdir()) == []


def test_the_report_for_a_program_has_every_step(tmp_path: Path) -> None:
    process = bbr_demo(tmp_path, "-o", "json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["schema"], report["equal"]) == ("bbr.demo/1", True)
    assert len(report["steps"]) == 12


def test_it_goes_through_a_real_minio_too(tmp_path: Path) -> None:
    process = bbr_demo(tmp_path, "--store", "minio")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Everything came back, byte for byte" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (signal.SIGINT, 1),
        (signal.SIGINT, 2),
        (signal.SIGINT, 4),
        (signal.SIGINT, 8),
        (signal.SIGTERM, 4),
        (signal.SIGHUP, 1),
        (signal.SIGHUP, 4),
        (signal.SIGHUP, 8),
    ],
)
def test_a_stop_at_any_step_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, lines: int) -> None:
    process = bbr_demo(tmp_path)
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "bbr: interrupted")
    assert list(tmp_path.iterdir()) == []
    assert running_in(tmp_path) == []


def test_what_a_killed_demo_left_is_swept_by_the_next(tmp_path: Path) -> None:
    killed = bbr_demo(tmp_path)
    assert killed.stdout is not None
    for _ in range(4):
        assert killed.stdout.readline()
    killed.kill()
    killed.communicate(timeout=60)
    (left,) = tmp_path.iterdir()
    deadline = time.monotonic() + 20
    while running_in(tmp_path):  # the kernel kills its etcd with it, a moment later
        assert time.monotonic() < deadline
        time.sleep(0.02)
    following = bbr_demo(tmp_path)
    assert following.stdout is not None
    assert following.stdout.readline()
    assert not left.exists()
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


def running_in(folder: Path) -> list[str]:
    """The command lines of processes that have something to do with ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_without_etcd_it_says_what_is_missing(tmp_path: Path) -> None:
    code = "from bbr.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"],
        env={"PATH": "/nonexistent", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 5
    assert done.stderr.startswith("bbr: etcd is not on this machine\n  hint: ")
