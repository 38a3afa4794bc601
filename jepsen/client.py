"""A small etcd client over grpcio with this project's own protobuf messages.

What lives here: one call for each RPC, the same for the synchronous and the asyncio channel, and
the synchronous client. What may not: retries, failover, caching; each answer is seen as it came.

Trade-off: the methods return ``Any``, since one body serves both channels: the response itself from
`Client`, an awaitable call from an asyncio channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from kvstore.pb import health_pb2, rpc_pb2

DEFAULT_TIMEOUT = 10.0
PIPELINE = 256
NO_MESSAGE_LIMIT = -1
OPTIONS = [
    ("grpc.max_receive_message_length", NO_MESSAGE_LIMIT),
    ("grpc.max_send_message_length", NO_MESSAGE_LIMIT),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]

_UNARY: dict[str, tuple[Any, Any]] = {
    "KV/Range": (rpc_pb2.RangeRequest, rpc_pb2.RangeResponse),
    "KV/Put": (rpc_pb2.PutRequest, rpc_pb2.PutResponse),
    "KV/DeleteRange": (rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse),
    "KV/Txn": (rpc_pb2.TxnRequest, rpc_pb2.TxnResponse),
    "KV/Compact": (rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse),
    "Lease/LeaseGrant": (rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse),
    "Lease/LeaseRevoke": (rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse),
    "Lease/LeaseTimeToLive": (rpc_pb2.LeaseTimeToLiveRequest, rpc_pb2.LeaseTimeToLiveResponse),
    "Lease/LeaseLeases": (rpc_pb2.LeaseLeasesRequest, rpc_pb2.LeaseLeasesResponse),
    "Cluster/MemberList": (rpc_pb2.MemberListRequest, rpc_pb2.MemberListResponse),
    "Cluster/MemberAdd": (rpc_pb2.MemberAddRequest, rpc_pb2.MemberAddResponse),
    "Cluster/MemberRemove": (rpc_pb2.MemberRemoveRequest, rpc_pb2.MemberRemoveResponse),
    "Cluster/MemberUpdate": (rpc_pb2.MemberUpdateRequest, rpc_pb2.MemberUpdateResponse),
    "Cluster/MemberPromote": (rpc_pb2.MemberPromoteRequest, rpc_pb2.MemberPromoteResponse),
    "Maintenance/Status": (rpc_pb2.StatusRequest, rpc_pb2.StatusResponse),
    "Maintenance/HashKV": (rpc_pb2.HashKVRequest, rpc_pb2.HashKVResponse),
    "Maintenance/Alarm": (rpc_pb2.AlarmRequest, rpc_pb2.AlarmResponse),
    "Maintenance/Hash": (rpc_pb2.HashRequest, rpc_pb2.HashResponse),
    "Maintenance/Defragment": (rpc_pb2.DefragmentRequest, rpc_pb2.DefragmentResponse),
    "Maintenance/MoveLeader": (rpc_pb2.MoveLeaderRequest, rpc_pb2.MoveLeaderResponse),
    "Maintenance/Downgrade": (rpc_pb2.DowngradeRequest, rpc_pb2.DowngradeResponse),
}


def prefix_end(prefix: bytes) -> bytes:
    """The range_end of all keys that start with `prefix` (RNG-06)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


