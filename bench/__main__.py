"""`make bench`: every case in one run, a table for a person, and all figures as JSON.

Ratios are what counts: both sides run in turn on the same machine, so that a slow moment hits both. No run is dropped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import cases, report
from bench.cluster import ETCD_VERSION, Site, programs, site
from bench.listing import listing
from bench.rebuild import rebuild

INCREMENTAL_PAIRS = 10
"""At least so many rounds of churn, each a pair of incremental backup and snapshot."""

BIG = 4
"""So many times the objects for --big."""

ON_ETCD = (cases.FIRST, cases.INCREMENTAL, cases.RESTORE)


def main() -> int:
    """Run the cases that were asked for. Returns 1 when a limit is missed."""
    options = _options()
    chosen = options.only or [*ON_ETCD, cases.HELP, cases.LIST]
    results: list[cases.Result] = []
    sizes: dict[str, int] = {}
    if set(chosen) - {cases.LIST, cases.REBUILD}:
        with _loaded(options.objects, sizes) as here:
            if cases.FIRST in chosen:
                results += cases.first_backup(here, options.pairs, told)
            if cases.INCREMENTAL in chosen:
                results += cases.incremental_backup(here, max(options.pairs, INCREMENTAL_PAIRS), told)
            if cases.RESTORE in chosen:
                results += cases.restore(here, options.pairs, told, increments=options.increments)
            if cases.HELP in chosen:
                results += cases.help_text(here, options.pairs, told)
        results += cases.memory(results)
    if options.big:
        with _loaded(BIG * options.objects, sizes) as here:
            results += cases.growth(here, results, told, increments=options.increments)
    if cases.LIST in chosen:
        with tempfile.TemporaryDirectory(prefix="bbr-bench-") as name:
            results += listing(Path(name), programs().bbr, options.backups, options.pairs, told)
    if cases.REBUILD in chosen:
        results += rebuild(options.rebuilt_objects, options.pairs, told)
    options.json.write_text(report.document(results, sizes, vars(options)))
    sys.stdout.write(report.table(results))
    told(f"all figures: {options.json}")
    return 0 if all(result.is_met for result in results) else 1


def told(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--objects", type=int, default=300_000, help="objects in etcd; 300,000 are a gigabyte")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
    parser.add_argument("--increments", type=int, default=24, help="increments in the restored chain")
    parser.add_argument("--backups", type=int, default=10_000, help="backups that are listed")
    parser.add_argument("--only", choices=[*ON_ETCD, cases.HELP, cases.LIST, cases.REBUILD], action="append")
    parser.add_argument("--rebuilt-objects", type=int, default=20_000, help="objects of the cluster that is rebuilt")
    parser.add_argument("--big", action="store_true", help=f"also the memory that {BIG} times the objects take")
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"), help="where all figures go")
    options = parser.parse_args()
    if min(options.objects, options.pairs, options.increments, options.backups, options.rebuilt_objects) < 1:
        parser.error("every number is at least 1")
    if options.big and options.only and not set(options.only) & set(ON_ETCD):
        parser.error(f"--big compares the memory of {', '.join(ON_ETCD)}: choose one of them too")
    return options


@contextmanager
def _loaded(objects: int, sizes: dict[str, int]) -> Iterator[Site]:
    """A full etcd, gone with all its files after. ``sizes`` is told the size of its database."""
    told(f"loading {objects:,} objects into etcd {ETCD_VERSION}")
    with tempfile.TemporaryDirectory(prefix="bbr-bench-") as name, site(Path(name), objects) as here:
        sizes[str(objects)] = here.client.status().db_size_bytes
        told(f"the database has {sizes[str(objects)] / 1e9:.2f} GB")
        yield here


if __name__ == "__main__":
    sys.exit(main())
