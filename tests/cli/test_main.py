"""The program as a whole: what it loads, how it ends, and what it says when something is wrong."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import pytest

from bbr import __version__, errors
from bbr.cli.main import COMMANDS, run
from bbr.cli.options import output_options

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr

HEAVY = (
    "boto3",
    "cryptography",
    "google",
    "grpc",
    "minio",
    "pydantic",
    "pyrage",
    "rich",
    "structlog",
    "yaml",
    "zstandard",
)
ROOT = Path(__file__).parents[2]


def bbr_process(*arguments: str, code: str = "from bbr.cli.main import main; main()") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.argv = ['bbr', *sys.argv[1:]]; {code}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS), ["restore", "etcd"], ["writer", "add"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "from bbr.cli.main import run; code = run([*sys.argv[1:], '--help']); "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    process = bbr_process(*arguments, code=code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "[]\n")
    assert out.startswith("Usage: bbr")


def test_the_version_is_the_packages(bbr: Bbr) -> None:
    assert bbr("--version").out == f"bbr {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["bakcup"], "there is no command 'bakcup'; did you mean 'backup'?", "`bbr --help`"),
        (["frobnicate"], "there is no command 'frobnicate'", "`bbr --help`"),
        (["--nonsense"], "no such option '--nonsense'", "`bbr --help`"),
        (["list", "--lst", "3"], "no such option '--lst'", "`bbr list --help`"),
        (["list", "--last", "0"], "invalid value for '--last'", "`bbr list --help`"),
        (["list", "-o", "xml"], "'xml' is not one of 'table', 'json'", "`bbr list --help`"),
        (["show"], "missing argument 'ID'", "`bbr show --help`"),
        (["restore", "etdc"], "no such command 'etdc'", "`bbr restore --help`"),
        (["list"], "no repository was named", "give --repo URL"),
        (["list", "--repo", "minio+http://127.0.0.1:1/b/p"], "'b' cannot be a bucket's name", "3 to 63"),
        (["doctor", "--user", "root"], "user and password belong together", "--password-file FILE"),
        (["backup", "--password-file", "p"], "user and password belong together", "--user NAME"),
        (["list", "--repo", "ftp://x/y"], "no store is called ftp://", ""),
        (["list", "--repo", "x", "--repository-id", "short"], "is no repository's id", "64 hex digits"),
        (["list", "--config", "missing.yaml"], "missing.yaml cannot be read", "check --config"),
    ],
)
def test_a_wrong_command_line_gets_one_line_a_hint_and_code_2(
    bbr: Bbr, arguments: list[str], message: str, hint: str
) -> None:
    said = bbr(*arguments)
    assert said.code == 2
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.startswith("bbr: ")
    assert message in first
    assert second.startswith("  hint: ")
    assert hint in second


@pytest.mark.parametrize("arguments", [[], ["restore"], ["writer"]])
def test_nothing_to_do_shows_the_help_on_stderr(bbr: Bbr, arguments: list[str]) -> None:
    said = bbr(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "Commands:" in said.err


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `bbr list` raise ``error``."""

    @click.command("list")
    @output_options
    def command(output: object) -> None:
        raise error

    module = ModuleType("bbr.cli.list")
    monkeypatch.setattr(module, "command", command, raising=False)
    monkeypatch.setitem(sys.modules, "bbr.cli.list", module)


ERRORS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.BbrError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_ends_with_its_code_and_says_what_to_do(
    bbr: Bbr, monkeypatch: pytest.MonkeyPatch, kind: type[errors.BbrError]
) -> None:
    raising(monkeypatch, kind("the disk /var is full", hint="free space"))
    said = bbr("list")
    assert (said.code, said.err) == (kind.exit_code, "bbr: the disk /var is full\n  hint: free space\n")


def test_debug_shows_where_it_happened(bbr: Bbr, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, errors.StoreError("the store is gone"))
    assert "Traceback" not in bbr("list").err
    said = bbr("list", "--debug")
    assert (said.code, "Traceback" in said.err) == (1, True)
    assert said.err.endswith("bbr: the store is gone\n")


