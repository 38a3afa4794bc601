"""Which writes of a transaction meet: the fast answer is that of pairwise comparison."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.apply.written import Written, written
from kvstore.errors import DUPLICATE_KEY, EtcdError
from kvstore.pb.rpc_pb2 import RequestOp, TxnRequest
from tests.mvcc.kv_member import delete_op, put_op

keys = st.sampled_from([b"\0", b"a", b"a\0", b"b", b"c", b"d", b"\xff"])
ends = st.sampled_from([b"", b"", b"\0", b"a", b"b", b"c", b"\xff"])
writes = st.builds(put_op, keys) | st.builds(delete_op, keys, ends)


def branches(depth: int) -> st.SearchStrategy[list[RequestOp]]:
    ops = writes
    if depth:
        txns = st.builds(TxnRequest, success=branches(depth - 1), failure=branches(depth - 1))
        ops |= st.builds(RequestOp, request_txn=txns)
    return st.lists(ops, max_size=4)


Interval = tuple[bytes, bytes]


def meets(puts: Sequence[bytes], deletes: Sequence[Interval]) -> bool:
    return any(start <= key < end for key in puts for start, end in deletes)


def naive(branch: Sequence[RequestOp]) -> tuple[list[bytes], list[Interval]]:
    """What `written` finds out, with plain lists: (puts, deletes). Raises DUPLICATE_KEY."""
    deletes = [
        (op.request_delete_range.key, op.request_delete_range.range_end or one_key(op))
        for op in branch
        if op.HasField("request_delete_range")
    ]
    puts: list[bytes] = []
    for txn in (op.request_txn for op in branch if op.HasField("request_txn")):
        sides = [naive(txn.success), naive(txn.failure)]
        for side_puts, _ in sides:
            if set(side_puts) & set(puts) or meets(side_puts, deletes):
                raise DUPLICATE_KEY
        for side_puts, side_deletes in sides:
            puts += side_puts
            deletes += side_deletes
    for key in (op.request_put.key for op in branch if op.HasField("request_put")):
        if key in puts or meets([key], deletes):
            raise DUPLICATE_KEY
        puts.append(key)
    return puts, deletes


def one_key(op: RequestOp) -> bytes:
    return op.request_delete_range.key + b"\0"


def covered(deletes: Sequence[Interval]) -> set[bytes]:
    """The keys of the small key space, and those right behind them, that are deleted."""
    points = [
        point + tail for point in (b"\0", b"a", b"b", b"c", b"d", b"\xff") for tail in (b"", b"\0")
    ]
    return {point for point in points if meets([point], deletes)}


@settings(max_examples=500, deadline=None)
@given(branches(depth=3))
def test_writes_meet_where_pairs_of_them_do(branch: list[RequestOp]) -> None:
    """TXN-09, TXN-10."""
    try:
        puts, deletes = naive(branch)
    except EtcdError:
        puts, deletes = None, []
    try:
        found = written(branch)
    except EtcdError as refused:
        assert refused is DUPLICATE_KEY
        assert puts is None
        return
    assert puts is not None
    assert set(found.puts) == set(puts)
    assert covered(list(found.deletes.items())) == covered(deletes)
    assert apart(found)


def apart(found: Written) -> bool:
    """The intervals are not empty, ascend, and do not touch."""

    def borders() -> Iterator[bytes]:
        for start, end in found.deletes.items():
            yield from (start, end)

    all_borders = list(borders())
    return all(a < b for a, b in itertools.pairwise(all_borders))
