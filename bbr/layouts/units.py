"""Which command a systemd unit runs: its lines, its drop-ins, its environment. Pure.

Source: systemd.syntax(7) (lines, quoting), systemd.service(5) (command lines), systemd.exec(5) (``Environment=``,
``EnvironmentFile=``). Specifiers (``%i``) say what only systemd knows: a command with one is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from bbr.errors import UsageError

_PREFIXES = "@-:+!"
_ESCAPES = dict(zip("abfnrtv\\\"'s", "\a\b\f\n\r\t\v\\\"' ", strict=True))
_NUMBERED = re.compile(r"x([0-9A-Fa-f]{2})|([0-7]{3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_VARIABLE = re.compile(r"\$\$|\$\{(\w+)\}")
_WHOLE_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)", re.ASCII)
_SPECIFIER = re.compile(r"%(.?)")
_BLANK = " \t\r\n"


@dataclass(frozen=True, slots=True)
class EnvironmentFile:
    """A file of variables; one that is ``optional`` need not be there."""

    path: PurePosixPath
    optional: bool


@dataclass(frozen=True, slots=True)
class Unit:
    """What counts of a unit: its command's words with variables still in them, and where these come from.

    ``program`` is the last part of the command's path, "" where there is none. ``expands`` is False for a command whose
    variables are left alone (``:``).
    """

    program: str
    command: tuple[str, ...]
    expands: bool
    environment: Mapping[str, str]
    files: tuple[EnvironmentFile, ...]
    is_installable: bool

    def words(self, read: Mapping[PurePosixPath, str], *, what: str) -> tuple[str, ...]:
        """The command as it is run, given its environment files' text. Raises `UsageError` for a specifier."""
        words = tuple(_without_specifiers(word, what) for word in self.command)
        if not self.expands or not words:
            return words
        variables = self.variables(read, what=what)
        return (words[0], *(one for word in words[1:] for one in _expanded(word, variables, what)))

    def variables(self, read: Mapping[PurePosixPath, str], *, what: str) -> dict[str, str]:
        """Its environment: files count more than ``Environment=``, and later ones more than earlier ones."""
        merged = {name: _without_specifiers(value, what) for name, value in self.environment.items()}
        for file in self.files:
            merged |= parse_environment(read.get(file.path, ""))
        return merged


def parse_unit(texts: Iterable[str], *, what: str) -> Unit:
    """A unit's file, then its drop-ins in their order. Raises `UsageError` for quotes and escapes that are wrong."""
    command: list[str] = []
    expands, installable = True, False
    environment: dict[str, str] = {}
    files: list[EnvironmentFile] = []
    for section, name, value in (line for text in texts for line in _lines(text)):
        installable = installable or section == "Install"
        if section != "Service":
            continue
        if name == "ExecStart":
            command, expands = _command(value, what) if value else ([], True)
        elif name == "Environment":
            pairs = [word.partition("=") for word in split_words(value, what=what)]
            environment = environment | {key: text for key, _, text in pairs} if value else {}
        elif name == "EnvironmentFile":
            files = [*files, _file(value, what)] if value else []
    program = PurePosixPath(command[0]).name if command else ""
    return Unit(program, tuple(command), expands, environment, tuple(files), installable)


def split_words(text: str, *, what: str) -> list[str]:
    """Words with their quotes and escapes taken away. Raises `UsageError` for those that are not systemd's."""
    return [word for word, _ in _split(text, what)]


