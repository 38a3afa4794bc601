"""Requests in the log: keys and options in etcd's form, values never."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.apply.describe import MAX_DESCRIPTION, describe
from kvstore.pb import rpc_pb2


def test_a_put_is_told_by_key_and_size() -> None:
    request = rpc_pb2.PutRequest(key=b"foo", value=b"secret", lease=7, prev_kv=True)
    assert describe(request) == 'key:"foo" value_size:6 lease:7 prev_kv:true'


def test_a_range_is_told_by_its_options() -> None:
    request = rpc_pb2.RangeRequest(key=b"a", range_end=b"b", limit=3, sort_order="DESCEND")
    assert describe(request) == 'key:"a" range_end:"b" limit:3 sort_order:DESCEND'


def test_an_unknown_enum_value_is_told_by_its_number() -> None:
    assert describe(rpc_pb2.RangeRequest(key=b"a", sort_order=9)) == 'key:"a" sort_order:9'


@given(st.binary(min_size=1))
@settings(max_examples=50)
def test_keys_that_are_no_text_stay_one_printable_line(key: bytes) -> None:
    described = describe(rpc_pb2.RangeRequest(key=key))
    described.encode()
    assert described.startswith('key:"')


def test_a_transaction_is_told_with_its_nested_requests_and_no_value() -> None:
    request = rpc_pb2.TxnRequest()
    request.compare.add(key=b"k", target="VALUE", value=b"secret")
    request.success.add().request_put.CopyFrom(rpc_pb2.PutRequest(key=b"k", value=b"secret"))
    request.failure.add().request_txn.success.add().request_range.key = b"deep"
    described = describe(request)
    assert "secret" not in described
    assert 'success:<request_put:<key:"k" value_size:6 > >' in described
    assert 'failure:<request_txn:<success:<request_range:<key:"deep" > > > >' in described


def test_a_description_is_cut_at_its_limit() -> None:
    described = describe(rpc_pb2.PutRequest(key=bytes(10 * MAX_DESCRIPTION)))
    assert len(described) == MAX_DESCRIPTION + len("...")
