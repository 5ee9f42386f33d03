"""Commands on a host of the lab, by the stock ssh and the lab's own ssh_config."""

from __future__ import annotations

import subprocess
from datetime import timedelta

from bbr.errors import PreconditionFailed, ToolMissing
from bbr.lab.lab import Lab

_TIME = timedelta(seconds=120)
_TAIL_LINES = 12


def run(lab: Lab, host: str, script: str, *, stdin: str | bytes = "", timeout: timedelta = _TIME) -> str:
    """What a script for the host's shell prints. A secret goes by ``stdin``: the script can be seen by all.

    It runs below the host's sshd, so that what it starts is in the host's cgroups. Raises `PreconditionFailed` with
    the end of what it said, and `ToolMissing` without an ssh.
    """
    body = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(
            ["ssh", "-F", str(lab.ssh_config), host, script],  # noqa: S607 - wherever this user has it
            input=body,
            capture_output=True,
            timeout=timeout.total_seconds(),
            check=False,
        )
    except FileNotFoundError as err:
        raise ToolMissing("a lab's hosts are reached by ssh, and there is none", hint="apt-get install ssh") from err
    except subprocess.TimeoutExpired as err:
        raise PreconditionFailed(f"host {host}: `{_first_line(script)}` was not done after {timeout}") from err
    out = done.stdout.decode(errors="replace")
    if done.returncode:
        said = (out + done.stderr.decode(errors="replace")).strip() or f"it ended with {done.returncode}"
        tail = "\n".join(said.splitlines()[-_TAIL_LINES:])
        raise PreconditionFailed(f"host {host}: `{_first_line(script)}`: {tail}")
    return out


def _first_line(script: str) -> str:
    return script.strip().partition("\n")[0]
