"""How sizes, times and counts are written for a person: three digits are enough, and units are decimal."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count_bytes: float) -> str:
    """Bytes in decimal units: ``512 B``, ``4.1 kB``, ``160 MB``."""
    value, power = float(count_bytes), 0
    while value >= 999.5 and power < len(_UNITS) - 1:
        value /= 1000
        power += 1
    digits = 0 if power == 0 or value >= 99.95 else 1
    return f"{value:.{digits}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """A length of time: ``40 ms``, ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(time: datetime) -> str:
    """A time in UTC, to the second: ``2026-01-02 03:04:05Z``. Without the space it is what a backup's ID may be."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def plural(count: int, noun: str) -> str:
    """``1 backup``, ``12,000 backups``; for nouns that take an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