class Calls:
    """The RPCs over any grpcio channel; keyword arguments are the request's field names."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._unary = {
            name: channel.unary_unary(
                f"/etcdserverpb.{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (request, response) in _UNARY.items()
        }
        self._watch = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )
        self._keep_alive = channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc_pb2.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc_pb2.LeaseKeepAliveResponse.FromString,
        )
        self._health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    def call(self, name: str, request: Any, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Call ``etcdserverpb.<name>`` (such as ``KV/Put``) with a ready request."""
        return self._unary[name](request, timeout=timeout)

    def call_that_needs_a_leader(self, name: str, request: Any) -> Any:
        """`call` with the metadata ``hasleader: true`` (GEN-12)."""
        metadata = (("hasleader", "true"),)
        return self._unary[name](request, timeout=DEFAULT_TIMEOUT, metadata=metadata)

    def put(
        self, key: bytes, value: bytes = b"", *, timeout: float = DEFAULT_TIMEOUT, **fields: Any
    ) -> Any:
        """KV.Put."""
        return self.call("KV/Put", rpc_pb2.PutRequest(key=key, value=value, **fields), timeout)

    def get(self, key: bytes, *, timeout: float = DEFAULT_TIMEOUT, **fields: Any) -> Any:
        """KV.Range of one key, or of more with ``range_end``."""
        return self.call("KV/Range", rpc_pb2.RangeRequest(key=key, **fields), timeout)

    def prefix(self, prefix: bytes, **fields: Any) -> Any:
        """KV.Range of all keys that start with `prefix`."""
        return self.get(prefix, range_end=prefix_end(prefix), **fields)

    def delete(self, key: bytes, *, timeout: float = DEFAULT_TIMEOUT, **fields: Any) -> Any:
        """KV.DeleteRange."""
        request = rpc_pb2.DeleteRangeRequest(key=key, **fields)
        return self.call("KV/DeleteRange", request, timeout)

    def txn(
        self,
        compare: Iterable[Any] = (),
        success: Iterable[Any] = (),
        failure: Iterable[Any] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Any:
        """KV.Txn."""
        request = rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)
        return self.call("KV/Txn", request, timeout)

    def compact(self, revision: int, *, physical: bool = False) -> Any:
        """KV.Compact."""
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
        return self.call("KV/Compact", request)

    def grant(self, ttl: int, lease_id: int = 0) -> Any:
        """Lease.LeaseGrant; `ttl` in seconds."""
        return self.call("Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id))

    def revoke(self, lease_id: int) -> Any:
        """Lease.LeaseRevoke."""
        return self.call("Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=lease_id))

    def time_to_live(self, lease_id: int, *, keys: bool = False) -> Any:
        """Lease.LeaseTimeToLive."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        return self.call("Lease/LeaseTimeToLive", request)

    def member_list(self, *, linearizable: bool = True, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Cluster.MemberList."""
        request = rpc_pb2.MemberListRequest(linearizable=linearizable)
        return self.call("Cluster/MemberList", request, timeout)

    def member_add(
        self, *urls: str, learner: bool = False, timeout: float = DEFAULT_TIMEOUT
    ) -> Any:
        """Cluster.MemberAdd."""
        request = rpc_pb2.MemberAddRequest(peerURLs=urls, isLearner=learner)
        return self.call("Cluster/MemberAdd", request, timeout)

    def member_remove(self, member_id: int, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Cluster.MemberRemove."""
        request = rpc_pb2.MemberRemoveRequest(ID=member_id)
        return self.call("Cluster/MemberRemove", request, timeout)

    def member_update(self, member_id: int, *urls: str) -> Any:
        """Cluster.MemberUpdate."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=urls)
        return self.call("Cluster/MemberUpdate", request)

    def member_promote(self, member_id: int) -> Any:
        """Cluster.MemberPromote."""
        return self.call("Cluster/MemberPromote", rpc_pb2.MemberPromoteRequest(ID=member_id))

    def status(self, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Maintenance.Status."""
        return self.call("Maintenance/Status", rpc_pb2.StatusRequest(), timeout)

    def hash_kv(self, revision: int = 0) -> Any:
        """Maintenance.HashKV at `revision` (0: the current one)."""
        request = rpc_pb2.HashKVRequest(revision=revision)
        return self.call("Maintenance/HashKV", request, timeout=60.0)

    def alarm(self, action: int, member: int = 0, kind: int = 0) -> Any:
        """Maintenance.Alarm; action 0 GET, 1 ACTIVATE, 2 DEACTIVATE; any number may be sent."""
        fields: dict[str, Any] = {"action": action, "memberID": member, "alarm": kind}
        request = rpc_pb2.AlarmRequest(**fields)
        return self.call("Maintenance/Alarm", request)

    def defragment(self, timeout: float = 60.0) -> Any:
        """Maintenance.Defragment."""
        return self.call("Maintenance/Defragment", rpc_pb2.DefragmentRequest(), timeout)

    def move_leader(self, target: int, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Maintenance.MoveLeader."""
        request = rpc_pb2.MoveLeaderRequest(targetID=target)
        return self.call("Maintenance/MoveLeader", request, timeout)

    def downgrade(self, action: int, version: str = "") -> Any:
        """Maintenance.Downgrade; action 0 VALIDATE, 1 ENABLE, 2 CANCEL; any number may be sent."""
        fields: dict[str, Any] = {"action": action, "version": version}
        request = rpc_pb2.DowngradeRequest(**fields)
        return self.call("Maintenance/Downgrade", request)

    def health(self) -> Any:
        """grpc.health.v1.Health.Check."""
        return self._health(health_pb2.HealthCheckRequest(), timeout=DEFAULT_TIMEOUT)


class Client(Calls):
    """The synchronous client of one endpoint; `options` are more of grpcio's for its channel."""

    def __init__(self, endpoint: str, options: Sequence[tuple[str, int]] = ()) -> None:
        super().__init__(grpc.insecure_channel(endpoint, options=[*OPTIONS, *options]))

    def keep_alive_once(self, lease_id: int) -> Any:
        """One request and its answer on a LeaseKeepAlive stream."""
        requests = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)])
        return next(self._keep_alive(requests, timeout=DEFAULT_TIMEOUT))

    def put_many(self, keys: Sequence[bytes], value: bytes = b"") -> list[int]:
        """Put many keys, `PIPELINE` of them at once; return their revisions, of each key its own.

        Raises:
            grpc.RpcError: one of them was not answered; the others may have happened.
        """
        revisions = []
        for start in range(0, len(keys), PIPELINE):
            calls = [
                self._unary["KV/Put"].future(
                    rpc_pb2.PutRequest(key=key, value=value), timeout=DEFAULT_TIMEOUT
                )
                for key in keys[start : start + PIPELINE]
            ]
            revisions += [int(call.result().header.revision) for call in calls]
        return revisions

    @contextmanager
    def watch(self, start_revision: int) -> Iterator[Iterator[Any]]:
        """Responses of one watcher of all keys; the first is the ``created`` answer."""
        create = rpc_pb2.WatchCreateRequest(
            key=b"\0", range_end=b"\0", start_revision=start_revision
        )
        call = self._watch(iter([rpc_pb2.WatchRequest(create_request=create)]), timeout=60.0)
        try:
            yield call
        finally:
            call.cancel()

    def snapshot(self) -> Any:
        """Maintenance.Snapshot: the call, which is an iterator of its responses."""
        return self.channel.unary_stream(
            "/etcdserverpb.Maintenance/Snapshot",
            request_serializer=rpc_pb2.SnapshotRequest.SerializeToString,
            response_deserializer=rpc_pb2.SnapshotResponse.FromString,
        )(rpc_pb2.SnapshotRequest(), timeout=120.0)

    def raw_unary(self, method: str, body: bytes, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """Call any method path with any bytes as its message."""
        answer: bytes = self.channel.unary_unary(method)(body, timeout=timeout)
        return answer

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def put_op(key: bytes, value: bytes) -> Any:
    """A Txn operation that puts."""
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))


def delete_op(key: bytes, range_end: bytes = b"") -> Any:
    """A Txn operation that deletes."""
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end)
    return rpc_pb2.RequestOp(request_delete_range=request)
