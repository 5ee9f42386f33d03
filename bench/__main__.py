"""`make bench`: every case in one run, a table for a person, and all figures as JSON.

Ratios are what counts: both sides run in turn on the same machine, so that a slow moment hits both. No run is dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from bench import cases
from bench.cluster import ETCD_VERSION, programs, site
from bench.listing import listing

ROUNDS = 10
"""Rounds of churn, each a pair of incremental backup and snapshot."""

PACKAGES = ("boto3", "cryptography", "grpcio", "minio", "pyrage", "zstandard")


def main() -> int:
    """Run the cases that were asked for. Returns 1 when a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--objects", type=int, default=300_000, help="objects in etcd; 300,000 are a gigabyte")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
    parser.add_argument("--increments", type=int, default=24, help="increments in the restored chain")
    parser.add_argument("--backups", type=int, default=10_000, help="backups that are listed")
    parser.add_argument("--only", choices=["first", "incremental", "restore", "list", "help"], action="append")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where all figures go")
    options = parser.parse_args()
    chosen = options.only or ["first", "incremental", "restore", "help", "list"]
    results: list[cases.Result] = []
    with tempfile.TemporaryDirectory(prefix="bbr-bench-") as name:
        folder = Path(name)
        size = 0
        if set(chosen) - {"list"}:
            told(f"loading {options.objects:,} objects into etcd {ETCD_VERSION}")
            with site(folder, options.objects) as here:
                size = here.client.status().db_size_bytes
                told(f"the database has {size / 1e9:.2f} GB")
                if "first" in chosen:
                    results += cases.first_backup(here, options.pairs, told)
                if "incremental" in chosen:
                    results += cases.incremental_backup(here, max(options.pairs, ROUNDS), told)
                if "restore" in chosen:
                    results += cases.restore(here, options.pairs, told, increments=options.increments)
                if "help" in chosen:
                    results += cases.help_text(here, options.pairs, told)
            results.append(cases.memory(results))
        if "list" in chosen:
            results += listing(folder, programs().bbr, options.backups, options.pairs, told)
    options.json.write_text(json.dumps(document(results, size, options.pairs), indent=1) + "\n")
    sys.stdout.write(table(results))
    told(f"all figures: {options.json}")
    return 0 if all(result.is_met for result in results) else 1


def document(results: list[cases.Result], db_bytes: int, pairs: int) -> dict[str, object]:
    """Everything, for a program."""
    return {
        "schema": "bbr.bench/1",
        "database_bytes": db_bytes,
        "pairs": pairs,
        "processors": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "etcd": ETCD_VERSION,
            **{package: version(package) for package in PACKAGES},
        },
        "results": [cases.as_json(result) for result in results],
    }


def table(results: list[cases.Result]) -> str:
    """The table that the README shows."""
    lines = ["| case | bbr | stock tools | figure | limit | |", "|---|---|---|---|---|---|"]
    for one in results:
        ours = f"{one.ours_s:.2f} s" if one.ours_s is not None else ""
        theirs = f"{one.theirs_s:.2f} s" if one.theirs_s is not None else ""
        figure, limit = (f"{value:,.3g} {one.unit}".strip() for value in (one.figure, one.limit))
        if one.unit in ("B", "MB"):
            figure, limit = f"{one.figure:,.0f} {one.unit}", f"{one.limit:,.0f} {one.unit}"
        state = "met" if one.is_met else "MISSED"
        lines.append(f"| {one.name} | {ours} | {theirs} | {figure} | {limit} | {state} |")
    return "\n".join(lines) + "\n"


def told(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
