"""A snapshot of one etcd into a spool file, after all its members were asked whether it is worth having.

In order: who answers and who lags; alarms and versions; HashKV of every member at one revision and one compact
revision; then the stream, from a healthy follower that is not behind, with its trailing hash. What makes the copy
doubtful stops it (`MembersDisagree`) unless that is accepted; then it is a problem, and the backup partial. What a
person should know though the copy is good is a warning. A NOSPACE alarm is one: the data is whole, and a backup is what
comes before the repair.

An etcd that has lost its quorum is still backed up: that is when a backup may be wanted most.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from bbr.capture.members import Comparison, Roll, Silent, Witness, call_the_roll, catch_up, compare_members
from bbr.capture.spool import spool_snapshot
from bbr.capture.versions import version_warning
from bbr.errors import EtcdUnavailable, MembersDisagree, SnapshotDamaged
from bbr.etcd.client import EtcdClient, HashKv
from bbr.objects.uid import object_uid
from bbr.progress import Progress

DEFAULT_PREFIX = "/registry"
"""kube-apiserver's default ``--etcd-prefix``."""

CORRUPT_NOTE = "alarm CORRUPT"

_ALARM_IN_STATUS = re.compile(r"memberID:(\d+)\s+alarm:(NOSPACE|CORRUPT)")


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """One member as this run saw it. ``id`` is hex as etcd prints it; ``note`` says what is odd, or is empty."""

    id: str
    name: str
    endpoint: str
    version: str
    revision: int
    hash_kv: int | None
    compact_revision: int | None
    note: str


@dataclass(frozen=True, slots=True)
class Capture:
    """A spooled snapshot, and how its cluster looked. ``problems`` make the backup partial, ``warnings`` do not."""

    cluster_id: str
    source: MemberSeen
    members: tuple[MemberSeen, ...]
    compared: bool
    not_compared_because: str
    alarms: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    cluster_uid: str | None
    canaries: Canaries
    snapshot_path: Path
    version: str


@dataclass(frozen=True, slots=True)
class Canaries:
    """Objects that tell whether a control plane belongs to this etcd: any one Secret, by its key and value, and the
    value of ConfigMap kube-public/cluster-info, which holds the cluster's CA. None where there is none."""

    secret: tuple[bytes, bytes] | None = None
    cluster_info: bytes | None = None