def test_an_error_of_the_system_names_the_file(bbr: Bbr, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, PermissionError(13, "Permission denied", "/var/lib/bbr"))
    said = bbr("list")
    assert (said.code, said.err.splitlines()[0]) == (1, "bbr: /var/lib/bbr: Permission denied")


def test_a_mistake_of_ours_is_not_hidden(bbr: Bbr, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyError("x"))
    with pytest.raises(KeyError):
        bbr("list")


def test_ctrl_c_ends_with_130_and_one_line(bbr: Bbr, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    said = bbr("list")
    assert (said.code, said.err.strip()) == (130, "bbr: interrupted")


def bbr_list(body: str, *, before: str = "", hangups: str = "SIG_DFL") -> subprocess.Popen[str]:
    """A process whose `bbr list` does ``body``. It meets SIGHUP as told, whatever this run was started under."""
    code = (
        "import click, fcntl, os, signal, sys, termios, threading, types\n"
        "from pathlib import Path\n"
        "from bbr.cli.main import main\n"
        "from bbr.scratch import scratch_folder\n"
        f"signal.signal(signal.SIGHUP, signal.{hangups})\n"
        f"{before}\n"
        "@click.command('list')\n"
        "def command():\n"
        f"{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "sys.modules['bbr.cli.list'] = types.ModuleType('bbr.cli.list')\n"
        "sys.modules['bbr.cli.list'].command = command\n"
        "main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "list"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_from_outside_cleans_up_and_ends_with_130(number: signal.Signals) -> None:
    process = bbr_list(
        """
        try:
            print('begun', flush=True); threading.Event().wait(60)
        finally:
            print('cleaned up', flush=True)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "cleaned up\n", "bbr: interrupted")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_the_signals_that_follow_a_stop_do_not_cut_the_cleaning_up_short(
    first: signal.Signals, second: signal.Signals
) -> None:
    process = bbr_list(
        """
        try:
            print('begun', flush=True); threading.Event().wait(60)
        finally:
            print('cleaning', flush=True); sys.stdin.readline(); print('cleaned up', flush=True)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(first)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(second)
    out, err = process.communicate("go on\n", timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "cleaned up\n", "bbr: interrupted")


def test_under_nohup_a_hangup_stops_nothing() -> None:
    process = bbr_list("print('begun', flush=True); print(sys.stdin.readline(), end='')", hangups="SIG_IGN")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate("done\n", timeout=30)
    assert (process.returncode, out, err) == (0, "done\n", "")


def test_a_terminal_that_goes_away_leaves_no_plaintext_and_no_noise(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    take_terminal = (
        "os.setsid()\n"
        f"terminal = os.open({os.ttyname(theirs)!r}, os.O_RDWR)\n"
        "fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)\n"
        "os.dup2(1, 9)\n"
        "[os.dup2(terminal, number) for number in (0, 1, 2)]\n"
        "os.environ['TERM'] = 'xterm'"
    )
    process = bbr_list(
        f"""
        from bbr.cli.display import progress_on
        with progress_on(sys.stderr) as progress, scratch_folder(Path({str(tmp_path)!r})) as folder:
            progress.step('spooling')
            (folder / 'secret').write_text('plain')
            os.write(9, b'begun\\n')
            threading.Event().wait(60)
        """,
        before=take_terminal,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert len(list(tmp_path.iterdir())) == 1
    os.close(theirs)
    os.close(ours)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_that_nobody_can_be_told_of_is_a_stop() -> None:
    process = bbr_list("print('begun', flush=True); threading.Event().wait(60)")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "begun\n"
    process.stderr.close()  # as in `bbr list 2>&1 | tee log`, where Ctrl-C ends tee first
    process.stderr = None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_reader_that_has_seen_enough_is_no_reason_for_noise() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-c", "from bbr.cli.main import main; main()", "completion", "bash"],
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_the_exit_code_of_help_is_0() -> None:
    assert run(["--help"]) == 0
