"""One member's key-value state with real parts (store, lessor, backend) and nothing around it.

Requests go the way they go in the server: structural check, apply, header in front of the body. So
what the tests see are the messages that a client would see.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from kvstore.apply import kv
from kvstore.lease.lessor import Lessor
from kvstore.mvcc.store import Event, Store
from kvstore.pb import rpc_pb2
from kvstore.storage.backend import Backend
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.memory_backend import MemoryBackend

Response = TypeVar("Response", bound=Message)
ALL = b"\0"
"""Key and range_end of "everything" (RNG-01)."""


class KvMember:
    """Answers requests with parsed responses; `events` holds every announced revision."""

    def __init__(self, open_backend: Callable[[Backend | None], Backend]) -> None:
        self._open = open_backend
        self.backend = open_backend(None)
        self._start()

    def _start(self) -> None:
        self.store = Store(self.backend)
        self.lessor = Lessor(self.backend, min_ttl=1)
        assert self.lessor.restore(self.store.take_attachments()) == []
        self.events: list[tuple[int, list[Event]]] = []
        self.store.on_events = lambda revision, events: self.events.append((revision, events))

    def crash(self) -> None:
        """Lose what is not committed and start again from what is."""
        self.backend = self._open(self.backend)
        self._start()

    @property
    def revision(self) -> int:
        return self.store.revision

    def put(self, key: bytes, value: bytes = b"", **fields: int) -> rpc_pb2.PutResponse:
        request = rpc_pb2.PutRequest(key=key, value=value, **fields)
        kv.check_put(request)
        return _response(rpc_pb2.PutResponse, kv.apply_put(self.store, self.lessor, request))

    def delete(
        self, key: bytes, range_end: bytes = b"", prev_kv: bool = False
    ) -> rpc_pb2.DeleteRangeResponse:
        request = rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
        kv.check_delete_range(request)
        answer = kv.apply_delete_range(self.store, self.lessor, request)
        return _response(rpc_pb2.DeleteRangeResponse, answer)

    def range(self, key: bytes, range_end: bytes = b"", **fields: int) -> rpc_pb2.RangeResponse:
        return self.ask(rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields))

    def ask(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        kv.check_range(request)
        return _response(rpc_pb2.RangeResponse, kv.range_body(self.store, request))

    def keys(self, **fields: int) -> list[bytes]:
        return [found.key for found in self.range(ALL, ALL, **fields).kvs]

    def txn(
        self,
        compare: list[rpc_pb2.Compare] | None = None,
        success: list[rpc_pb2.RequestOp] | None = None,
        failure: list[rpc_pb2.RequestOp] | None = None,
        max_txn_ops: int = kv.MAX_TXN_OPS,
    ) -> rpc_pb2.TxnResponse:
        request = rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)
        return self.run(request, max_txn_ops)

    def run(
        self, request: rpc_pb2.TxnRequest, max_txn_ops: int = kv.MAX_TXN_OPS
    ) -> rpc_pb2.TxnResponse:
        kv.check_txn(request, max_txn_ops)
        if kv.is_read_only_txn(request):
            answer = kv.read_only_txn_body(self.store, request)
        else:
            answer = kv.apply_txn(self.store, self.lessor, request)
        return _response(rpc_pb2.TxnResponse, answer)

    def grant(self, lease: int) -> None:
        self.lessor.grant(lease, 60, 0.0)

    def revoke(self, lease: int) -> int:
        return kv.apply_delete_keys(self.store, self.lessor, self.lessor.revoke(lease))

    def compact(self, revision: int) -> None:
        """Compact and finish the physical removal."""
        self.store.compact(revision)
        self.finish_compaction()

    def finish_compaction(self, limit: int = 1000) -> int:
        """Run physical removal to its end; return how many steps it took."""
        steps = 1
        while self.store.compact_step(limit):
            steps += 1
        return steps


def _response(kind: type[Response], answer: tuple[int, bytes]) -> Response:
    response = kind.FromString(answer[1])
    assert not response.HasField("header"), "the header is the caller's"  # type: ignore[arg-type]
    response.header.revision = answer[0]  # type: ignore[attr-defined]
    return response


def memory_member() -> KvMember:
    """A member on a MemoryBackend; a crash keeps what was committed."""

    def reopen(before: Backend | None) -> Backend:
        return before.crash() if isinstance(before, MemoryBackend) else MemoryBackend()

    return KvMember(reopen)


def lmdb_member(directory: Path) -> KvMember:
    """A member on a real file; a crash closes it without a commit and opens it again."""

    def reopen(before: Backend | None) -> Backend:
        if before is not None:
            before.close()
        return LmdbBackend(directory / "db")

    return KvMember(reopen)


# Short forms of the messages inside transactions.


def put_op(key: bytes, value: bytes = b"", **fields: int) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, **fields))


def delete_op(key: bytes, range_end: bytes = b"", prev_kv: bool = False) -> rpc_pb2.RequestOp:
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
    return rpc_pb2.RequestOp(request_delete_range=request)


def range_op(key: bytes, range_end: bytes = b"", **fields: int) -> rpc_pb2.RequestOp:
    request = rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields)
    return rpc_pb2.RequestOp(request_range=request)


def txn_op(
    compare: list[rpc_pb2.Compare] | None = None,
    success: list[rpc_pb2.RequestOp] | None = None,
    failure: list[rpc_pb2.RequestOp] | None = None,
) -> rpc_pb2.RequestOp:
    request = rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)
    return rpc_pb2.RequestOp(request_txn=request)
