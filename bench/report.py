"""What the bench found: a table for a person, and JSON with every run, size and version."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench import cases
from bench.cluster import ETCD_VERSION, programs

PACKAGES = (
    *("boto3", "click", "cryptography", "google-crc32c", "grpcio", "minio", "protobuf", "pyrage", "xxhash"),
    "zstandard",
)


def table(results: Sequence[cases.Result]) -> str:
    """The table that the README shows."""
    lines = ["| case | bbr | stock tools | figure | limit | | peak memory |", "|---|---|---|---|---|---|---|"]
    for one in results:
        ours = f"{one.ours_s:.2f} s" if one.ours_s is not None else ""
        theirs = f"{one.theirs_s:.2f} s" if one.theirs_s is not None else ""
        figure, limit = (_figure(value, one.unit) for value in (one.figure, one.limit))
        state = "ok" if one.is_met else "MISSED"
        peak = f"{one.anonymous_bytes / 1e6:,.0f} MB" if one.anonymous_bytes else ""
        lines.append(f"| {one.name} | {ours} | {theirs} | {figure} | {limit} | {state} | {peak} |")
    return "\n".join(lines) + "\n"


def document(results: Sequence[cases.Result], database_bytes: Mapping[str, int], options: Mapping[str, object]) -> str:
    """Everything, for a program. ``database_bytes`` is the size of each etcd's file, by its number of objects."""
    content = {
        "schema": "bbr.bench/1",
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "database_bytes": dict(database_bytes),
        "machine": {
            "processors": os.cpu_count(),
            "processor": _processor(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "etcd": ETCD_VERSION,
            **_programs(),
            **{package: version(package) for package in PACKAGES},
        },
        "results": [cases.as_json(result) for result in results],
    }
    return json.dumps(content, indent=1) + "\n"


def _figure(value: float, unit: str) -> str:
    if unit in ("B", "MB"):
        return f"{value:,.0f} {unit}"
    return f"{value:.3g} {unit}".strip()


def _programs() -> dict[str, str]:
    """What the programs of the comparison say of themselves."""
    found = programs()
    return {
        name: subprocess.run([str(path), "--version"], capture_output=True, text=True, check=True).stdout.strip()
        for name, path in (("age", found.age), ("zstd", found.zstd))
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
