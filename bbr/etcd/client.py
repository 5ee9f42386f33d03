"""One etcd member, over gRPC: ask for its health and hashes, read ranges, stream its snapshot.

Messages are those of rpc.proto; methods are named here, so no generated service code is needed. Every call has a time
limit, names its endpoint when it fails, and ignores proxy variables: etcd is reached directly or not at all. The
channel reconnects by itself. What gRPC says is translated into bbr's errors at this seam; why TLS failed is found out
by handshake.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar, cast

from google.protobuf.message import Message

from bbr.errors import EtcdCompacted, EtcdError, EtcdTls, EtcdUnauthorized, EtcdUnavailable, UsageError
from bbr.etcd import rpc_pb2 as rpc
from bbr.etcd.address import Credentials, parse_endpoint
from bbr.etcd.answers import Alarm, HashKv, KeyValue, Member, RangeResult, Status
from bbr.etcd.handshake import why_tls_fails
from bbr.etcd.stream import StallGuard, cut

# gRPC's C++ core writes its own lines about every failed handshake to stderr, past all logging, and looks at this
# variable once, when it is loaded. Failures come back as errors anyhow.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

__all__ = [
    "Alarm",
    "Credentials",
    "EtcdClient",
    "HashKv",
    "KeyValue",
    "Member",
    "RangeResult",
    "Status",
    "connect",
]

CALL_TIME = timedelta(seconds=10)
"""Time limit of a call that etcd answers from memory."""

LONG_CALL_TIME = timedelta(minutes=10)
"""Time limit of a call that makes etcd read or write its whole database. A dead peer is noticed much sooner."""

STALL_TIME = timedelta(seconds=60)
"""A snapshot stream that yields nothing for so long is given up. It has no limit as a whole: databases grow."""

MESSAGE_LIMIT_BYTES = 256 << 20
"""Largest answer that is accepted. gRPC's 4 MiB are less than one page of a range."""

_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    # etcd refuses pings that come more often than every 5 s (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The limit that counts in gRPC 1.85: with its default of a minute, a member that hangs is noticed after 70 s.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # A member that was just restarted should be seen again at once, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A snapshot of 1.26 GB, measured: 2.4 s of CPU with these four and 4.6 s without. On two quiet cores that the
    # server shares: 560 MB/s into a file, 310 MB/s with mTLS (etcdctl: 340 and 150-230 MB/s).
    # The thread that asks for the next message reads it itself, instead of being woken by another one for each.
    ("SingleThreadedUnaryStream", 1),
    # A fixed window: the one that grows by itself let 140 MB pile up in front of a slow disk.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
)

_Answer = TypeVar("_Answer", bound=Message)
_Code = grpc.StatusCode


