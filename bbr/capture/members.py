"""Asking every member of an etcd: who is there, who lags, and whether all hold the same data.

All members of the cluster are asked, also those that only the member list names: on a kubeadm master the API server
knows its own member alone. HashKV is comparable at one revision and one compact revision only. Members take the same
compaction at slightly different moments, so answers that differ there are asked for again. It makes a member read its
whole keyspace: one member at a time, followers first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from bbr.errors import BbrError, EtcdCompacted, EtcdError, EtcdUnavailable, UsageError
from bbr.etcd.client import EtcdClient, HashKv, Member, Status
from bbr.threads import pool

CATCH_UP_TIME = timedelta(seconds=5)
"""How long a member may take to reach the revision that another one had; a healthy one needs milliseconds."""

COMPARE_ROUNDS = 4
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Witness:
    """A member that answered. ``given`` says that its endpoint was asked for, so it may be the source."""

    client: EtcdClient
    status: Status
    name: str
    given: bool

    @property
    def label(self) -> str:
        """How a person knows this member."""
        return f"{self.name or format(self.status.member_id, 'x')} ({self.client.endpoint})"

    @property
    def leads(self) -> bool:
        """Whether it is the leader."""
        return self.status.leader_id == self.status.member_id


@dataclass(frozen=True, slots=True)
class Silent:
    """A member, or an endpoint, that did not answer. ``id`` is 0 when it is not known which member it is."""

    id: int
    name: str
    endpoint: str
    why: str

    @property
    def label(self) -> str:
        """How a person knows this member."""
        return f"{self.name or format(self.id, 'x')} ({self.endpoint})" if self.id else self.endpoint


@dataclass(frozen=True, slots=True)
class Roll:
    """Everybody: those who answered, each member once and endpoints that were given first, and those who did not."""

    witnesses: tuple[Witness, ...]
    silent: tuple[Silent, ...]

    @property
    def revision(self) -> int:
        """The newest revision that a member has."""
        return max(witness.status.revision for witness in self.witnesses)


@dataclass(frozen=True, slots=True)
class Comparison:
    """HashKV by member id at ``revision``. ``failed``: what those said who could not answer.

    ``because`` says why nothing was compared, and is empty when what is in ``hashes`` may be compared.
    """

    revision: int
    hashes: dict[int, HashKv]
    failed: dict[int, str] = field(default_factory=dict)
    because: str = ""


def call_the_roll(clients: Sequence[EtcdClient], opened: ExitStack) -> Roll:
    """Ask the endpoints, then the members that only the member list names. Clients that are opened go into ``opened``.

    Raises what the endpoints raise when none answers, `UsageError` when they belong to different clusters.
    """
    asked = _ask_all(clients)
    answered = [(client, said) for client, said in asked if isinstance(said, Status)]
    silent = [(client, said) for client, said in asked if isinstance(said, BbrError)]
    if not answered:
        raise _nobody(silent)
    clusters = {status.cluster_id: client.endpoint for client, status in answered}
    if len(clusters) > 1:
        raise UsageError(
            f"these endpoints belong to different etcd clusters: {', '.join(clusters.values())}",
            hint="back each cluster up under its own name",
        )
    members = answered[0][0].members()
    unasked = _unasked(members, [client for client, _ in asked], {status.member_id for _, status in answered})
    more, refused = _open_siblings(answered[0][0], unasked, opened)
    asked_more = _ask_all(more)
    names = {member.id: member.name for member in members}
    witnesses: dict[int, Witness] = {}
    for client, said in [*answered, *asked_more]:
        if isinstance(said, Status) and said.cluster_id in clusters:
            given = client not in more
            witnesses.setdefault(said.member_id, Witness(client, said, names.get(said.member_id, ""), given))
    failures = [
        (client.endpoint, str(said).removeprefix(f"{client.endpoint}: "))
        for client, said in [*silent, *asked_more]
        if isinstance(said, BbrError)
    ]
    missing = [member for member in members if member.id not in witnesses]
    return Roll(tuple(witnesses.values()), tuple(_silent(missing, failures + refused)))


def catch_up(roll: Roll) -> Roll:
    """Ask members that are behind again, until they have the newest revision of the roll or `CATCH_UP_TIME` is over."""
    target, deadline = roll.revision, time.monotonic() + CATCH_UP_TIME.total_seconds()
    current = {witness.status.member_id: witness for witness in roll.witnesses}
    while behind := [one for one in current.values() if one.status.revision < target]:
        for witness in behind:
            said = _ask(witness.client)
            if isinstance(said, Status):
                current[said.member_id] = Witness(witness.client, said, witness.name, witness.given)
        if time.monotonic() > deadline:
            break
        time.sleep(PAUSE_S)
    return Roll(tuple(current.values()), roll.silent)


def compare_members(witnesses: Sequence[Witness]) -> Comparison:
    """HashKV of each of these members at one revision and one compact revision. Learners and laggards are left out.

    Hashes that differ are returned, not raised. Raises `EtcdUnauthorized` and the like, not `EtcdUnavailable`.
    """
    order = sorted(witnesses, key=lambda witness: witness.leads)
    revision = max(witness.status.revision for witness in order)
    hashes: dict[int, HashKv] = {}
    failed: dict[int, str] = {}
    for attempt in range(COMPARE_ROUNDS):
        if attempt:
            time.sleep(PAUSE_S * attempt)
        hashes.clear()
        try:
            for witness in order:
                if witness.status.member_id not in failed:
                    _hash(witness, revision, hashes, failed)
        except EtcdCompacted:
            revision = witness.client.status().revision
            continue
        if len({answer.compact_revision for answer in hashes.values()}) == 1:
            if len({answer.hash for answer in hashes.values()}) == 1 or attempt == COMPARE_ROUNDS - 1:
                return Comparison(revision, hashes, failed)
            # A member that has just compacted past the revision answers with the hash of that compaction, and says the
            # same compact revision as one that has not (etcd's hashStorage). Only what differs anew each time differs.
            revision = min(witness.client.status().revision for witness in order)
    because = f"members compacted meanwhile, {COMPARE_ROUNDS} times in a row"
    return Comparison(revision, hashes, failed, because if len(failed) < len(order) else "no member answered")


def _hash(witness: Witness, revision: int, hashes: dict[int, HashKv], failed: dict[int, str]) -> None:
    try:
        hashes[witness.status.member_id] = witness.client.hash_kv(revision)
    except EtcdUnavailable as err:
        failed[witness.status.member_id] = str(err)


def _ask(client: EtcdClient) -> Status | BbrError:
    try:
        return client.status()
    except EtcdError as err:
        return err


def _ask_all(clients: Iterable[EtcdClient]) -> list[tuple[EtcdClient, Status | BbrError]]:
    """All at once: those that do not answer would cost their time limit one after the other."""
    asked = list(clients)
    if not asked:
        return []
    with pool(min(len(asked), 16), "etcd-status") as threads:
        return list(zip(asked, threads.map(_ask, asked), strict=True))


def _nobody(silent: Sequence[tuple[EtcdClient, BbrError]]) -> BbrError:
    """The one reason, when all endpoints fail for the same; else that nobody answered, with each one's reason."""
    first = silent[0][1]
    message = "; ".join(dict.fromkeys(str(err) for _, err in silent))
    if {type(err) for _, err in silent} == {type(first)}:
        return type(first)(message, hint=first.hint)
    return EtcdUnavailable(f"no etcd member answered: {message}", hint=first.hint)


