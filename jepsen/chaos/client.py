"""One client's connection to one member, and what its errors allow to conclude.

Nothing is retried and nothing fails over: an operation is asked of one member, once, so that its
outcome is known or honestly unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from jepsen.history import Outcome
from kvstore.pb import rpc_pb2

TIMEOUT_S: Final = 5.0

_DEFINITE_CODES: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Certainly not done (RFT-21). CORRUPT refuses before it writes."""

_DEFINITE_TEXTS: Final = (
    "etcdserver: too many requests",
    "raft proposal dropped",
    "etcdserver: no leader",
    "etcdserver: leader changed",
    # grpcio's own words: the request never left.
    "failed to connect to all addresses",
)

_OPTIONS: Final = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
]

_CALLS: Final[dict[str, tuple[str, Any, Any]]] = {
    "range": ("KV/Range", rpc_pb2.RangeRequest, rpc_pb2.RangeResponse),
    "put": ("KV/Put", rpc_pb2.PutRequest, rpc_pb2.PutResponse),
    "delete": ("KV/DeleteRange", rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse),
    "txn": ("KV/Txn", rpc_pb2.TxnRequest, rpc_pb2.TxnResponse),
    "compact": ("KV/Compact", rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse),
    "grant": ("Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse),
    "revoke": ("Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse),
    "status": ("Maintenance/Status", rpc_pb2.StatusRequest, rpc_pb2.StatusResponse),
    "hash_kv": ("Maintenance/HashKV", rpc_pb2.HashKVRequest, rpc_pb2.HashKVResponse),
    "alarm": ("Maintenance/Alarm", rpc_pb2.AlarmRequest, rpc_pb2.AlarmResponse),
    "defragment": (
        "Maintenance/Defragment",
        rpc_pb2.DefragmentRequest,
        rpc_pb2.DefragmentResponse,
    ),
    "move_leader": (
        "Maintenance/MoveLeader",
        rpc_pb2.MoveLeaderRequest,
        rpc_pb2.MoveLeaderResponse,
    ),
    "member_list": ("Cluster/MemberList", rpc_pb2.MemberListRequest, rpc_pb2.MemberListResponse),
    "member_add": ("Cluster/MemberAdd", rpc_pb2.MemberAddRequest, rpc_pb2.MemberAddResponse),
    "member_remove": (
        "Cluster/MemberRemove",
        rpc_pb2.MemberRemoveRequest,
        rpc_pb2.MemberRemoveResponse,
    ),
    "member_promote": (
        "Cluster/MemberPromote",
        rpc_pb2.MemberPromoteRequest,
        rpc_pb2.MemberPromoteResponse,
    ),
}


class Failed(Exception):
    """A call failed.

    Attributes:
        outcome: FAIL when it certainly had no effect, else INFO.
    """

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


def failed(error: grpc.RpcError) -> Failed:
    """Classify a gRPC error."""
    code, details = error.code(), error.details() or ""
    definite = code in _DEFINITE_CODES or any(text in details for text in _DEFINITE_TEXTS)
    outcome = Outcome.FAIL if definite else Outcome.INFO
    return Failed(outcome, f"{code.name}: {details}"[:200])


class Connection:
    """A channel to one member. Calls take the request's fields and raise `Failed`."""

    def __init__(self, name: str, endpoint: str) -> None:
        self.name = name
        self._channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        self._calls = {
            name: self._channel.unary_unary(
                f"/etcdserverpb.{path}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (path, request, response) in _CALLS.items()
        }
        self._watch = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )
        self._keep_alive = self._channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc_pb2.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc_pb2.LeaseKeepAliveResponse.FromString,
        )

    async def call(self, name: str, timeout_s: float = TIMEOUT_S, **fields: Any) -> Any:
        """Call by short name with the request's fields (``call("put", key=..., value=...)``)."""
        return await self.send(name, _CALLS[name][1](**fields), timeout_s)

    async def send(self, name: str, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """`call` with a ready request."""
        try:
            return await self._calls[name](request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise failed(error) from None

    async def renew(self, lease: int, timeout_s: float = TIMEOUT_S) -> int:
        """Renew a lease once; return the TTL answered, 0 for a lease that is gone."""
        call = self._keep_alive(timeout=timeout_s)
        try:
            await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
            answer = await call.read()
        except grpc.RpcError as error:
            raise failed(error) from None
        finally:
            call.cancel()
        if answer is grpc.aio.EOF:
            raise Failed(Outcome.INFO, "the keepalive stream ended")
        return int(answer.TTL)

    async def watch(self, create: Any, ask_s: float = 0.0) -> AsyncIterator[Any]:
        """Yield the responses of one watcher on a stream of its own, until it breaks: `Failed`.

        Args:
            ask_s: seconds between two requests for progress; 0: none.
        """
        call = self._watch()
        asking: asyncio.Task[None] | None = None
        try:
            await call.write(rpc_pb2.WatchRequest(create_request=create))
            if ask_s:
                asking = asyncio.create_task(_ask_for_progress(call, ask_s))
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise failed(error) from None
        finally:
            if asking is not None:
                asking.cancel()
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()


async def _ask_for_progress(call: Any, period_s: float) -> None:
    """Ask on a watch stream, until it ends; who reads it is told why."""
    progress = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        while True:
            await asyncio.sleep(period_s)
            await call.write(progress)
