"""Structural checks of requests, before anything is proposed.

They see the request alone, never the store, so that every member would decide alike; what depends
on the store is checked when the request is applied (TXN-13). Each raises EtcdError and changes
nothing.
"""

from __future__ import annotations

from kvstore import errors
from kvstore.apply.written import written
from kvstore.mvcc.range import is_filtered
from kvstore.pb.rpc_pb2 import (
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

MAX_TXN_OPS = 128
"""Default of the flag `--max-txn-ops` (TXN-11)."""

MAX_NESTED_OPS = 16_384
"""Operations that a transaction may have with all that are nested in it, if MAX_TXN_OPS allows no
more. etcd has no such limit: with each level's budget spent on the next (TXN-11), a request of
1.5 MiB holds 150,000, and applying these would hold up every member for a second."""

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
    _check_ops(request, max_txn_ops, max(MAX_NESTED_OPS, max_txn_ops))
    for branch in (request.success, request.failure):
        if len(branch) > 1 or (branch and branch[0].HasField("request_txn")):
            written(branch)


def _check_ops(request: TxnRequest, budget: int, left: int) -> int:
    """Check a transaction that may have `left` operations with all nested ones; return the rest."""
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > budget:
        raise errors.TOO_MANY_OPS
    for compare in request.compare:
        if not compare.key:
            raise errors.EMPTY_KEY
    left -= len(request.success) + len(request.failure)
    for branch in (request.success, request.failure):
        for op in branch:
            if op.HasField("request_txn"):
                left = _check_ops(op.request_txn, budget - count, left)
            else:
                _check_op(op)
    if left < 0:
        raise errors.TOO_MANY_OPS
    return left


def _check_op(op: RequestOp) -> None:
    match op.WhichOneof("request"):
        case "request_range":
            check_range(op.request_range)
        case "request_put":
            check_put(op.request_put)
        case "request_delete_range":
            check_delete_range(op.request_delete_range)
        case _:
            raise errors.KEY_NOT_FOUND