@dataclass(slots=True)
class _Findings:
    """What the checks have found so far."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)


def capture_etcd(
    clients: Sequence[EtcdClient],
    spool: Path,
    *,
    compare: bool = True,
    accept_disagreement: bool = False,
    prefix: str = DEFAULT_PREFIX,
    progress: Progress,
) -> Capture:
    """Check the members and stream one's snapshot into ``spool``, which must not exist (0600; the caller unlinks it).

    The source is always one of ``clients``. Raises `MembersDisagree`, `NoSpace`, `SnapshotDamaged`, `UsageError`, and
    `EtcdTls`, `EtcdUnauthorized` or `EtcdUnavailable` when no member can be asked; nothing is left at ``spool`` then.
    """
    with ExitStack() as opened:
        found = _Findings()
        roll = catch_up(call_the_roll(clients, opened))
        current = [witness for witness in roll.witnesses if witness.status.revision >= roll.revision]
        _look(roll, current, found)
        _look_at_alarms(roll, found, accept_disagreement=accept_disagreement)
        voters = [witness for witness in current if not witness.status.is_learner]
        comparison = _compare(voters, roll, found, compare=compare)
        trusted = _agreeing(voters, comparison, found, accept_disagreement=accept_disagreement)
        for warning in found.warnings:
            progress.warn(warning)
        source = _stream(_ranked(voters, trusted, found.notes), spool, found, progress)
        members = tuple(_seen(witness, comparison.hashes, found.notes) for witness in roll.witnesses)
        return Capture(
            cluster_id=f"{source.status.cluster_id:x}",
            source=_seen(source, comparison.hashes, found.notes),
            members=members + tuple(_unseen(silent) for silent in roll.silent if silent.id),
            compared=not comparison.because,
            not_compared_because=comparison.because,
            alarms=tuple(found.alarms),
            problems=tuple(found.problems),
            warnings=tuple(found.warnings),
            cluster_uid=_cluster_uid(source.client, prefix),
            canaries=_canaries(source.client, prefix),
            snapshot_path=spool,
            version=source.status.version,
        )


def _look(roll: Roll, current: Sequence[Witness], found: _Findings) -> None:
    """Who is missing, behind, without a leader, or of a version with known faults."""
    for silent in roll.silent:
        found.warnings.append(f"member {silent.label} did not answer: {silent.why}")
    for witness in roll.witnesses:
        status = witness.status
        if witness not in current:
            found.notes[status.member_id] = f"behind: at revision {status.revision}, another member has {roll.revision}"
            found.warnings.append(f"member {witness.label} is {found.notes[status.member_id]}")
        elif status.is_learner:
            found.notes[status.member_id] = "a learner"
        elif not status.leader_id:
            found.notes[status.member_id] = "sees no leader"
    if not any(witness.status.leader_id for witness in roll.witnesses):
        found.warnings.append("the cluster has no leader: it has lost its quorum, and this is what its members hold")
    versions = dict.fromkeys(witness.status.version for witness in roll.witnesses)
    found.warnings.extend(warning for warning in map(version_warning, versions) if warning)


def _look_at_alarms(roll: Roll, found: _Findings, *, accept_disagreement: bool) -> None:
    names = {witness.status.member_id: witness.label for witness in roll.witnesses}
    names |= {silent.id: silent.label for silent in roll.silent if silent.id}
    for kind, member_id in sorted(_alarms(roll, found)):
        text = f"{kind} about member {names.get(member_id) or format(member_id, 'x')}"
        found.alarms.append(text)
        if kind != "CORRUPT":
            found.warnings.append(f"etcd has raised the alarm {text}: it refuses writes until it is given space")
            continue
        if not accept_disagreement:
            raise MembersDisagree(
                f"etcd has raised the alarm {text}",
                hint="find the bad member (etcdctl alarm list, endpoint hashkv) and replace it; "
                "--accept-disagreement takes a backup all the same, marked partial",
            )
        found.problems.append(f"etcd has raised the alarm {text}")
        found.notes[member_id] = CORRUPT_NOTE


def _alarms(roll: Roll, found: _Findings) -> set[tuple[str, int]]:
    """(kind, member id): through etcd's log where there is a leader, else from what members have in their status."""
    followed = next((witness for witness in roll.witnesses if witness.status.leader_id), None)
    if followed is not None:
        try:
            return {(alarm.kind, alarm.member_id) for alarm in followed.client.alarms()}
        except EtcdUnavailable as err:
            found.warnings.append(f"alarms are taken from the members' status: {err}")
    texts = " ".join(text for witness in roll.witnesses for text in witness.status.errors)
    return {(kind, int(member_id)) for member_id, kind in _ALARM_IN_STATUS.findall(texts)}


def _compare(voters: Sequence[Witness], roll: Roll, found: _Findings, *, compare: bool) -> Comparison:
    members = len(roll.witnesses) + sum(1 for silent in roll.silent if silent.id)
    if not compare:
        return Comparison(roll.revision, {}, because="comparison was switched off")
    if members == 1:
        return Comparison(roll.revision, {})
    if len(voters) < 2:
        return Comparison(roll.revision, {}, because=f"only {len(voters)} of {members} members could be compared")
    comparison = compare_members(voters)
    for witness in voters:
        if why := comparison.failed.get(witness.status.member_id):
            found.warnings.append(f"member {witness.label} was not compared: {why}")
    if len(comparison.hashes) < 2 and not comparison.because:
        return replace(comparison, because=f"only {len(comparison.hashes)} of {members} members could be compared")
    return comparison


