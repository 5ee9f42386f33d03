"""Versions of etcd whose faults can spoil what a backup holds, or a restore of it.

Source: etcd's changelogs for 3.4, 3.5 and 3.6, and its notices of 2022 about 3.5.0 to 3.5.2.
"""

from __future__ import annotations

import re

_FAULTS: tuple[tuple[tuple[int, int, int], tuple[int, int, int], str], ...] = (
    ((3, 5, 0), (3, 5, 3), "a crash can leave members with different data"),
    ((3, 5, 0), (3, 5, 6), "a crash during defragmentation can damage the database"),
    ((3, 5, 0), (3, 5, 12), "a delete may be applied differently on members"),
    ((3, 4, 0), (3, 4, 32), "the revision can go back after a crash during compaction"),
    ((3, 5, 0), (3, 5, 14), "the revision can go back after a crash during compaction"),
    ((3, 4, 0), (3, 4, 34), "a watch can miss a delete around a compaction"),
    ((3, 5, 0), (3, 5, 16), "a watch can miss a delete around a compaction"),
    ((3, 5, 0), (3, 5, 23), "a snapshot that arrives during a defragmentation can be lost"),
    ((3, 6, 0), (3, 6, 5), "a snapshot that arrives during a defragmentation can be lost"),
)
"""(first version with the fault, first version without it, the fault)."""


def version_warning(version: str) -> str:
    """One sentence that names what is known against this version, or nothing. ``version`` is like "3.5.9"."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None:
        return f"etcd reports the version {version!r}, of which nothing is known"
    own = (int(numbers[1]), int(numbers[2]), int(numbers[3]))
    known = [(fixed, fault) for first, fixed, fault in _FAULTS if first <= own < fixed]
    if not known:
        return ""
    newest = ".".join(map(str, max(fixed for fixed, _ in known)))
    return f"etcd {version} has known faults, mended in {newest}: {'; '.join(fault for _, fault in known)}"
