"""Shell completion: the scripts, and the answers that they ask the program for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Bbr

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("shell", "sign"),
    [("bash", "complete -o nosort -F _bbr_completion bbr"), ("zsh", "#compdef bbr"), ("fish", "--command bbr")],
)
def test_each_shell_gets_its_script(bbr: Bbr, shell: str, sign: str) -> None:
    said = bbr("completion", shell)
    assert said.code == 0
    assert sign in said.out
    assert "_BBR_COMPLETE" in said.out


def test_another_shell_is_refused(bbr: Bbr) -> None:
    assert bbr("completion", "tcsh").code == 2


def test_bash_takes_the_script(bbr: Bbr) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-n"], input=bbr("completion", "bash").out, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bbr ba", {"backup"}),
        ("bbr re", {"restore"}),
        ("bbr restore ", {"apply", "clean", "etcd", "plan", "status", "undo"}),
        ("bbr writer ", {"add", "list", "revoke"}),
        ("bbr verify --lev", {"--level"}),
        ("bbr verify --level b", {"bootable"}),
        ("bbr list -o ", {"table", "json"}),
    ],
)
def test_the_program_completes_itself(line: str, expected: set[str]) -> None:
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'bbr'; from bbr.cli.main import main; main()"],
        env={**os.environ, "_BBR_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        text=True,
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stderr == ""
    assert {answer.partition(",")[2] for answer in done.stdout.splitlines()} == expected