def _agreeing(
    voters: Sequence[Witness], comparison: Comparison, found: _Findings, *, accept_disagreement: bool
) -> list[Witness]:
    """The members whose data can be trusted: all, or those of the largest group that has one hash."""
    if comparison.because or len({answer.hash for answer in comparison.hashes.values()}) < 2:
        return list(voters)
    answers = [(witness, comparison.hashes.get(witness.status.member_id)) for witness in voters]
    said = ", ".join(f"{witness.label} {answer.hash}" for witness, answer in answers if answer)
    message = f"members hold different data at revision {comparison.revision}: HashKV of {said}"
    if not accept_disagreement:
        raise MembersDisagree(
            message,
            hint="replace the member that differs from the others; "
            "--accept-disagreement takes a backup of the majority all the same, marked partial",
        )
    (common, _), *_ = Counter(answer.hash for answer in comparison.hashes.values()).most_common()
    found.problems.append(message)
    for witness, answer in answers:
        if answer and answer.hash != common:
            found.notes[witness.status.member_id] = "its HashKV differs from the majority's"
    return [witness for witness, answer in answers if answer and answer.hash == common]


def _ranked(voters: Sequence[Witness], trusted: Sequence[Witness], notes: Mapping[int, str]) -> list[Witness]:
    """Whom to stream from, best first: only endpoints that were given; followers, as the leader has enough to do."""
    choice = [witness for witness in trusted if witness.given] or [witness for witness in voters if witness.given]
    if not choice:
        raise EtcdUnavailable(
            "none of the endpoints that were given is a voting member with the newest data",
            hint="give the endpoints of the other members too",
        )
    return sorted(
        choice, key=lambda one: (notes.get(one.status.member_id) == CORRUPT_NOTE, not one.status.leader_id, one.leads)
    )


def _stream(candidates: Sequence[Witness], spool: Path, found: _Findings, progress: Progress) -> Witness:
    """Stream from the first candidate that does not break off, and whose stream arrives whole."""
    for position, witness in enumerate(candidates, 1):
        try:
            blobs = witness.client.snapshot()
            spool_snapshot(blobs, spool, expected_bytes=witness.status.db_size_bytes, progress=progress)
            return witness
        except (EtcdUnavailable, SnapshotDamaged) as err:
            if position == len(candidates):
                if isinstance(err, SnapshotDamaged):
                    raise SnapshotDamaged(f"member {witness.label}: {err}", hint=err.hint) from err
                raise
            found.warnings.append(f"the snapshot of member {witness.label} failed, another was taken: {err}")
            progress.warn(found.warnings[-1])
    raise EtcdUnavailable("no member to stream from")


def _seen(witness: Witness, hashes: Mapping[int, HashKv], notes: Mapping[int, str]) -> MemberSeen:
    status = witness.status
    answer = hashes.get(status.member_id)
    return MemberSeen(
        id=f"{status.member_id:x}",
        name=witness.name,
        endpoint=witness.client.endpoint,
        version=status.version,
        revision=status.revision,
        hash_kv=answer.hash if answer else None,
        compact_revision=answer.compact_revision if answer else None,
        note=notes.get(status.member_id, ""),
    )


def _unseen(silent: Silent) -> MemberSeen:
    return MemberSeen(
        id=f"{silent.id:x}",
        name=silent.name,
        endpoint=silent.endpoint,
        version="",
        revision=0,
        hash_kv=None,
        compact_revision=None,
        note=f"did not answer: {silent.why}",
    )


def _cluster_uid(client: EtcdClient, prefix: str) -> str | None:
    """The uid of namespace kube-system, which lives as long as a Kubernetes cluster does."""
    key = f"{prefix}/namespaces/kube-system".encode()
    for found in client.range(key, serializable=True).kvs:
        return object_uid(found.value)
    return None


def _canaries(client: EtcdClient, prefix: str) -> Canaries:
    secrets, info = f"{prefix}/secrets/".encode(), f"{prefix}/configmaps/kube-public/cluster-info".encode()
    one = client.range(secrets, secrets[:-1] + b"0", limit=1, serializable=True).kvs  # "0" comes right after "/"
    told = client.range(info, serializable=True).kvs
    return Canaries((one[0].key, one[0].value) if one else None, told[0].value if told else None)
