"""Transactions: compares, checks of the taken path, then the writes.

Three steps that never mix: `_plan` evaluates every compare against the state before the
transaction (TXN-07), `_check` refuses what the taken path cannot do (TXN-13..16), `_run` writes and
cannot fail. The trade-off: planning walks nested transactions once more than running them would
need, and in return a failing transaction leaves no trace (TXN-14).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from kvstore import errors
from kvstore.apply.operations import (
    Answer,
    check_put_state,
    delete_range_in,
    encode_range,
    put_in,
    range_body,
)
from kvstore.apply.ports import Lessor
from kvstore.mvcc.index import KeyRecord
from kvstore.mvcc.keyvalue import length_delimited, varint
from kvstore.mvcc.range import interval, range_steps
from kvstore.mvcc.steps import Steps, drain
from kvstore.mvcc.store import Store, WriteTxn
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import Compare, RangeRequest, RequestOp, TxnRequest

_EMPTY_HEADER = b"\n\x00"
_SUCCEEDED = b"\x10\x01"
# Tags of the members of ResponseOp, and of TxnResponse.responses.
_RANGE, _PUT, _DELETE_RANGE, _TXN = b"\n", b"\x12", b"\x1a", b'"'
_RESPONSE = b"\x1a"

Comparable = TypeVar("Comparable", int, bytes)


def is_read_only_txn(request: TxnRequest) -> bool:
    """Tell whether the transaction can be served without the log (TXN-21).

    So it is if every op of both branches is a Range; any nested transaction is not (TXN-23).
    """
    return all(
        op.WhichOneof("request") == "request_range"
        for branch in (request.success, request.failure)
        for op in branch
    )


def is_serializable_txn(request: TxnRequest) -> bool:
    """Tell whether a read-only transaction may be answered from local state.

    So it is if it has ops and all are serializable Ranges. One with compares only is served
    linearizable, unlike etcd's (TXN-22).
    """
    ops = [*request.success, *request.failure]
    return bool(ops) and all(
        op.WhichOneof("request") == "request_range" and op.request_range.serializable for op in ops
    )


def apply_txn(store: Store, lessor: Lessor, request: TxnRequest) -> Answer:
    """Run a transaction.

    Raises:
        EtcdError: LEASE_NOT_FOUND, KEY_NOT_FOUND, FUTURE_REV or COMPACTED on the taken path.
    """
    plan = _plan(store, request)
    _check(store, lessor, plan)
    store.txns += 1
    txn = store.begin()
    body = _run(txn, store, lessor, plan)
    return txn.commit(), body


def read_only_txn_body(store: Store, request: TxnRequest) -> Answer:
    """Run a transaction of which `is_read_only_txn` holds, in one go. Raises EtcdError."""
    return drain(read_only_txn_steps(store, request))


def read_only_txn_steps(store: Store, request: TxnRequest) -> Steps[Answer]:
    """Run a transaction of which `is_read_only_txn` holds, in slices (see `kvstore.mvcc.steps`).

    All of it sees one instant (TXN-25). Compares and checks are in the first slice.

    Raises:
        EtcdError: FUTURE_REV or COMPACTED.
    """
    plan = _plan(store, request)
    for op in plan.ops:
        _check_range(store, op.request_range)
    now = lowest = store.revision
    for op in plan.ops:
        if 0 < op.request_range.revision < lowest:
            lowest = op.request_range.revision
    responses = []
    with store.pinned(lowest):
        for op in plan.ops:
            found = yield from range_steps(store, op.request_range, now)
            body = _inner_header(now) + encode_range(found)
            responses.append(length_delimited(_RANGE, body))
            if op.request_range.range_end:
                yield
    return now, _txn_response(plan.succeeded, responses)


class _Plan(NamedTuple):
    """The taken path: which branch, and the plans of its nested transactions, in order."""

    succeeded: bool
    ops: Sequence[RequestOp]
    nested: list[_Plan]


def _plan(store: Store, request: TxnRequest) -> _Plan:
    succeeded = all(_holds(store, compare) for compare in request.compare)
    ops = request.success if succeeded else request.failure
    nested = [
        _plan(store, op.request_txn) for op in ops if op.WhichOneof("request") == "request_txn"
    ]
    return _Plan(succeeded, ops, nested)


# Compares.


def _holds(store: Store, compare: Compare) -> bool:
    """Evaluate a compare: over an interval every key must pass (TXN-06)."""
    records = store.index.records
    if not compare.range_end:
        record = records.get(compare.key)
        if record is None or not record.version:
            return _missing_holds(compare)
        return _key_holds(store, compare, compare.key, record)
    start, end = interval(compare.key, compare.range_end)
    empty = True
    for key in store.index.live.irange(start, end, (True, False)):
        empty = False
        if not _key_holds(store, compare, key, records[key]):
            return False
    return _missing_holds(compare) if empty else True


def _missing_holds(compare: Compare) -> bool:
    """Compare with a missing key: numbers act as 0, a value never passes (TXN-04, TXN-05)."""
    if compare.target == Compare.VALUE:
        return False
    return _passes(0, _wanted_number(compare), compare.result)


def _key_holds(store: Store, compare: Compare, key: bytes, record: KeyRecord) -> bool:
    target = compare.target
    if target == Compare.MOD:
        return _passes(record.revisions[-1] >> 1, compare.mod_revision, compare.result)
    if target == Compare.VERSION:
        return _passes(record.version, compare.version, compare.result)
    if target == Compare.CREATE:
        return _passes(record.create, compare.create_revision, compare.result)
    if target == Compare.VALUE:
        return _passes(_stored(store, key).value, compare.value, compare.result)
    if target == Compare.LEASE:
        return _passes(_stored(store, key).lease, compare.lease, compare.result)
    return _passes(0, 0, compare.result)


def _stored(store: Store, key: bytes) -> KeyValue:
    key_value: KeyValue = KeyValue.FromString(store.get(key) or b"")
    return key_value


def _wanted_number(compare: Compare) -> int:
    """Return the number of the compare's target; 0 without, or with another's value (TXN-03)."""
    match compare.target:
        case Compare.VERSION:
            return compare.version
        case Compare.CREATE:
            return compare.create_revision
        case Compare.MOD:
            return compare.mod_revision
        case Compare.LEASE:
            return compare.lease
        case _:
            return 0


def _passes(actual: Comparable, wanted: Comparable, result: int) -> bool:
    if result == Compare.EQUAL:
        return actual == wanted
    if result == Compare.GREATER:
        return actual > wanted
    if result == Compare.LESS:
        return actual < wanted
    # As in etcd, a result it does not know passes.
    return actual != wanted if result == Compare.NOT_EQUAL else True


# Checks of the taken path.


def _check(store: Store, lessor: Lessor, plan: _Plan) -> None:
    nested = iter(plan.nested)
    for op in plan.ops:
        match op.WhichOneof("request"):
            case "request_range":
                _check_range(store, op.request_range)
            case "request_put":
                check_put_state(store, lessor, op.request_put)
            case "request_txn":
                _check(store, lessor, next(nested))


def _check_range(store: Store, request: RangeRequest) -> None:
    """Raise FUTURE_REV or COMPACTED (TXN-15); negative revisions are compared too (TXN-16)."""
    if request.revision > store.revision:
        raise errors.FUTURE_REV
    if request.revision != 0 and request.revision < store.compact_revision:
        raise errors.COMPACTED


# The writes.


def _run(txn: WriteTxn, store: Store, lessor: Lessor, plan: _Plan) -> bytes:
    """Run the taken path; return the TxnResponse without header."""
    nested = iter(plan.nested)
    responses = []
    for op in plan.ops:
        match op.WhichOneof("request"):
            case "request_range":
                response = _range_response(store, op.request_range)
            case "request_put":
                body = put_in(txn, store, lessor, op.request_put)
                response = length_delimited(_PUT, _inner_header(txn.main) + body)
            case "request_delete_range":
                body = delete_range_in(txn, store, lessor, op.request_delete_range)
                response = length_delimited(_DELETE_RANGE, _inner_header(store.newest) + body)
            case _:
                body = _run(txn, store, lessor, next(nested))
                response = length_delimited(_TXN, _EMPTY_HEADER + body)
        responses.append(response)
    return _txn_response(plan.succeeded, responses)


def _range_response(store: Store, request: RangeRequest) -> bytes:
    revision, body = range_body(store, request)
    return length_delimited(_RANGE, _inner_header(revision) + body)


def _inner_header(revision: int) -> bytes:
    """Return the header field of an inner response: the revision alone (TXN-19)."""
    return length_delimited(b"\n", b"\x18" + varint(revision))


def _txn_response(succeeded: bool, responses: Iterable[bytes]) -> bytes:
    parts = [_SUCCEEDED] if succeeded else []
    parts += [length_delimited(_RESPONSE, response) for response in responses]
    return b"".join(parts)
