"""What a request costs against the backend's quota (MNT-12): the same estimate on every member."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kvstore.pb.rpc_pb2 import PutRequest, RequestOp, TxnRequest

PUT_OVERHEAD_BYTES: Final = 256
"""What a put costs besides its key and value."""

LEASE_COST_BYTES: Final = 64
"""What a lease costs."""

MAX_COST_PER_BYTE: Final = 64
"""No log entry costs more than so many times its length: the shortest put in a transaction has 7
bytes and costs 257."""


def put_cost(request: PutRequest) -> int:
    """Return what a put may add to the backend, in bytes."""
    return PUT_OVERHEAD_BYTES + len(request.key) + len(request.value)


def txn_cost(request: TxnRequest) -> int:
    """Return what a transaction may add: its costlier branch, in bytes; 0 without any put."""
    return max(_ops_cost(request.success), _ops_cost(request.failure))


def _ops_cost(ops: Iterable[RequestOp]) -> int:
    cost = 0
    for op in ops:
        if op.HasField("request_put"):
            cost += put_cost(op.request_put)
        elif op.HasField("request_txn"):
            cost += txn_cost(op.request_txn)
    return cost
