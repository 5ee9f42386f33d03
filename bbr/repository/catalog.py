"""Every backup of a repository, each manifest verified, and all that is wrong with them.

Loading never fails for one bad manifest: what is not believed becomes a finding, and the rest is listed. With a cache
only news is fetched. Choosing a backup (`Catalog.find`) is strict where it chooses unasked: ``latest`` and a time pass
over what is partial, doubtful, or lacks something it builds upon; an id is taken at its word.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from bbr.errors import BodyTooLarge, BodyWrong, ManifestInvalid, NotFound, UsageError
from bbr.progress import Progress, Silent
from bbr.repository import names
from bbr.repository.acceptance import CLOCK_TOLERANCE, Acceptance
from bbr.repository.backups import Backup, Finding
from bbr.repository.chains import Parents, chain_findings, chain_places, heads, unrestorable
from bbr.repository.envelope import Envelope, Signature, decode_envelope, encode_envelope
from bbr.repository.heads import Head, HeadsFile, lost_finding, lost_heads, renewed
from bbr.repository.manifest import MANIFEST_LIMIT_BYTES, PAYLOAD_TYPE, recall_manifest
from bbr.repository.manifest_cache import ManifestCache, Row
from bbr.repository.root import TrustedRoot
from bbr.stores.store import Entry, Store
from bbr.threads import pool

__all__ = ["Backup", "Catalog", "Finding"]

LATEST = "latest"
_BATCH = 16
"""Manifests fetched by one task: enough that threads cost little, few enough that they share the work."""

_CANDIDATES = 5
_SAME_FINDINGS = 10
"""More notes than this about claimed times are one: the repository was copied."""

_DATE = re.compile(r"\d{4}-\d\d?-\d\d?", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?", re.ASCII)


class Catalog:
    """What `load` found. ``backups`` are in the order of their times, newest last; ``lost`` are the ends of chains that
    this host remembers and the store does not show."""

    def __init__(
        self,
        backups: Iterable[Backup],
        findings: Sequence[Finding],
        acceptance: Acceptance,
        remembered: Sequence[Head] = (),
    ) -> None:
        listed = list(backups)
        places = chain_places(listed)
        self.backups: tuple[Backup, ...] = tuple(sorted(listed, key=lambda one: _age(one, places)))
        self._parents = Parents(self.backups)
        self._heads = heads(self.backups)
        refused = [finding.object_name for finding in findings]
        self.lost: tuple[Head, ...] = tuple(lost_heads(remembered, self.backups, refused))
        self._doubts = {
            backup.object_name: doubt
            for backup in self.backups
            if (doubt := acceptance.doubt(backup.manifest, backup.stored))
        }
        self._unrestorable = unrestorable(self.backups, self._parents)
        self.findings: tuple[Finding, ...] = (
            *findings,
            *map(lost_finding, self.lost),
            *chain_findings(self.backups),
            *self._own_findings(),
            *_time_findings(self.backups, self._doubts),
        )

    @classmethod
    def load(
        cls,
        store: Store,
        trusted: TrustedRoot,
        *,
        cluster: str | None = None,
        cache: ManifestCache | None = None,
        memory: HeadsFile | None = None,
        threads: int = 8,
        progress: Progress | None = None,
    ) -> Catalog:
        """List and verify every manifest, or those of one cluster; with ``memory``, hold them against what was there.

        Raises what the store raises when it does not answer, and `UsageError` for what cannot name a cluster; a
        manifest that is bad, gone or too large is a finding.
        """
        if cluster is not None:
            names.checked_cluster(cluster)
        progress = progress or Silent()
        remembered = memory.load() if memory else ()
        loading = _Loading(store, trusted, cache, progress)
        loading.run(names.manifests_prefix(cluster), threads)
        concerned = [head for head in remembered if cluster in (None, head.cluster)]
        catalog = cls(loading.backups, loading.findings, loading.acceptance, concerned)
        if memory:
            problem = memory.remember(renewed(remembered, catalog.lost, catalog._heads, cluster))
            if problem:
                progress.warn(problem)
        return catalog

    def find(self, cluster: str | None, text: str) -> Backup:
        """The one backup that ``text`` means: an id or the beginning of one (with ``cluster``, also without its name),
        ``latest``, or a time (UTC unless it says otherwise): the newest backup that was done by then.

        Raises `UsageError`, with the nearest candidates, when there is none or more than one.
        """
        backups = [backup for backup in self.backups if cluster in (None, backup.manifest.cluster)]
        if not backups:
            of = f" of cluster {cluster}" if cluster else ""
            raise UsageError(f"there is no backup{of} here", hint=f"clusters here: {self._cluster_list()}")
        if text == LATEST:
            return self._newest(backups, None)
        found = [backup for backup in backups if _is_called(backup, text, cluster)]
        exact = [backup for backup in found if backup.manifest.backup_id == text]
        if len(exact) == 1 or len(found) == 1:
            return (exact or found)[0]
        if found:
            raise UsageError(f"{text!r} means {len(found)} backups", hint=f"among them: {_ids(found[-_CANDIDATES:])}")
        if _TIME.fullmatch(text):
            return self._newest(backups, _parsed_time(text))
        hint = (
            "a time is written 2026-01-02T03:04:05Z" if _DATE.match(text) else f"near it: {_ids(_near(backups, text))}"
        )
        raise UsageError(f"no backup is called {text!r}", hint=hint)

    def chain(self, backup: Backup, etcd: str) -> tuple[Backup, ...]:
        """What must be fetched to rebuild one etcd of ``backup``: the base first, ``backup`` last.

        Raises `ManifestInvalid` when something of it is missing.
        """
        links, problem = self._parents.chain(backup, etcd)
        if problem:
            raise ManifestInvalid(problem, hint="`bbr list` shows the backups that are whole; choose one of those")
        return tuple(links)

    def head(self, writer: str, cluster: str | None = None) -> Backup | None:
        """The newest manifest in a writer's chain. ``cluster`` is needed when the catalog holds several."""
        found = [backup for backup in self.heads(cluster) if backup.manifest.writer == writer]
        if len(found) > 1:
            raise UsageError(f"writer {writer} has several clusters here; name one")
        return found[0] if found else None

    def heads(self, cluster: str | None = None) -> tuple[Backup, ...]:
        """The newest manifest of each writer and cluster, or of each writer of one cluster."""
        return tuple(head for (of_cluster, _), head in sorted(self._heads.items()) if cluster in (None, of_cluster))

    def doubt(self, backup: Backup) -> str:
        """Why `find` does not choose this backup unless asked for it by its id; "" when nothing is against it."""
        name = backup.object_name
        if name in self._unrestorable:
            return self._unrestorable[name]
        if name in self._doubts:
            return self._doubts[name]
        return "; ".join(backup.manifest.reasons)

    def _newest(self, backups: Sequence[Backup], at: datetime | None) -> Backup:
        clusters = sorted({backup.manifest.cluster for backup in backups})
        if len(clusters) > 1:
            raise UsageError("the repository holds several clusters", hint=f"name one of {self._cluster_list()}")
        good = [backup for backup in backups if not self.doubt(backup)]
        if not good:
            newest = backups[-1]
            raise UsageError(
                f"no complete backup of cluster {clusters[0]} is without fault",
                hint=f"the newest is {newest.manifest.backup_id}: {self.doubt(newest)}",
            )
        if at is None:
            return good[-1]
        for backup in reversed(good):
            if backup.manifest.time <= at:
                return backup
        oldest = good[0].manifest
        raise UsageError(
            f"no complete backup of cluster {clusters[0]} was done by {at:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"the oldest is {oldest.backup_id}, done at {oldest.time:%Y-%m-%d %H:%M:%S} UTC",
        )

    def _cluster_list(self) -> str:
        return ", ".join(sorted({backup.manifest.cluster for backup in self.backups})) or "none"

    def _own_findings(self) -> Iterator[Finding]:
        for backup in self.backups:
            for kind, problems in (("unrestorable", self._unrestorable), ("doubt", self._doubts)):
                if backup.object_name in problems:
                    yield Finding(
                        "error", kind, backup.manifest.cluster, backup.object_name, problems[backup.object_name]
                    )


