"""The cases, each against the stock tools in the same run. Limits are those that the project has set itself."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bbr.etcd import write
from bench.cluster import Site
from bench.measure import Pairs, Run, interleave, run

FIRST, INCREMENTAL, RESTORE, HELP, LIST, MEMORY = "first", "incremental", "restore", "help", "list", "memory"
REBUILD = "rebuild"
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
    case: str = ""
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

    return [_compared(FIRST, "first backup", interleave(pairs, ours, theirs, told=told), limit=1.5)]


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
    results = [_compared(INCREMENTAL, "incremental backup", together, limit=1.8)]
    first = _base_bytes(folder)
    share = statistics.median(stored) / first
    note = f"{statistics.median(stored):,.0f} of {first:,} bytes"
    rounds: list[dict[str, float]] = [{"stored_bytes": size} for size in stored]
    results.append(Result("bytes of an increment / of the base", share, 1 / 25, "", runs={"rounds": rounds}, note=note))
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
        return run(site.restore(target), environ=site.environ, folder=folder)

    ours(0)
    shutil.copy(target, content)

    def theirs(_: int) -> Run:
        data = folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        words = [str(site.programs.etcdutl), "snapshot", "restore", str(content), "--data-dir", str(data)]
        return run(words, environ=site.environ, folder=folder)

    name = f"restore of a base and {increments} increments"
    database_bytes = site.client.status().db_size_bytes
    note = f"both sides' file has {target.stat().st_size:,} bytes, etcd's own database {database_bytes:,}"
    return [_compared(RESTORE, name, interleave(pairs, ours, theirs, told=told), limit=1.5, note=note)]


def help_text(site: Site, pairs: int, told: Told) -> list[Result]:
    """CPU of the program's start."""
    runs = [run([str(site.programs.bbr), "--help"], environ=site.environ, folder=site.folder) for _ in range(pairs)]
    told(f"  {len(runs)} runs")
    cpu_s = statistics.median(one.cpu_s for one in runs)
    return [
        Result("bbr --help, CPU", cpu_s, 0.25, "s", case=HELP, anonymous_bytes=peak(runs), runs={"ours": figures(runs)})
    ]


def memory(results: Sequence[Result]) -> list[Result]:
    """The highest anonymous memory of ours in all that was compared; nothing where nothing was."""
    peaks = [result.anonymous_bytes for result in results if result.theirs_s is not None]
    return [Result("peak anonymous memory of bbr", max(peaks) / 1e6, 400, "MB", case=MEMORY)] if peaks else []


def growth(site: Site, results: Sequence[Result], told: Told, *, increments: int) -> list[Result]:
    """The same commands of ours on a larger etcd, once each: how much more memory each takes than in ``results``."""
    folder, size_gb = site.folder, site.client.status().db_size_bytes / 1e9
    runs: dict[str, list[Run]] = {FIRST: [run(site.backup("--new-generation"), environ=site.environ, folder=folder)]}
    runs[INCREMENTAL] = []
    for number in range(increments):
        site.churn()
        runs[INCREMENTAL].append(run(site.backup(), environ=site.environ, folder=folder))
        told(f"  increment {number + 1} of {increments}")
    runs[RESTORE] = [run(site.restore(folder / "ours.db"), environ=site.environ, folder=folder)]
    rows = []
    for result in results:
        if result.case in runs and result.theirs_s is not None:
            most = peak(runs[result.case])
            more = (most - result.anonymous_bytes) / 1e6
            name = f"{result.name}: more memory at {size_gb:.1f} GB"
            made = figures(runs[result.case])
            rows.append(Result(name, more, 250, "MB", case=MEMORY, anonymous_bytes=most, runs={"ours": made}))
    return rows


def figures(runs: Iterable[Run]) -> list[dict[str, float]]:
    """Every run, for a program."""
    return [one.figures() for one in runs]


def peak(runs: Iterable[Run]) -> int:
    """The highest anonymous memory of all."""
    return max(one.anonymous_bytes for one in runs)


def _compared(case: str, name: str, pairs: Pairs, limit: float, note: str = "") -> Result:
    return Result(
        name,
        pairs.ratio,
        limit,
        "x",
        ours_s=pairs.ours_s,
        theirs_s=pairs.theirs_s,
        case=case,
        anonymous_bytes=pairs.anonymous_bytes,
        runs={side: figures(listed) for side, listed in (("ours", pairs.ours), ("theirs", pairs.theirs))},
        note=note,
    )


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
