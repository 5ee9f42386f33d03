"""``bbr completion``: the script that a shell reads to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from bbr.cli.options import output_options
from bbr.cli.output import Output, Report

SCHEMA = "bbr.completion/1"
SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@output_options
@click.pass_context
def command(context: click.Context, *, shell: str, output: Output) -> None:
    """Print a script that lets the shell complete commands and options.

    \b
    Examples:
      # bash: for this session, or for all of them
      source <(bbr completion bash)
      bbr completion bash > /etc/bash_completion.d/bbr
      # zsh: in a folder of your $fpath
      bbr completion zsh > ~/.zfunc/_bbr
      # fish
      bbr completion fish > ~/.config/fish/completions/bbr.fish
    """
    root = context.find_root()
    script = completion_script(root.command, root.info_name or "bbr", shell)
    output.report(Report(SCHEMA, {"shell": shell, "script": script}, [script]))


def completion_script(program: click.Command, name: str, shell: str) -> str:
    """The script for one shell. The program completes itself when the shell calls it with a variable set."""
    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"no completion for {shell}")
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    # The base class's method: bash's own also runs bash, to look at its version.
    return ShellComplete.source(completer(program, {}, name, variable)).rstrip("\n")
