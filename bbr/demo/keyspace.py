"""What an etcd is made to hold: objects created, changed and deleted by a seed, and known to the last key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from bbr.demo.objects import StoredObject, stored_object
from bbr.etcd import rpc_pb2 as rpc
from bbr.etcd.client import EtcdClient
from bbr.etcd.write import lease_grant

TXN_OPERATIONS = 100
"""Changes in one transaction; etcd allows 128."""

TXN_BYTES = 1024 * 1024
"""Values in one transaction; etcd takes requests of 1.5 MiB."""

LEASE_TTL_S = 3600
"""What kube-apiserver gives events."""

_UPDATED, _DELETED = 0.7, 0.15


@dataclass(frozen=True, slots=True)
class Change:
    """One key set to what ``written`` holds, or, with ``is_delete``, removed."""

    written: StoredObject
    is_delete: bool = False


class Keyspace:
    """The objects that should be there: numbers and versions only, so a million take little memory."""

    def __init__(self, *, seed: int = 1) -> None:
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - made-up objects guard nothing
        self._versions: dict[int, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._versions)

    def create(self, count: int) -> Iterator[Change]:
        """``count`` new objects. Nothing happens before the iterator is used, and then to all it has yielded."""
        for _ in range(count):
            number = self._next
            self._next += 1
            self._versions[number] = 1
            yield Change(stored_object(self._seed, number))

    def churn(self, count: int) -> Iterator[Change]:
        """``count`` changes as a busy cluster makes them: mostly updates, some deletions, as many new objects."""
        numbers = sorted(self._versions)
        chosen = self._random.sample(numbers, min(count, len(numbers)))
        for number in chosen:
            turn = self._random.random()
            if turn < _UPDATED:
                self._versions[number] += 1
                yield Change(stored_object(self._seed, number, self._versions[number]))
            elif turn < _UPDATED + _DELETED:
                gone = stored_object(self._seed, number, self._versions.pop(number))
                yield Change(gone, is_delete=True)
            else:
                yield from self.create(1)

    def contents(self) -> Iterator[StoredObject]:
        """Every object that should be there now."""
        for number, version in self._versions.items():
            yield stored_object(self._seed, number, version)


def apply_changes(client: EtcdClient, changes: Iterable[Change], *, lease: int = 0) -> int:
    """Write changes in transactions. Objects that hang on a lease get ``lease``. Returns the last revision, or 0.

    A key must not come twice among `TXN_OPERATIONS` changes in a row.
    """
    revision = 0
    for batch in _batches(changes):
        request = rpc.TxnRequest(success=[_operation(change, lease) for change in batch])
        revision = client.call("KV/Txn", request, rpc.TxnResponse).header.revision
    return revision


def grant_lease(client: EtcdClient) -> int:
    """The lease that events hang on."""
    return lease_grant(client, LEASE_TTL_S)


def _batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size_bytes = 0
    for change in changes:
        batch.append(change)
        size_bytes += len(change.written.value)
        if len(batch) == TXN_OPERATIONS or size_bytes > TXN_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def _operation(change: Change, lease: int) -> rpc.RequestOp:
    key = change.written.key
    if change.is_delete:
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
    put = rpc.PutRequest(key=key, value=change.written.value, lease=lease if change.written.leased else 0)
    return rpc.RequestOp(request_put=put)