class _Loading:
    """One `Catalog.load`: what is listed, what of it the cache knows, and what must be fetched."""

    def __init__(self, store: Store, trusted: TrustedRoot, cache: ManifestCache | None, progress: Progress) -> None:
        self._store, self._trusted, self._cache, self._progress = store, trusted, cache, progress
        self.acceptance = Acceptance(trusted)
        self.backups: list[Backup] = []
        self.findings: list[Finding] = []
        self._fresh: list[Row] = []

    def run(self, prefix: str, threads: int) -> None:
        with pool(1, "catalog") as reader:  # the store's answers are waited for meanwhile
            loading = reader.submit(self._cache.load, prefix) if self._cache else None
            entries = list(self._store.list(prefix))
            rows = loading.result() if loading else {}
        news: list[Entry] = []
        for entry in entries:
            row = rows.pop(entry.name, None)
            if not self._recall(entry, row):
                news.append(entry)
        self._fetch(news, threads)
        for backup in self.backups:
            number = backup.manifest.root_number
            if number > self._trusted.root.number:
                text = f"was made under root {number}; the newest here is {self._trusted.root.number}: one is withheld"
                self._find("root", backup.object_name, text)
        if self._cache and (self._fresh or rows):
            problem = self._cache.remember(self._fresh, forget=rows)
            if problem:
                self._progress.warn(problem)

    def _recall(self, entry: Entry, row: Row | None) -> bool:
        """Take a manifest from the cache. Under another root than it was verified under, it is judged anew."""
        if row is None or row.size_bytes != entry.size_bytes:
            return False
        if row.root != self._trusted.sha256:
            envelope = Envelope(PAYLOAD_TYPE, row.payload, (Signature(row.key_id, row.signature),))
            self._judge(entry, encode_envelope(envelope))
            return True
        manifest = recall_manifest(row.payload)
        if manifest is None:
            return False
        self.backups.append(Backup(manifest, entry.name, row.sha256, entry.size_bytes, entry.time))
        return True

    def _fetch(self, news: Sequence[Entry], threads: int) -> None:
        if not news:
            return
        self._progress.step(f"reading {len(news):,} manifests")
        total = sum(entry.size_bytes for entry in news)
        done = 0
        with pool(threads, "catalog") as workers:
            waiting = iter(news)
            batches = iter(lambda: list(islice(waiting, _BATCH)), [])
            while group := list(islice(batches, 4 * threads)):
                for bodies in workers.map(self._get_batch, group):
                    for entry, body in bodies:
                        done += entry.size_bytes
                        self._judge(entry, body)
                self._progress.advance(done, total)

    def _get_batch(self, entries: Sequence[Entry]) -> list[tuple[Entry, bytes | ManifestInvalid]]:
        return [(entry, self._get(entry)) for entry in entries]

    def _get(self, entry: Entry) -> bytes | ManifestInvalid:
        try:
            return self._store.get(entry.name, limit_bytes=MANIFEST_LIMIT_BYTES)
        except NotFound:
            return ManifestInvalid(f"{entry.name} is listed, and is not there")
        except (BodyTooLarge, BodyWrong) as err:
            return ManifestInvalid(f"{entry.name}: {err}")

    def _judge(self, entry: Entry, body: bytes | ManifestInvalid) -> None:
        if isinstance(body, ManifestInvalid):
            self._find("manifest", entry.name, str(body))
            return
        try:
            manifest = self.acceptance.accept(entry.name, body)
        except ManifestInvalid as err:
            self._find("manifest", entry.name, str(err))
            return
        sha256 = hashlib.sha256(body).hexdigest()
        self.backups.append(Backup(manifest, entry.name, sha256, len(body), entry.time))
        if self._cache:
            self._fresh.append(_row(entry, body, sha256, self._trusted.sha256))

    def _find(self, kind: str, name: str, message: str) -> None:
        place = names.parse_manifest_name(name)
        self.findings.append(Finding("error", kind, place.cluster if place else "", name, message))