def _unasked(members: Sequence[Member], clients: Sequence[EtcdClient], answered: set[int]) -> list[Member]:
    """Members that no endpoint stands for. One whose URL was asked in vain need not be asked again."""
    tried = {client.endpoint.rstrip("/") for client in clients}
    return [
        member
        for member in members
        if member.id not in answered and not any(url.rstrip("/") in tried for url in member.client_urls)
    ]


def _open_siblings(
    client: EtcdClient, members: Iterable[Member], opened: ExitStack
) -> tuple[list[EtcdClient], list[tuple[str, str]]]:
    """Clients of those members' first client URLs, and (endpoint, reason) where none can be made."""
    more: list[EtcdClient] = []
    refused: list[tuple[str, str]] = []
    for member in members:
        for url in member.client_urls[:1]:
            try:
                more.append(opened.enter_context(client.sibling(url)))
            except UsageError as err:
                refused.append((url, str(err)))
    return more, refused


def _silent(missing: Iterable[Member], failures: Sequence[tuple[str, str]]) -> Iterable[Silent]:
    """Each member that did not answer, with what its endpoint said where the two can be matched; then the rest."""
    rest = dict(failures)
    for member in missing:
        url = next((url for url in member.client_urls if url in rest or url.rstrip("/") in rest), "")
        why = rest.pop(url, "") or rest.pop(url.rstrip("/"), "")
        if not why:
            why = "its client URL was not asked" if member.client_urls else "it has never started"
        yield Silent(member.id, member.name, url, why)
    for endpoint, why in rest.items():
        yield Silent(0, "", endpoint, why)
