"""Signed documents as bytes: canonical JSON, and records that are checked field by field.

Canonical means: UTF-8, keys sorted, no spaces, no escapes that are not needed, whole numbers only. There is one text
for each value, and a reader refuses every other: so a duplicate key, a number written differently or a flipped byte is
found before anything looks at the content. Types, patterns, ranges and counts are checked here, unknown keys refused;
what `decode` returns needs no further look at its shape. Hostile input ends in the caller's error, nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Generic, TypeAlias, TypeVar

from bbr.errors import VerificationFailed

T = TypeVar("T")

Check: TypeAlias = Callable[[object], T]
"""Takes a JSON value, returns the checked one; raises `VerificationFailed` with what is wrong with it."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}Z")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def canonical(value: object) -> bytes:
    """The one text of a JSON value of dicts, lists, texts, whole numbers, booleans and None."""
    return _ENCODER.encode(value).encode()


def encode(record: object) -> bytes:
    """A dataclass as canonical JSON: its fields by their names, tuples as lists, times in whole seconds of UTC."""
    return canonical(_plain(record))


def parse(data: bytes, *, error: type[VerificationFailed], what: str) -> object:
    """Read canonical JSON. ``what`` names the document in ``error``. The caller bounds the size."""
    try:
        value: object = _DECODER.decode(data.decode())
        same = canonical(value) == data
    except (ValueError, RecursionError) as err:  # no UTF-8, no JSON, a fraction, 5,000 digits, nested deeply
        raise error(f"{what} is not a JSON document of whole numbers and texts") from err
    if not same:
        raise error(f"{what} is not in canonical form: it was changed, or not written by bbr")
    return value


def decode(data: bytes, record: Record[T], *, error: type[VerificationFailed], what: str) -> T:
    """Read canonical JSON as one record. ``what`` names the document in ``error``. The caller bounds the size."""
    value = parse(data, error=error, what=what)
    try:
        return record(value)
    except VerificationFailed as err:
        raise error(f"{what}: {err}", hint=err.hint) from err


class Record(Generic[T]):
    """A `Check` for a dataclass: a JSON object with exactly these fields."""

    __slots__ = ("_converted", "build", "fields")

    def __init__(self, build: Callable[..., T], fields: Mapping[str, Check[object]]) -> None:
        self.build = build
        self.fields = fields
        converters = ((name, _converter(check)) for name, check in fields.items())
        self._converted = tuple((name, convert) for name, convert in converters if convert is not None)

    def __call__(self, value: object) -> T:
        if not isinstance(value, dict) or value.keys() != self.fields.keys():
            raise VerificationFailed(_keys_differ(value, self.fields))
        checked: dict[str, object] = {}
        name = ""
        try:
            for name, check in self.fields.items():
                checked[name] = check(value[name])
        except VerificationFailed as err:
            raise VerificationFailed(f"{name}: {err}") from err
        return self.build(**checked)

    def believed(self, value: Any) -> T:
        """The same without a check, several times as fast: for what was checked before and kept by us. Uses it up.

        Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` for what was never checked.
        """
        for name, convert in self._converted:
            value[name] = convert(value[name])
        return self.build(**value)


def matching(pattern: str) -> Check[str]:
    """A text that matches a pattern as a whole."""
    fullmatch = re.compile(pattern).fullmatch

    def check(value: object) -> str:
        if not isinstance(value, str) or not fullmatch(value):
            raise VerificationFailed(f"{_shown(value)} does not have the form {pattern}")
        return value

    return check


def text(limit: int, *, empty: bool = False) -> Check[str]:
    """One line of at most ``limit`` printable characters: what reaches a terminal has no escapes in it."""

    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > limit or not value.isprintable() or not (value or empty):
            raise VerificationFailed(f"{_shown(value)} is not one line of up to {limit} printable characters")
        return value

    return check


def integer(low: int, high: int) -> Check[int]:
    """A whole number from ``low`` to ``high``."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise VerificationFailed(f"{_shown(value)} is not a whole number from {low} to {high}")
        return value

    return check


def boolean(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise VerificationFailed(f"{_shown(value)} is neither true nor false")
    return value


def time(value: object) -> datetime:
    """A UTC time in whole seconds: ``2026-01-02T03:04:05Z``."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError as err:  # the 31st of February
            raise VerificationFailed(f"{_shown(value)} is not a time") from err
    raise VerificationFailed(f"{_shown(value)} is not a time")


def optional(check: Check[T]) -> Check[T | None]:
    """Null, or what ``check`` takes."""
    return _Optional(check)


def many(check: Check[T], limit: int) -> Check[tuple[T, ...]]:
    """A list of at most ``limit`` of what ``check`` takes, as a tuple."""
    return _Many(check, limit)


def one_line(value: str, limit: int) -> str:
    """``value`` made fit for a `text` field: what is not printable becomes a space, what is too long is cut."""
    return "".join(c if c.isprintable() else " " for c in value[:limit]).strip()


class _Optional(Generic[T]):
    __slots__ = ("_check", "_convert")

    def __init__(self, check: Check[T]) -> None:
        self._check = check
        self._convert = _converter(check)

    def __call__(self, value: object) -> T | None:
        return None if value is None else self._check(value)

    def believed(self, value: Any) -> Any:
        return value if value is None or self._convert is None else self._convert(value)


class _Many(Generic[T]):
    __slots__ = ("_check", "_convert", "_limit")

    def __init__(self, check: Check[T], limit: int) -> None:
        self._check = check
        self._convert = _converter(check)
        self._limit = limit

    def __call__(self, value: object) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > self._limit:
            raise VerificationFailed(f"not a list of at most {self._limit}")
        return tuple([self._check(item) for item in value])

    def believed(self, value: Any) -> tuple[Any, ...]:
        convert = self._convert
        return tuple(value) if convert is None else tuple([convert(item) for item in value])


def _converter(check: Check[object]) -> Callable[[Any], Any] | None:
    """What turns a value that ``check`` took into what it returned; None where that is the value itself."""
    if check is time:
        return datetime.fromisoformat
    return check.believed if isinstance(check, Record | _Optional | _Many) else None


def _fraction(value: str) -> object:
    raise ValueError(f"not a whole number: {value[:20]}")


_DECODER = json.JSONDecoder(parse_float=_fraction, parse_constant=_fraction)


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat()}Z"
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _field_names(type(value))}
    return value


def _keys_differ(value: object, expected: Mapping[str, Check[object]]) -> str:
    if not isinstance(value, dict):
        return f"{_shown(value)} is not an object"
    missing = sorted(expected.keys() - value.keys())
    unknown = sorted(value.keys() - expected.keys())
    return "; ".join(
        [f"{name} is missing" for name in missing] + [f"{_shown(name)} is not known" for name in unknown[:3]]
    )


def _shown(value: object) -> str:
    return ascii(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"
