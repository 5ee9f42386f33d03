"""The cases, each against the stock tools in the same run. Limits are those that the project has set itself."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bbr.etcd import write
from bench.cluster import Site
from bench.measure import Pairs, Run, interleave, run

MIB = 1 << 20
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """One row. ``figure`` is the median ratio of the pairs, or a plain figure; lower is better."""

    name: str
    figure: float
    limit: float
    unit: str
    ours_s: float | None = None
    theirs_s: float | None = None
    anonymous_bytes: int = 0
    runs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the limit is kept."""
        return self.figure <= self.limit


def first_backup(site: Site, pairs: int, told: Told) -> list[Result]:
    """A base into a folder, against snapshot save, zstd and age one after the other."""
    folder, tools = site.folder, site.programs

    def ours(_: int) -> Run:
        return run(site.backup("--new-generation"), environ=site.environ, folder=folder)

    def theirs(_: int) -> Run:
        for name in ("theirs.db", "theirs.zst", "theirs.age"):
            (folder / name).unlink(missing_ok=True)
        save = " ".join(site.snapshot_save(folder / "theirs.db"))
        script = (
            f"{save} && {tools.zstd} -q -3 -T2 {folder}/theirs.db -o {folder}/theirs.zst && "
            f"{tools.age} -r {site.recipient} -o {folder}/theirs.age {folder}/theirs.zst"
        )
        return run(["/bin/sh", "-c", script], environ=site.environ, folder=folder)

    return [_compared("first backup", interleave(pairs, ours, theirs, told=told), limit=1.5)]


def incremental_backup(site: Site, pairs: int, told: Told) -> list[Result]:
    """After 1 % of churn, against snapshot save alone; what it stores, against the first backup."""
    folder = site.folder
    stored: list[int] = []

    def ours(_: int) -> Run:
        before = _stored_bytes(folder)
        result = run(site.backup(), environ=site.environ, folder=folder)
        stored.append(_stored_bytes(folder) - before)
        return result

    def theirs(_: int) -> Run:
        (folder / "theirs.db").unlink(missing_ok=True)
        return run(site.snapshot_save(folder / "theirs.db"), environ=site.environ, folder=folder)

    run(site.backup("--new-generation"), environ=site.environ, folder=folder)
    measured: list[Pairs] = []
    for number in range(pairs):
        site.churn()
        measured.append(interleave(1, ours, theirs, told=told, first=number))
    together = Pairs(tuple(one.ours[0] for one in measured), tuple(one.theirs[0] for one in measured))
    results = [_compared("incremental backup", together, limit=1.8)]
    first = _base_bytes(folder)
    share = statistics.median(stored) / first
    note = f"{statistics.median(stored):,.0f} of {first:,} bytes"
    results.append(Result("bytes of an increment / of the base", share, 1 / 25, "", note=note))
    write.defragment(site.client)
    stored.clear()
    ours(0)
    results.append(Result("bytes stored after a defragmentation", stored[0], 100_000, "B"))
    return results


def restore(site: Site, pairs: int, told: Told, *, increments: int = 24) -> list[Result]:
    """A base and its increments to a snapshot file, against etcdutl's restore of that file."""
    folder = site.folder
    run(site.backup("--new-generation"), environ=site.environ, folder=folder)
    for number in range(increments):
        site.churn()
        run(site.backup(), environ=site.environ, folder=folder)
        told(f"  increment {number + 1} of {increments}")
    target, content = folder / "ours.db", folder / "content.db"

    def ours(_: int) -> Run:
        target.unlink(missing_ok=True)
        words = ["restore", "etcd", "latest", "--identity", str(site.identity), "--to-snapshot", str(target)]
        return run(site.bbr(*words), environ=site.environ, folder=folder)

    ours(0)
    shutil.copy(target, content)

    def theirs(_: int) -> Run:
        data = folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        words = [str(site.programs.etcdutl), "snapshot", "restore", str(content), "--data-dir", str(data)]
        return run(words, environ=site.environ, folder=folder)

    name = f"restore of a base and {increments} increments"
    return [_compared(name, interleave(pairs, ours, theirs, told=told), limit=1.5)]


def help_text(site: Site, pairs: int, told: Told) -> list[Result]:
    """CPU of the program's start."""
    runs = [run([str(site.programs.bbr), "--help"], environ=site.environ, folder=site.folder) for _ in range(pairs)]
    told(f"  {len(runs)} runs")
    return [Result("bbr --help, CPU", statistics.median(one.cpu_s for one in runs), 0.25, "s")]


def memory(results: list[Result]) -> Result:
    """The highest anonymous memory of ours in all that was compared."""
    peak = max((result.anonymous_bytes for result in results), default=0)
    return Result("peak anonymous memory of bbr", peak / 1e6, 400, "MB")


def _compared(name: str, pairs: Pairs, limit: float) -> Result:
    runs = {
        side: [{"wall_s": one.wall_s, "cpu_s": one.cpu_s, "anonymous_bytes": one.anonymous_bytes} for one in listed]
        for side, listed in (("ours", pairs.ours), ("theirs", pairs.theirs))
    }
    return Result(name, pairs.ratio, limit, "x", pairs.ours_s, pairs.theirs_s, pairs.anonymous_bytes, runs)


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "repository").rglob("*") if path.is_file())


def _base_bytes(folder: Path) -> int:
    """Bytes of the newest generation's base."""
    manifests = sorted((folder / "repository" / "manifests").rglob("000000-*.manifest"))
    generation = manifests[-1].parent.name
    parts = (folder / "repository" / "clusters").rglob(f"{generation}/000000-*.age")
    return sum(path.stat().st_size for path in parts)


def as_json(result: Result) -> dict[str, object]:
    """One row for a program."""
    return {**asdict(result), "met": result.is_met}
