"""The requests that kube-apiserver sends to etcd, field by field, a connection for each resource.

What lives here: every shape of request that its storage layer has (Get, List, Count, Keys, the
transactions with their failure ranges, Watch with its metadata, leases, Status), each sent exactly
so: fields that apiserver leaves at their default stay there. What may not: retries of writes,
caching; a test must see each answer as it came.

Trade-off: balancing over the members and reconnecting are gRPC's own (``round_robin``), as they are
in apiserver's client, so a call may fail with gRPC's UNAVAILABLE while a member is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from kvstore.pb import rpc_pb2
from tests.e2e.client import prefix_end
from tests.kube.watching import Response, WatchStream

REGISTRY = b"/registry/"
HEALTH_KEY = b"/registry/health"
CALL_SECONDS = 60.0
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 30_000, 10_000
HAS_LEADER = ("hasleader", "true")
FROM_CACHE = ("source", "cache")
"""Metadata that apiserver adds to all calls of its watch cache; etcd knows nothing of it."""
API_VERSION = ("client-api-version", "3.6")

_OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", 2 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]

KeyValue = Any


@dataclass(frozen=True, slots=True)
class Page:
    """What apiserver keeps of one List answer."""

    kvs: list[KeyValue]
    count: int
    revision: int
    """The header's revision: it becomes the list's resourceVersion."""

    @property
    def more(self) -> bool:
        """Whether apiserver asks for another page (KUB-03)."""
        return len(self.kvs) < self.count

    def continue_key(self) -> bytes:
        """The first key of the next page."""
        return bytes(self.kvs[-1].key) + b"\0"


@dataclass(frozen=True, slots=True)
class Written:
    """The answer of a guarded write: done at `revision`, or refused with what is there instead."""

    succeeded: bool
    revision: int
    current: KeyValue | None = None
    """On refusal with a failure range: the object as it is now, None if it is gone."""


class Resource:
    """One resource type (``pods``): its prefix and apiserver's connection for it (KUB-15)."""

    def __init__(
        self, endpoints: Sequence[str], name: str, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.prefix = REGISTRY + name.encode() + b"/"
        self.metadata = (API_VERSION, *metadata)
        self.channel = grpc.aio.insecure_channel(
            "ipv4:" + ",".join(endpoints),
            # The Go client's authority is the first endpoint, not the whole list.
            options=[*_OPTIONS, ("grpc.default_authority", endpoints[0])],
        )
        self._range = self._unary("KV/Range", rpc_pb2.RangeRequest, rpc_pb2.RangeResponse)
        self._txn = self._unary("KV/Txn", rpc_pb2.TxnRequest, rpc_pb2.TxnResponse)
        self._compact = self._unary(
            "KV/Compact", rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse
        )
        self._grant = self._unary(
            "Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse
        )
        self._status = self._unary(
            "Maintenance/Status", rpc_pb2.StatusRequest, rpc_pb2.StatusResponse
        )

    def _unary(self, method: str, request: Any, response: Any) -> Any:
        return self.channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    async def __aenter__(self) -> Resource:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.channel.close()

    async def connected(self) -> None:
        """Wait until a connection stands, as apiserver does before its first call (KUB-29)."""
        await self.channel.channel_ready()

    def key(self, name: str) -> bytes:
        """``/registry/<resource>/<name>``; `name` holds the namespace."""
        return self.prefix + name.encode()

    # -- reads ----------------------------------------------------------------------------------

    async def range(self, **fields: Any) -> Response:
        """KV.Range with just these fields."""
        request = rpc_pb2.RangeRequest(**fields)
        return await self._range(request, timeout=CALL_SECONDS, metadata=self.metadata)

    async def get(self, name: str) -> Response:
        """KUB-01."""
        return await self.range(key=self.key(name), limit=1)

    async def list_page(
        self, limit: int = 0, revision: int = 0, start: bytes = b"", prefix: bytes = b""
    ) -> Page:
        """KUB-02: one page of the keys under `prefix` (default: all of the resource)."""
        under = prefix or self.prefix
        answer = await self.range(
            key=start or under, range_end=prefix_end(under), limit=limit, revision=revision
        )
        page = Page(list(answer.kvs), answer.count, answer.header.revision)
        assert page.kvs or not page.count, "KUB-04: no keys, yet a count"
        return page

    async def list(self, limit: int = 0, revision: int = 0) -> Page:
        """All pages, pinned to the revision of the first one as continue tokens pin them."""
        page = await self.list_page(limit, revision)
        kvs, pin = page.kvs, revision or page.revision
        while page.more:
            page = await self.list_page(limit, pin, page.continue_key())
            kvs.extend(page.kvs)
        return Page(kvs, len(kvs), pin)

    async def count(self) -> int:
        """KUB-07."""
        end = prefix_end(self.prefix)
        return int((await self.range(key=self.prefix, range_end=end, count_only=True)).count)

    async def keys(self) -> list[bytes]:
        """KUB-07: the request of the size estimator."""
        answer = await self.range(
            key=self.prefix, range_end=prefix_end(self.prefix), keys_only=True
        )
        assert not any(kv.value for kv in answer.kvs)
        return [kv.key for kv in answer.kvs]

    async def current_revision(self) -> int:
        """KUB-08."""
        return (await self.list_page(limit=1)).revision

    async def health(self) -> Response:
        """KUB-28."""
        return await self.range(key=HEALTH_KEY)

    # -- writes ---------------------------------------------------------------------------------

    async def txn(self, compare: Any, success: Any, failure: Any = None) -> Response:
        """KV.Txn with one compare and at most one operation in each branch (KUB-12)."""
        request = rpc_pb2.TxnRequest(
            compare=[compare], success=[success], failure=[] if failure is None else [failure]
        )
        return await self._txn(request, timeout=CALL_SECONDS, metadata=self.metadata)

    async def create(self, name: str, value: bytes, lease: int = 0) -> Written:
        """KUB-09."""
        key = self.key(name)
        answer = await self.txn(mod_is(key, 0), put_op(key, value, lease))
        assert answer.succeeded or not answer.responses
        return Written(answer.succeeded, answer.header.revision)

    async def update(self, name: str, value: bytes, revision: int, lease: int = 0) -> Written:
        """KUB-10: replace what was last written at `revision`."""
        key = self.key(name)
        return await self._guarded(key, revision, put_op(key, value, lease))

    async def delete(self, name: str, revision: int) -> Written:
        """KUB-10: delete what was last written at `revision`."""
        key = self.key(name)
        return await self._guarded(key, revision, delete_op(key))

    async def _guarded(self, key: bytes, revision: int, operation: Any) -> Written:
        answer = await self.txn(mod_is(key, revision), operation, get_op(key))
        if answer.succeeded:
            return Written(True, answer.header.revision)
        kvs = answer.responses[0].response_range.kvs
        return Written(False, answer.header.revision, kvs[0] if len(kvs) == 1 else None)

    # -- the rest -------------------------------------------------------------------------------

    async def compact(self, revision: int) -> Response:
        """KV.Compact, not physical."""
        request = rpc_pb2.CompactionRequest(revision=revision)
        return await self._compact(request, timeout=CALL_SECONDS, metadata=self.metadata)

    async def grant(self, ttl: int) -> Response:
        """KUB-25: the server chooses the id."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl)
        return await self._grant(request, timeout=CALL_SECONDS, metadata=self.metadata)

    async def status(self) -> Response:
        """KUB-27, KUB-28."""
        request = rpc_pb2.StatusRequest()
        return await self._status(request, timeout=CALL_SECONDS, metadata=self.metadata)

    def watch_stream(self, *metadata: tuple[str, str]) -> WatchStream:
        """A Watch call that requires a leader, with more `metadata` if given."""
        return WatchStream(self.channel, (*self.metadata, HAS_LEADER, *metadata))


def mod_is(key: bytes, revision: int) -> Any:
    """Compare: the key was last written at `revision` (0: it does not exist)."""
    return rpc_pb2.Compare(
        key=key,
        target=rpc_pb2.Compare.MOD,
        result=rpc_pb2.Compare.EQUAL,
        mod_revision=revision,
    )


def version_is(key: bytes, version: int) -> Any:
    """Compare: the key was written `version` times since it exists."""
    return rpc_pb2.Compare(
        key=key,
        target=rpc_pb2.Compare.VERSION,
        result=rpc_pb2.Compare.EQUAL,
        version=version,
    )


def put_op(key: bytes, value: bytes, lease: int = 0) -> Any:
    """The success operation of a write."""
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))


def delete_op(key: bytes) -> Any:
    """The success operation of a deletion."""
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))


def get_op(key: bytes) -> Any:
    """The failure operation: what is there instead."""
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
