"""Changing who is a member of a running etcd: for a repair. Source: etcd's api/v3rpc/member.go."""

from __future__ import annotations

from collections.abc import Sequence

from bbr.errors import EtcdError, EtcdUnavailable
from bbr.etcd import rpc_pb2 as rpc
from bbr.etcd.client import EtcdClient

_NOT_IN_SYNC = "can only promote a learner member which is in sync with leader"
_NOT_HEALTHY = ("unhealthy cluster", "re-configuration failed due to not enough started members")


def add_learner(client: EtcdClient, peer_urls: Sequence[str]) -> int:
    """A new member that has no vote until it is promoted. Returns its id. Raises `EtcdError`."""
    request = rpc.MemberAddRequest(peer_urls=list(peer_urls), is_learner=True)
    try:
        return client.call("Cluster/MemberAdd", request, rpc.MemberAddResponse).member.id
    except EtcdError as err:
        raise _explained(err) from err


def promote(client: EtcdClient, member_id: int) -> bool:
    """Give a learner its vote. False while it is not in sync with the leader yet: ask again."""
    try:
        client.call("Cluster/MemberPromote", rpc.MemberPromoteRequest(id=member_id), rpc.MemberPromoteResponse)
    except EtcdError as err:
        if _NOT_IN_SYNC in str(err):
            return False
        raise _explained(err) from err
    return True


def remove_member(client: EtcdClient, member_id: int) -> None:
    """Take a member out for good: its id never comes back. Raises `EtcdError`, also where quorum would be lost."""
    try:
        client.call("Cluster/MemberRemove", rpc.MemberRemoveRequest(id=member_id), rpc.MemberRemoveResponse)
    except EtcdError as err:
        if "member not found" in str(err):
            return
        raise _explained(err) from err


def leases(client: EtcdClient) -> frozenset[int]:
    """The ids of all leases that live."""
    answer = client.call("Lease/LeaseLeases", rpc.LeaseLeasesRequest(), rpc.LeaseLeasesResponse)
    return frozenset(lease.id for lease in answer.leases)


def _explained(err: EtcdError) -> EtcdError:
    """etcd refuses a change while members are young or gone; it says so in words that do not say to wait."""
    if any(sign in str(err) for sign in _NOT_HEALTHY):
        return EtcdUnavailable(str(err), hint="etcd changes members only while all of them are well; try again soon")
    return err
