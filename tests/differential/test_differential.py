"""Real etcd and three members of this project get the same requests and answer the same.

Here is the bounded part: fixed seeds, and two faults of etcd that must not be found here.
`make differential` runs as many seeds as wanted.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.mvcc.keyvalue import varint
from kvstore.pb import rpc_pb2
from kvstore.pb.rpc_pb2 import Compare, RangeRequest, RequestOp, TxnRequest
from tests.differential.runner import Runner
from tests.differential.seeds import run_seed
from tests.differential.sides import Failure

SEEDS = range(1, 13)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as running:
        yield running


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sequence_of_requests_is_answered_as_by_etcd(runner: Runner, seed: int) -> None:
    """GEN-04, GEN-22, RNG-22, PUT-10, DEL-01, TXN-13, TXN-19, CMP-01, LSE-02, WCH-22, MNT-22."""
    run_seed(runner, seed)


def put(key: bytes, value: bytes = b"v") -> RequestOp:
    return RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))


def read(key: bytes, **fields: int) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, **fields))


def nested(*ops: RequestOp) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=ops))


def prepared(runner: Runner) -> int:
    """Empty stores with some revisions of one key, the older ones compacted; return the newest."""
    runner.reset()
    for side in (runner.reference, runner.ours):
        for _ in range(4):
            newest = side.call(0, "KV/Put", rpc_pb2.PutRequest(key=b"a")).header.revision
        side.call(0, "KV/Compact", rpc_pb2.CompactionRequest(revision=newest - 1))
    return int(newest)


def assert_unchanged(runner: Runner, revision: int) -> None:
    """Every member of ours stands at `revision`, with one hash for all."""
    assert runner.ours.cluster.wait_equal_hashes() == revision
    for member in range(runner.ours.size):
        everything = RangeRequest(key=b"\0", range_end=b"\0")
        found = runner.ours.call(member, "KV/Range", everything)
        assert (found.header.revision, [kv.key for kv in found.kvs]) == (revision, [b"a"])


@pytest.mark.parametrize(
    ("offset", "error"),
    [(1, errors.FUTURE_REV), (1000, errors.FUTURE_REV), (-2, errors.COMPACTED)],
)
def test_a_write_with_a_range_that_cannot_be_read_changes_no_member(
    runner: Runner, offset: int, error: EtcdError
) -> None:
    """TXN-14, TXN-15, RFT-11, JEP-11: etcd-io/etcd 18667.

    There only the member that was asked checked the Range; the others carried out the Put.
    """
    newest = prepared(runner)
    bad = read(b"a", revision=newest + offset)
    requests = [
        TxnRequest(success=[put(b"b"), bad]),
        TxnRequest(success=[bad, put(b"b")]),
        TxnRequest(success=[put(b"b"), nested(put(b"c"), bad)]),
        TxnRequest(success=[nested(nested(bad)), put(b"b")]),
        TxnRequest(compare=[Compare(key=b"a")], failure=[put(b"b"), bad]),
    ]
    for request in requests:
        answers = [runner.reference.call(0, "KV/Txn", request)]
        answers += [runner.ours.call(i, "KV/Txn", request) for i in range(runner.ours.size)]
        for answer in answers:
            assert isinstance(answer, Failure)
            assert (answer.code.value[0], answer.text) == (error.code, error.message)
    assert_unchanged(runner, newest)


@pytest.mark.parametrize("field", ["sort_target", "sort_order"])
@pytest.mark.parametrize("number", [-1, 5, 1 << 30])
def test_an_unknown_sort_option_is_refused_wherever_it_stands(
    runner: Runner, field: str, number: int
) -> None:
    """RNG-22, TXN-13: etcd 3.5 ends on an unknown target, so only our members are asked."""
    newest = prepared(runner)
    unknown = RangeRequest(key=b"\0", range_end=b"\0", **{field: number})
    local = RangeRequest(serializable=True)
    local.MergeFrom(unknown)
    bad = RequestOp(request_range=unknown)
    requests = [
        ("KV/Range", unknown),
        ("KV/Range", local),
        ("KV/Txn", TxnRequest(success=[bad])),
        ("KV/Txn", TxnRequest(success=[put(b"b")], failure=[bad])),
        ("KV/Txn", TxnRequest(success=[put(b"b"), nested(nested(bad))])),
    ]
    for method, request in requests:
        for member in range(runner.ours.size):
            answer = runner.ours.call(member, method, request)
            assert isinstance(answer, Failure)
            assert answer.text == errors.INVALID_SORT_OPTION.message
    assert_unchanged(runner, newest)
    assert all(member.running for member in runner.ours.cluster.members)


@pytest.mark.parametrize("levels", [[64, 64], [1] * 45, [2] * 10])
def test_nested_transactions_within_the_budget_are_answered_as_by_etcd(
    runner: Runner, levels: list[int]
) -> None:
    """TXN-11, TXN-20, TXN-23."""
    prepared(runner)
    request = TxnRequest()
    for width in reversed(levels):
        inner = RequestOp(request_txn=request) if len(request.success) else read(b"a")
        request = TxnRequest(success=[inner] * width)
    assert runner.compare("KV/Txn", request, member=1).succeeded


def wrapped(txn: bytes) -> bytes:
    """An encoded transaction whose only operation is `txn`."""
    for tag in (b"\x22", b"\x12"):  # RequestOp.request_txn, TxnRequest.success
        txn = tag + varint(len(txn)) + txn
    return txn


def test_nested_transactions_deeper_than_the_parser_goes_are_refused(runner: Runner) -> None:
    """TXN-11, PUT-10: 64 levels are an error at every member, and change nothing."""
    newest = prepared(runner)
    request = TxnRequest(success=[put(b"b")]).SerializeToString()
    for _ in range(64):
        request = wrapped(request)
    for member in range(runner.ours.size):
        answer = runner.ours.ask(member, "KV/Txn", request)()
        assert isinstance(answer, Failure)
        assert answer.text.startswith("grpc: error unmarshalling request")
    assert_unchanged(runner, newest)
