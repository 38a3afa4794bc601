"""What requests cost against the quota."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.apply.quota import MAX_COST_PER_BYTE, put_cost, txn_cost
from kvstore.pb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest


def put_op(size: int) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=b"k", value=bytes(size)))


def test_put_costs_its_bytes_and_an_overhead() -> None:
    """MNT-12: 256 + key + value."""
    assert put_cost(PutRequest(key=b"key", value=b"value")) == 256 + 3 + 5


def test_transaction_costs_its_larger_branch() -> None:
    """MNT-12: a sum over the branch, nested transactions by their own larger branch."""
    nested = RequestOp(request_txn=TxnRequest(success=[put_op(9)], failure=[put_op(99)]))
    small, large = [put_op(0)], [put_op(10), nested]
    assert txn_cost(TxnRequest(success=small, failure=large)) == (256 + 11) + (256 + 100)
    assert txn_cost(TxnRequest(success=large, failure=small)) == (256 + 11) + (256 + 100)


def test_what_puts_nothing_is_free() -> None:
    """MNT-12: reads and deletes cost 0."""
    ops = [
        RequestOp(request_range=RangeRequest(key=b"k")),
        RequestOp(request_delete_range=DeleteRangeRequest(key=b"k")),
        RequestOp(request_txn=TxnRequest()),
        RequestOp(),
    ]
    assert txn_cost(TxnRequest(success=ops, failure=ops)) == 0


puts = st.builds(PutRequest, key=st.binary(max_size=4), value=st.binary(max_size=200))
ops = st.recursive(
    puts.map(lambda put: RequestOp(request_put=put)),
    lambda inner: st.lists(inner, max_size=4).map(
        lambda ops: RequestOp(request_txn=TxnRequest(success=ops))
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ops, max_size=20))
def test_no_entry_costs_more_than_its_length_allows(branch: list[RequestOp]) -> None:
    """The cheap look at an entry before the exact one never says "no" wrongly."""
    request = TxnRequest(success=branch)
    entry_bytes = 9 + len(request.SerializeToString())
    assert txn_cost(request) <= MAX_COST_PER_BYTE * entry_bytes
