"""Command lines on a directory store that end with SIGKILL at a chosen call. Run as a program, for many of them.

Reads a JSON list of [call, when, arguments] from stdin: the number of the call to the store (from 1; 0: none),
"before", "during" or "after", and the command line. Each runs in a fork, so that all is imported once. Prints a JSON
list of [exit code, calls made]; a code below 0 is a signal, and then nobody counted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import bbr.cli.init
import bbr.cli.writer
import bbr.repository.administration
import bbr.stores.url
from bbr.cli.main import run
from bbr.stores.directory import DirectoryStore
from tests.killed_backup import KillingStore


def end_at(call: int, when: str, arguments: Sequence[str]) -> tuple[int, int]:
    """Run one command line in a process of its own. Returns how it ended, and how many calls it made."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_RDWR)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code, calls = _counted(call, when, arguments)
        os.write(writer, str(calls).encode())
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as counted:
        told = counted.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(told or 0)


def _counted(call: int, when: str, arguments: Sequence[str]) -> tuple[int, int]:
    stores: list[KillingStore] = []

    def open_killing(root: Path) -> KillingStore:
        stores.append(KillingStore(DirectoryStore(root), call, when, root))
        return stores[-1]

    vars(bbr.stores.url)["DirectoryStore"] = open_killing  # in this process only
    return run(arguments), sum(store.calls for store in stores)


if __name__ == "__main__":
    sys.stdout.write(json.dumps([end_at(*one) for one in json.load(sys.stdin)]))
