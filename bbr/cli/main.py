"""The program: finds the command, runs it, and turns what it raises into a message, a hint and an exit code.

Commands are loaded when they are needed, so that ``bbr --help`` and shell completion are quick; the one-line summaries
below are what the commands' own help begins with, and a test compares them. Exit codes: docs/commands.md.
"""

from __future__ import annotations

import difflib
import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import cast

import click

from bbr import __version__
from bbr.cli.output import Output, print_error
from bbr.errors import BbrError

INTERRUPTED = 130
FAILED = 1
USAGE = 2

_STDERR = 2
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_COLLECT_AFTER = 50_000
"""New objects between two looks for rings of garbage. Ten thousand manifests are a million objects and no ring: at
Python's 700, looking at them again and again is a quarter of a listing's time."""

NAMES = ("bbr", "bbr-dr")
"""What the program is installed as. The second name is for hosts where another ``bbr`` lives."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is not loaded yet: its module, whose attribute ``command`` it is, and its summary."""

    module: str
    summary: str


COMMANDS: Mapping[str, Lazy] = {
    "init": Lazy("bbr.cli.init", "Make a repository, its recovery identities and a writer key."),
    "backup": Lazy("bbr.cli.backup", "Back a cluster up: its etcd, and on a kubeadm master the control plane's files."),
    "list": Lazy("bbr.cli.list", "List the backups in the repository."),
    "show": Lazy("bbr.cli.show", "Show one backup: its chain, sizes, revisions and members."),
    "verify": Lazy("bbr.cli.verify", "Prove that a backup can be restored."),
    "restore": Lazy("bbr.cli.restore", "Bring a cluster, or one etcd, back from a backup."),
    "writer": Lazy("bbr.cli.writer", "Say which hosts may write backups."),
    "doctor": Lazy("bbr.cli.doctor", "Check everything that a backup or a restore will need."),
    "iaas": Lazy("bbr.cli.iaas", "Say where machines come from, and give back what runs left."),
    "lab": Lazy("bbr.cli.lab", "Make hosts on this machine, to rehearse a disaster on."),
    "demo": Lazy("bbr.cli.demo", "Back up, destroy and restore a throw-away etcd, and compare every key."),
    "completion": Lazy("bbr.cli.completion", "Print a script that lets the shell complete commands and options."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called, not when the group's help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load one command."""
        if cmd_name not in COMMANDS:
            return None
        return cast(click.Command, importlib.import_module(COMMANDS[cmd_name].module).command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name for one that is unknown."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, from their summaries alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`bbr COMMAND --help` has examples of each. Start with `bbr demo`, then `bbr init`.",
)
@click.version_option(__version__, prog_name="bbr", message="%(prog)s %(version)s")
def cli() -> None:
    """Back up Kubernetes clusters, and bring them back.

    bbr takes etcd to encrypted object storage and restores it exactly: signed, compared with the live servers when it
    is taken, and proven again whenever you ask.

    \b
    Examples:
      bbr demo
      bbr init --repo s3://backups/clusters
      bbr backup --config /etc/bbr/bbr.yaml
      bbr list
      bbr restore etcd latest --identity recovery-1.txt --to-snapshot etcd.db
    """


def main() -> None:
    """Run the program and end it with its exit code."""
    _open_closed_streams()
    _heed_stops()
    gc.set_threshold(_COLLECT_AFTER)
    code = run(sys.argv[1:], program=Path(sys.argv[0]).name)
    if code == INTERRUPTED:
        # Whoever pressed Ctrl-C waits for no thread that hangs in the network; files were cleaned up on the way here.
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str], *, program: str = NAMES[0]) -> int:
    """Run one command line. Returns the exit code; with ``--debug`` errors come with their traceback."""
    try:
        try:
            result = cli.main(
                list(arguments), prog_name=program if program in NAMES else NAMES[0], standalone_mode=False
            )
            if sys.stdout is not None:
                sys.stdout.flush()
        except (BbrError, click.ClickException, OSError):
            if "--debug" in arguments:
                _print_traceback()
            raise
    except BbrError as err:
        print_error(str(err), err.hint)
        return err.exit_code
    except click.ClickException as err:
        _print_usage_error(err)
        return USAGE
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except OSError as err:
        if _is_stopped_in_silence(err):
            return _interrupted()
        if isinstance(err, BrokenPipeError):
            # Whoever read our output has seen enough. Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        print_error(f"{err.filename or 'the system'}: {err.strerror or err}", "run it again with --debug to see where")
        return FAILED
    return result if isinstance(result, int) else 0


def _open_closed_streams() -> None:
    """Started without stdin, stdout or stderr (``>&-``): the next file that is opened must not become one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        continue
    os.close(descriptor)


def _heed_stops() -> None:
    """A polite kill and a dropped connection clean up as Ctrl-C does.

    What was ignored at the start stays ignored: nohup does that with SIGHUP, a shell's ``&`` with SIGINT.
    """
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    # A connection that drops sends SIGHUP more than once, from the kernel and from the shell, and systemd sends SIGTERM
    # along with it: none of those may cut the cleaning up short. A person who presses Ctrl-C again may.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupted() -> int:
    with suppress(OSError):  # the terminal may be gone, and whoever read our stderr stopped with us
        print_error("interrupted")
    return INTERRUPTED


def _is_stopped_in_silence(err: OSError) -> bool:
    """Whether this is a stop that could not be announced: on the way out, a terminal or a pipe had gone already."""
    before: BaseException | None = err
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None and err.errno in (errno.EIO, errno.EPIPE)


def _print_usage_error(err: click.ClickException) -> None:
    if isinstance(err, click.exceptions.NoArgsIsHelpError):
        Output().note(err.format_message())
        return
    message = err.format_message()
    context = err.ctx if isinstance(err, click.UsageError) else None
    hint = f"`{context.command_path} --help` shows what there is" if context else ""
    print_error(message[:1].lower() + message[1:].rstrip("."), hint)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()
