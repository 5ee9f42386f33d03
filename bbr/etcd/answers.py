"""What etcd answers, as values. Ids are etcd's 64-bit numbers; etcd itself prints them in hex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Status:
    """What a member says about itself. Ids are etcd's 64-bit numbers; ``storage_version`` is empty before 3.6."""

    version: str
    db_size_bytes: int
    db_in_use_bytes: int
    leader_id: int
    member_id: int
    cluster_id: int
    revision: int
    is_learner: bool
    raft_index: int
    raft_applied_index: int
    errors: tuple[str, ...]
    storage_version: str


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the cluster, as the member list has it. ``name`` is empty until it has started once."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


@dataclass(frozen=True, slots=True)
class Alarm:
    """A raised alarm, and the member that it is about."""

    member_id: int
    kind: Literal["NOSPACE", "CORRUPT"]


@dataclass(frozen=True, slots=True)
class HashKv:
    """A member's HashKV. ``compact_revision`` is 0 when nothing was compacted; ``revision`` is the member's newest."""

    hash: int
    compact_revision: int
    revision: int


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd serves it."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """A page of keys. ``count`` is the whole range's, ``revision`` the member's; ``more``: ``limit`` cut it."""

    kvs: tuple[KeyValue, ...]
    count: int
    more: bool
    revision: int