def _row(entry: Entry, body: bytes, sha256: str, root: str) -> Row:
    envelope = decode_envelope(body, error=ManifestInvalid, what=entry.name)
    signature = envelope.signatures[0]
    return Row(entry.name, entry.size_bytes, root, sha256, envelope.payload, signature.key_id, signature.value)


def _age(backup: Backup, places: Mapping[str, int]) -> tuple[datetime, int, str]:
    """Times have whole seconds; within one, the writer's chain knows the order."""
    return backup.manifest.time, places[backup.sha256], backup.manifest.backup_id


def _time_findings(backups: Sequence[Backup], doubts: Iterable[str]) -> list[Finding]:
    """Notes about manifests that were stored long after they claim. In a copy all were: then one note says so."""
    known = set(doubts)
    notes = [
        Finding(
            "note",
            "time",
            backup.manifest.cluster,
            backup.object_name,
            f"claims {backup.manifest.time:%Y-%m-%d %H:%M} UTC, and was stored at {backup.stored:%Y-%m-%d %H:%M} UTC",
        )
        for backup in backups
        if backup.stored is not None
        and backup.stored > backup.manifest.time + CLOCK_TOLERANCE
        and backup.object_name not in known
    ]
    if len(notes) <= _SAME_FINDINGS:
        return notes
    text = f"and {len(notes) - 1} more were stored long after they claim: the repository was copied since"
    return [Finding("note", "time", notes[0].cluster, notes[0].object_name, text)]


def _is_called(backup: Backup, text: str, cluster: str | None) -> bool:
    backup_id = backup.manifest.backup_id
    return bool(text) and (
        backup_id.startswith(text) or (cluster is not None and backup_id.startswith(f"{cluster}-{text}"))
    )


def _parsed_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as err:
        raise UsageError(f"{text!r} is not a time", hint="write it as 2026-01-02T03:04:05Z") from err
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _near(backups: Sequence[Backup], text: str) -> Sequence[Backup]:
    """Those that share the longest beginning with ``text``; the newest of them."""

    def shared(backup: Backup) -> int:
        pairs = zip(backup.manifest.backup_id, text, strict=False)
        return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(text), 99))

    longest = max(map(shared, backups))
    return [backup for backup in backups if shared(backup) == longest][-_CANDIDATES:]


def _ids(backups: Sequence[Backup]) -> str:
    return ", ".join(backup.manifest.backup_id for backup in backups)
