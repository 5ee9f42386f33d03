"""docs/commands.md and docs/configuration.md name everything that there is, and nothing that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bbr import errors
from bbr.cli.config import ConfigFile, EtcdSection, read_config
from bbr.cli.main import COMMANDS, cli

DOCS = Path(__file__).parents[2] / "docs"
SHARED = {"--config", "--repo", "--repository-id", "--state-dir", "--output", "--debug"}
"""Options that the page describes once, for all commands."""


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    context = click.Context(group, info_name=name)
    for called in group.list_commands(context):
        command = group.get_command(context, called)
        assert command is not None, called
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {called}")
        else:
            yield f"{name} {called}", command


ALL = dict(commands(cli, "bbr"))


def sections() -> dict[str, str]:
    """The text of docs/commands.md by heading."""
    pieces = re.split(r"^## (.+)$", (DOCS / "commands.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {"": pieces[0]} | dict(zip(pieces[1::2], pieces[2::2], strict=True))


def options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option)]


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_each_of_its_options_has_its_place_in_the_page(name: str) -> None:
    section = sections()[name]
    common = sections()["What holds for all of them"]
    for option in options(ALL[name]):
        for text in option.opts:
            place = common if option.opts[0] in SHARED else section
            assert re.search(rf"`{text}(?![\w-])", place), f"{name} {text}"


@pytest.mark.parametrize("name", ALL)
def test_the_page_names_no_option_that_a_command_does_not_have(name: str) -> None:
    known = {text for option in options(ALL[name]) for text in option.opts}
    rows = [row for row in sections()[name].splitlines() if row.startswith("| `-")]
    named = {text for row in rows for text in re.findall(r"`(--?[a-z][a-z-]*)", row.split(" | ")[0])}
    assert named <= known


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_that_ends_with_examples_of_itself(name: str) -> None:
    help_text = ALL[name].help or ""
    assert "Example" in help_text
    assert f"{name} " in help_text.split("Example")[1] + " "


@pytest.mark.parametrize("name", ALL)
def test_every_option_says_what_it_is(name: str) -> None:
    assert [option.name for option in options(ALL[name]) if not option.help] == []


def test_the_summaries_of_the_program_are_those_of_its_commands() -> None:
    context = click.Context(cli, info_name="bbr")
    for name, lazy in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert (command.help or "").splitlines()[0] == lazy.summary


def test_every_key_of_the_configuration_is_described() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for key in (*ConfigFile.model_fields, *EtcdSection.model_fields):
        assert f"`{key}`" in text


def test_the_configuration_that_the_page_shows_is_one(tmp_path: Path) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(shown) == 1
    path = tmp_path / "bbr.yaml"
    path.write_text(shown[0], encoding="utf-8")
    config = read_config(path)
    assert config.cluster == "production"
    assert len(config.etcd["main"].endpoints) == 3


def test_every_exit_code_is_in_the_table() -> None:
    codes = {
        one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.BbrError)
    }
    text = sections()["What holds for all of them"]
    for code in codes | {0, 130}:
        assert f"\n| {code} |" in text