class EtcdClient:
    """One endpoint. A context manager; may be used by several threads. Connects on the first call."""

    def __init__(self, endpoint: str, credentials: Credentials, *, timeout: timedelta = CALL_TIME) -> None:
        """Raises `UsageError` for an endpoint that is none. Does not connect."""
        self.endpoint = endpoint
        self._address = parse_endpoint(endpoint, credentials)
        self._credentials = credentials
        self._timeout = timeout
        self._token: str | None = None
        self._token_lock = threading.Lock()
        self._channel = self._open()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """End the connection and every call that is under way. May be called twice."""
        self._channel.close()

    def sibling(self, endpoint: str) -> EtcdClient:
        """A client of another endpoint with the same credentials and time limit. Raises `UsageError`.

        The endpoint may come from a member list, which is the server's word: it must not lead out of TLS.
        """
        other = EtcdClient(endpoint, self._credentials, timeout=self._timeout)
        if self._address.tls and not other._address.tls:
            other.close()
            raise UsageError(f"{endpoint} would be reached without TLS, {self.endpoint} is not")
        return other

    def status(self) -> Status:
        """Ask the member for its own state. Answered without a quorum."""
        answer = self.call("Maintenance/Status", rpc.StatusRequest(), rpc.StatusResponse)
        return Status(
            version=answer.version,
            db_size_bytes=answer.db_size,
            db_in_use_bytes=answer.db_size_in_use,
            leader_id=answer.leader,
            member_id=answer.header.member_id,
            cluster_id=answer.header.cluster_id,
            revision=answer.header.revision,
            is_learner=answer.is_learner,
            raft_index=answer.raft_index,
            raft_applied_index=answer.raft_applied_index,
            errors=tuple(answer.errors),
            storage_version=answer.storage_version,
        )

    def members(self) -> tuple[Member, ...]:
        """The member list as this member knows it. Answered without a quorum."""
        answer = self.call("Cluster/MemberList", rpc.MemberListRequest(linearizable=False), rpc.MemberListResponse)
        return tuple(
            Member(one.id, one.name, tuple(one.peer_urls), tuple(one.client_urls), one.is_learner)
            for one in answer.members
        )

    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms that are raised in the cluster. Needs a quorum: etcd answers through its log."""
        answer = self.call("Maintenance/Alarm", rpc.AlarmRequest(action=rpc.AlarmRequest.GET), rpc.AlarmResponse)
        kinds: dict[int, Literal["NOSPACE", "CORRUPT"]] = {rpc.NOSPACE: "NOSPACE", rpc.CORRUPT: "CORRUPT"}
        return tuple(Alarm(one.member_id, kinds[one.alarm]) for one in answer.alarms if one.alarm in kinds)

    def hash_kv(self, revision: int) -> HashKv:
        """Hash of the member's whole keyspace at ``revision`` (0: its newest). It reads all of it: seconds per 10 GB.

        Raises `EtcdCompacted` when that revision is compacted, `EtcdUnavailable` when the member has not reached it.
        """
        answer = self.call(
            "Maintenance/HashKV", rpc.HashKVRequest(revision=revision), rpc.HashKVResponse, time_limit=LONG_CALL_TIME
        )
        # etcd says -1 when nothing was ever compacted since its start.
        return HashKv(answer.hash, max(answer.compact_revision, 0), answer.header.revision)

    def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        serializable: bool = False,
    ) -> RangeResult:
        """Keys from ``key`` to before ``range_end`` (empty: that one key; NUL: to the end), in order.

        ``serializable`` reads what this member has, without a quorum. Raises `EtcdCompacted`.
        """
        request = rpc.RangeRequest(
            key=key,
            range_end=range_end,
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            serializable=serializable,
        )
        answer = self.call("KV/Range", request, rpc.RangeResponse)
        return RangeResult(
            kvs=tuple(
                KeyValue(one.key, one.value, one.create_revision, one.mod_revision, one.version, one.lease)
                for one in answer.kvs
            ),
            count=answer.count,
            more=answer.more,
            revision=answer.header.revision,
        )

    def snapshot(self, *, stall_time: timedelta = STALL_TIME) -> Iterator[memoryview]:
        """The snapshot file in pieces of 32 KiB, the trailing hash included. The server pins freed pages until the end.

        Raises `EtcdUnavailable` when the stream breaks, stalls, or ends before all bytes came.
        """
        stream = self._channel.unary_stream("/etcdserverpb.Maintenance/Snapshot", _serialize, None)
        remaining_bytes = -1
        guard: StallGuard | None = None
        for attempt in (1, 2):
            try:
                messages = cast(_Stream, stream(rpc.SnapshotRequest(), metadata=self._metadata()))
                with StallGuard(messages.cancel, stall_time) as guard:
                    for message in guard.watch(messages):
                        remaining_bytes, blob = cut(message)
                        yield blob
                break
            except grpc.RpcError as err:
                if guard is not None and guard.stalled:
                    raise EtcdUnavailable(
                        f"{self.endpoint}: the snapshot stream stood still for {stall_time.total_seconds():.0f} s",
                        hint="look at the member's disk and load, or back up another member",
                    ) from err
                if attempt == 2 or remaining_bytes >= 0 or not self._drop_stale_token(err):
                    raise self._error("Maintenance/Snapshot", err) from err
        if remaining_bytes != 0:
            raise EtcdUnavailable(
                f"{self.endpoint}: the snapshot stream ended {remaining_bytes} bytes before its end",
                hint="look at the member's log, then run it again",
            )

    def call(
        self, method: str, request: Message, answer: type[_Answer], *, time_limit: timedelta | None = None
    ) -> _Answer:
        """One call of ``method`` ("KV/Range"). A token that has expired is renewed once.

        Raises `EtcdTls`, `EtcdUnauthorized`, `EtcdCompacted`, `EtcdUnavailable`, or `EtcdError` for anything else.
        """
        unary = self._channel.unary_unary(f"/etcdserverpb.{method}", _serialize, answer.FromString)
        limit_s = max(self._timeout, time_limit or self._timeout).total_seconds()
        try:
            try:
                return cast(_Answer, unary(request, timeout=limit_s, metadata=self._metadata()))
            except grpc.RpcError as err:
                if not self._drop_stale_token(err):
                    raise
                return cast(_Answer, unary(request, timeout=limit_s, metadata=self._metadata()))
        except grpc.RpcError as err:
            raise self._error(method, err) from err

    def _open(self) -> grpc.Channel:
        if not self._address.tls:
            return grpc.insecure_channel(self._address.target, _CHANNEL_OPTIONS)
        opened = grpc.ssl_channel_credentials(
            self._credentials.ca, self._credentials.key, self._credentials.certificate
        )
        return grpc.secure_channel(self._address.target, opened, _CHANNEL_OPTIONS)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """The token of a user with a password; nothing where the certificate's common name is the user."""
        if not self._credentials.username:
            return ()
        with self._token_lock:
            if self._token is None:
                self._token = self._authenticate()
            return (("token", self._token),) if self._token else ()

    def _drop_stale_token(self, err: grpc.RpcError) -> bool:
        """Whether a new token may help: one ends after five minutes without use, or when users or roles change.

        The token is empty when auth was off at the time; it may have been switched on since.
        """
        details = err.details() or ""
        signs = ("invalid auth token", "auth store is old") if self._token else ("user name is empty",)
        if self._token is None or not any(sign in details for sign in signs):
            return False
        self._token = None
        return True

    def _authenticate(self) -> str:
        """A new token; empty when the server's auth is off, as etcdctl takes it too."""
        unary = self._channel.unary_unary(
            "/etcdserverpb.Auth/Authenticate", _serialize, rpc.AuthenticateResponse.FromString
        )
        request = rpc.AuthenticateRequest(name=self._credentials.username, password=self._credentials.password)
        try:
            answer = cast(rpc.AuthenticateResponse, unary(request, timeout=self._timeout.total_seconds()))
        except grpc.RpcError as err:
            if "authentication is not enabled" in (err.details() or ""):
                return ""
            raise
        return answer.token

    def _error(self, method: str, err: grpc.RpcError) -> EtcdError:
        """What gRPC said, as one of bbr's errors. etcd's own texts are those of api/v3rpc/rpctypes/error.go."""
        code, details = err.code(), (err.details() or "").strip()
        message = f"{self.endpoint}: {method.partition('/')[2]}: {details or code.name}"
        match code:
            case _Code.UNAUTHENTICATED | _Code.PERMISSION_DENIED:
                return EtcdUnauthorized(message, hint=_ROOT_ROLE)
            # 3.5 answers UNKNOWN with "auth: ..." for the calls of a backup, later ones have codes for each.
            case _ if any(sign in details for sign in _UNAUTHORIZED):
                return EtcdUnauthorized(message, hint=_ROOT_ROLE)
            case _Code.OUT_OF_RANGE if "has been compacted" in details:
                return EtcdCompacted(message)
            case _Code.OUT_OF_RANGE if "future revision" in details:
                return EtcdUnavailable(message, hint="this member lags behind the others")
            case _Code.UNAVAILABLE | _Code.DEADLINE_EXCEEDED if not details.startswith("etcdserver:"):
                return self._no_connection(method, code, details)
            case _Code.UNAVAILABLE | _Code.CANCELLED:
                return EtcdUnavailable(message)
        return EtcdError(message)

    def _no_connection(self, method: str, code: _Code, details: str) -> EtcdError:
        if failure := why_tls_fails(self._address, self._credentials):
            return EtcdTls(f"{self.endpoint}: {failure.what}", hint=failure.hint)
        if code is _Code.DEADLINE_EXCEEDED:
            details = "no answer in time"
        details = details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
        return EtcdUnavailable(
            f"{self.endpoint}: {method.partition('/')[2]}: {details}",
            hint="check that etcd runs there and that this host can reach it",
        )


def connect(
    endpoints: Sequence[str], credentials: Credentials, *, timeout: timedelta = CALL_TIME
) -> tuple[EtcdClient, ...]:
    """A client for each endpoint, in order, doubles left out. Does not connect yet. Raises `UsageError`."""
    if not endpoints:
        raise UsageError("no etcd endpoint is given", hint="give at least one, such as https://127.0.0.1:2379")
    return tuple(EtcdClient(endpoint, credentials, timeout=timeout) for endpoint in dict.fromkeys(endpoints))


_UNAUTHORIZED = ("permission denied", "auth: ", "user name ", "invalid user ID or password")
_ROOT_ROLE = "bbr needs a user with etcd's root role: a client certificate with its name as CN, or a user and password"


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class _Stream(Protocol):
    """A stream of raw messages, as gRPC has it."""

    def __next__(self) -> bytes: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def cancel(self) -> bool: ...
