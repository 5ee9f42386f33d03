"""Changes to a running etcd: for demonstrations, benchmarks and tests. A backup never writes to the etcd it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from bbr.errors import EtcdError
from bbr.etcd import rpc_pb2 as rpc
from bbr.etcd.client import LONG_CALL_TIME, EtcdClient

TXN_LIMIT = 128
"""Operations that etcd allows in one transaction (--max-txn-ops)."""


def put(client: EtcdClient, key: bytes, value: bytes, *, lease: int = 0) -> int:
    """Set one key. Returns the new revision."""
    answer = client.call("KV/Put", rpc.PutRequest(key=key, value=value, lease=lease), rpc.PutResponse)
    return answer.header.revision


def delete(client: EtcdClient, key: bytes, range_end: bytes = b"") -> int:
    """Delete a key, or all keys from it to before ``range_end``. Returns the new revision."""
    request = rpc.DeleteRangeRequest(key=key, range_end=range_end)
    return client.call("KV/DeleteRange", request, rpc.DeleteRangeResponse).header.revision


def txn(client: EtcdClient, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> int:
    """All at one revision, at most `TXN_LIMIT` of them, each key once. Returns that revision."""
    operations = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value)) for key, value in puts.items()]
    operations += [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key)) for key in deletes]
    answer = client.call("KV/Txn", rpc.TxnRequest(success=operations), rpc.TxnResponse)
    return answer.header.revision


def compact(client: EtcdClient, revision: int, *, physical: bool = True) -> None:
    """Drop what is superseded at ``revision``. ``physical`` waits until it is gone from this member's database."""
    request = rpc.CompactionRequest(revision=revision, physical=physical)
    client.call("KV/Compact", request, rpc.CompactionResponse, time_limit=LONG_CALL_TIME)


def lease_grant(client: EtcdClient, ttl_s: int, *, lease: int = 0) -> int:
    """A lease of ``ttl_s`` seconds; 0 lets etcd choose its id. Returns the id."""
    answer = client.call("Lease/LeaseGrant", rpc.LeaseGrantRequest(ttl=ttl_s, id=lease), rpc.LeaseGrantResponse)
    if answer.error:
        raise EtcdError(f"{client.endpoint}: no lease: {answer.error}")
    return answer.id


def defragment(client: EtcdClient) -> None:
    """Rewrite this member's database file without its free pages. The member answers nothing meanwhile."""
    client.call("Maintenance/Defragment", rpc.DefragmentRequest(), rpc.DefragmentResponse, time_limit=LONG_CALL_TIME)


def raise_alarm(client: EtcdClient, member_id: int, kind: Literal["NOSPACE", "CORRUPT"]) -> None:
    """Raise an alarm about a member, as etcd's own checks would."""
    _alarm(client, rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, member_id=member_id, alarm=kind))


def disarm(client: EtcdClient, member_id: int, kind: Literal["NOSPACE", "CORRUPT"]) -> None:
    """Take an alarm back."""
    _alarm(client, rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, member_id=member_id, alarm=kind))


def _alarm(client: EtcdClient, request: rpc.AlarmRequest) -> None:
    client.call("Maintenance/Alarm", request, rpc.AlarmResponse)
