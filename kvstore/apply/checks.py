"""Structural checks of requests, before anything is proposed.

They see the request alone, never the store, so that every member would decide alike; what depends
on the store is checked when the request is applied (TXN-13). Each raises EtcdError and changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kvstore import errors
from kvstore.mvcc.range import interval, is_filtered
from kvstore.pb.rpc_pb2 import (
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

MAX_TXN_OPS = 128
"""Default of the flag `--max-txn-ops` (TXN-11)."""

_SORT_ORDERS = frozenset(RangeRequest.SortOrder.values())
_SORT_TARGETS = frozenset(RangeRequest.SortTarget.values())


def check_range(request: RangeRequest) -> None:
    """Raise EMPTY_KEY (RNG-01) or INVALID_SORT_OPTION (RNG-22)."""
    if not request.key:
        raise errors.EMPTY_KEY
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise errors.INVALID_SORT_OPTION


def check_range_stream(request: RangeRequest) -> None:
    """Raise what `check_range` does, RANGE_STREAM_ORDER or RANGE_STREAM_FILTER (RST-01, RST-02)."""
    check_range(request)
    by_key = request.sort_target == RangeRequest.KEY and request.sort_order == RangeRequest.ASCEND
    if request.sort_order != RangeRequest.NONE and not by_key:
        raise errors.RANGE_STREAM_ORDER
    if is_filtered(request):
        raise errors.RANGE_STREAM_FILTER


def check_put(request: PutRequest) -> None:
    """Raise EMPTY_KEY, VALUE_PROVIDED or LEASE_PROVIDED (PUT-07)."""
    if not request.key:
        raise errors.EMPTY_KEY
    if request.ignore_value and request.value:
        raise errors.VALUE_PROVIDED
    if request.ignore_lease and request.lease:
        raise errors.LEASE_PROVIDED


def check_delete_range(request: DeleteRangeRequest) -> None:
    """Raise EMPTY_KEY (DEL-01)."""
    if not request.key:
        raise errors.EMPTY_KEY


def check_txn(request: TxnRequest, max_txn_ops: int = MAX_TXN_OPS) -> None:
    """Check both branches and all nested transactions (TXN-09..13).

    Raises:
        EtcdError: TOO_MANY_OPS, EMPTY_KEY, KEY_NOT_FOUND (an op without a request),
            DUPLICATE_KEY, and what the checks of the single operations raise.
    """
    _check_ops(request, max_txn_ops)
    _touched(request.success)
    _touched(request.failure)


def _check_ops(request: TxnRequest, budget: int) -> None:
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > budget:
        raise errors.TOO_MANY_OPS
    for compare in request.compare:
        if not compare.key:
            raise errors.EMPTY_KEY
    for branch in (request.success, request.failure):
        for op in branch:
            _check_op(op, budget - count)


def _check_op(op: RequestOp, budget: int) -> None:
    match op.WhichOneof("request"):
        case "request_range":
            check_range(op.request_range)
        case "request_put":
            check_put(op.request_put)
        case "request_delete_range":
            check_delete_range(op.request_delete_range)
        case "request_txn":
            _check_ops(op.request_txn, budget)
        case _:
            raise errors.KEY_NOT_FOUND


class _Touched(NamedTuple):
    """What a branch writes: keys put, and intervals deleted."""

    puts: set[bytes]
    deletes: list[tuple[bytes, bytes | None]]

    def put(self, key: bytes, allowed: Iterable[bytes] = ()) -> None:
        """Add a put; it may repeat a key of `allowed`. Raises DUPLICATE_KEY."""
        if key in self.puts and key not in allowed:
            raise errors.DUPLICATE_KEY
        for start, end in self.deletes:
            if start <= key and (end is None or key < end):
                raise errors.DUPLICATE_KEY
        self.puts.add(key)


def _touched(branch: Iterable[RequestOp]) -> _Touched:
    """Return what `branch` writes, nested transactions included (TXN-10).

    As in etcd, a nested delete counts only against puts that come after it or are its parent's: a
    put in one nested transaction and a delete of the same key in a *later* one pass.
    """
    ops = [(op.WhichOneof("request"), op) for op in branch]
    touched = _Touched(set(), [])
    for kind, op in ops:
        if kind == "request_delete_range":
            delete = op.request_delete_range
            touched.deletes.append(interval(delete.key, delete.range_end))
    for kind, op in ops:
        if kind == "request_txn":
            success, failure = _touched(op.request_txn.success), _touched(op.request_txn.failure)
            for key in success.puts:
                touched.put(key)
            for key in failure.puts:
                touched.put(key, allowed=success.puts)
            touched.deletes.extend(success.deletes)
            touched.deletes.extend(failure.deletes)
    for kind, op in ops:
        if kind == "request_put":
            touched.put(op.request_put.key)
    return touched