def parse_environment(text: str) -> dict[str, str]:
    """The variables of an environment file, as systemd reads it: not as a shell does."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        line = text[at : end if end >= 0 else len(text)].lstrip(_BLANK)
        start = text.find("=", at)
        if not line or line[0] in "#;" or "=" not in line:
            at = len(text) if end < 0 else end + 1
            continue
        name = text[at:start].strip(_BLANK)
        value, at = _value(text, start + 1)
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            found[name] = value
    return found


def quote_word(word: str) -> str:
    """A word as it is written in ``ExecStart=`` so that it arrives as it is. Raises `UsageError` for a line break."""
    if not word.isprintable():
        raise UsageError(f"{word!r} cannot be a word of a unit's command")
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"'


def unit_text(description: str, command: Sequence[str]) -> str:
    """A unit that runs one command until it is stopped; nothing starts it after a reboot."""
    words = " ".join(quote_word(word) for word in command)
    return f"[Unit]\nDescription={description.replace('%', '%%')}\n\n[Service]\nExecStart={words}\nRestart=no\n"


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    """Section, name and value of every setting; a line that ends in a backslash goes on in the next."""
    section, held = "", ""
    for line in [*text.splitlines(), ""]:
        stripped = line.strip(_BLANK)
        if stripped.startswith(("#", ";")):
            continue
        if stripped.endswith("\\"):
            held += stripped[:-1] + " "
            continue
        whole, held = (held + stripped).strip(_BLANK), ""
        if whole.startswith("[") and whole.endswith("]"):
            section = whole[1:-1]
        elif "=" in whole:
            name, _, value = whole.partition("=")
            yield section, name.strip(_BLANK), value.strip(_BLANK)


def _command(value: str, what: str) -> tuple[list[str], bool]:
    split = _split(value, what)
    if (";", True) in split:  # more commands follow, in a unit that runs once
        split = split[: split.index((";", True))]
    words = [word for word, _ in split]
    bare = words[0].lstrip(_PREFIXES) if words else ""
    prefixes = words[0][: len(words[0]) - len(bare)] if words else ""
    return [bare, *words[2 if "@" in prefixes else 1 :]], ":" not in prefixes


def _split(text: str, what: str) -> list[tuple[str, bool]]:
    """Words, and whether each stands there as it is, without quotes or escapes."""
    words: list[tuple[str, bool]] = []
    word, bare = None, True
    quote, at = "", 0
    while at < len(text):
        char, at = text[at], at + 1
        if char == "\\":
            escaped, at = _escape(text, at, what)
            word, bare = (word or "") + escaped, False
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote, word, bare = char, word or "", False
        elif not quote and char in _BLANK:
            words += [] if word is None else [(word, bare)]
            word, bare = None, True
        else:
            word = (word or "") + char
    if quote:
        raise UsageError(f"{what}: a quotation has no end")
    return words if word is None else [*words, (word, bare)]


def _file(value: str, what: str) -> EnvironmentFile:
    path = _without_specifiers(value.removeprefix("-").strip(_BLANK).strip("\"'"), what)
    if not path.startswith("/") or any(char in path for char in "*?["):
        raise UsageError(f"{what}: EnvironmentFile={value} names no single file", hint="name each file by itself")
    return EnvironmentFile(PurePosixPath(path), value.startswith("-"))


def _escape(text: str, at: int, what: str) -> tuple[str, int]:
    char = text[at : at + 1]
    if char == ";":  # a word of its own: a semicolon that ends no command
        return ";", at + 1
    if char in _ESCAPES and char:
        return _ESCAPES[char], at + 1
    numbered = _NUMBERED.match(text, at)
    try:
        if numbered:
            base = 8 if numbered[2] else 16
            return chr(int(next(filter(None, numbered.groups())), base)), numbered.end()
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{what}: \\{char} is no escape that systemd knows", hint="write a backslash as \\\\")


def _without_specifiers(text: str, what: str) -> str:
    for match in _SPECIFIER.finditer(text):
        if match[1] != "%":
            raise UsageError(
                f"{what}: {match[0]} stands for what only systemd knows", hint="write what it means into a drop-in"
            )
    return text.replace("%%", "%")


def _expanded(word: str, variables: Mapping[str, str], what: str) -> list[str]:
    whole = _WHOLE_VARIABLE.fullmatch(word)
    if whole:
        return split_words(variables.get(whole[1], ""), what=what)
    return [_VARIABLE.sub(lambda found: variables.get(found[1], "") if found[1] else "$", word)]


def _value(text: str, at: int) -> tuple[str, int]:
    """The value that begins at ``at``, and where the next line does. Quotes count at its beginning only."""
    while at < len(text) and text[at] in " \t\r":
        at += 1
    quote = text[at : at + 1]
    if quote in ("'", '"'):
        return _quoted(text, at + 1, quote)
    value = ""
    while at < len(text) and text[at] != "\n":
        if text[at] == "\\":
            value += "" if text[at + 1 : at + 2] == "\n" else text[at + 1 : at + 2]
            at += 1
        else:
            value += text[at]
        at += 1
    return value.rstrip(_BLANK), at + 1


def _quoted(text: str, at: int, quote: str) -> tuple[str, int]:
    value = ""
    while at < len(text) and text[at] != quote:
        following = text[at + 1 : at + 2]
        if quote == '"' and text[at] == "\\" and following and following in '"\\`$\n':
            value += "" if following == "\n" else following
            at += 1
        else:
            value += text[at]
        at += 1
    end = text.find("\n", at)
    return value, len(text) if end < 0 else end + 1
