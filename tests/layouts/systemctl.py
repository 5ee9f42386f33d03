"""A stand-in of systemctl, for hosts and roots whose init is not systemd: what it starts it runs for real."""

from __future__ import annotations

from pathlib import Path


def standin() -> str:
    """The program: a shell script."""
    return (Path(__file__).parent / "systemctl_standin.sh").read_text()
