"""Promises of KV that take whole processes: the log, the metrics, the largest requests."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from kvstore.pb import rpc_pb2
from kvstore.pb.rpc_pb2 import Compare, RangeRequest, RequestOp, TxnRequest
from tests.e2e.client import put_op
from tests.e2e.cluster import Cluster

TXNS = 50
REVISIONS = 200
MAX_REQUEST_BYTES = 1_572_864
SLOW_REMOVAL = ["--compaction-batch-limit=10", "--compaction-sleep-interval=20ms"]
"""Removing `REVISIONS` takes long enough for an answer to be wrong that does not wait for it."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(3, tmp_path_factory.mktemp("kv"), extra_flags=SLOW_REMOVAL) as running:
        running.start_all()
        yield running


def read_op(key: bytes, **fields: Any) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, **fields))


@pytest.mark.parametrize(
    ("request_", "logged"),
    [
        (TxnRequest(success=[read_op(b"a")], failure=[read_op(b"b")]), False),
        (TxnRequest(success=[read_op(b"a", serializable=True)]), False),
        (TxnRequest(compare=[Compare(key=b"a")]), False),
        (TxnRequest(failure=[put_op(b"never", b"")]), True),
        (TxnRequest(success=[RequestOp(request_txn=TxnRequest(success=[read_op(b"a")]))]), True),
    ],
    ids=["ranges", "serializable ranges", "compares", "a put not taken", "nested ranges"],
)
def test_transactions_that_only_read_stay_out_of_the_log(
    cluster: Cluster, request_: TxnRequest, logged: bool
) -> None:
    """TXN-21, TXN-22, TXN-23, RNG-28."""
    client = cluster.client(1)
    before = client.status().raftIndex
    for _ in range(TXNS):
        client.call("KV/Txn", request_)
    assert (client.status().raftIndex - before >= TXNS) is logged


def removed(cluster: Cluster, member: int) -> float:
    """How many revisions the member's compactions have removed."""
    url = f"http://{cluster.members[member].endpoint}/metrics"
    with urllib.request.urlopen(url) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("etcd_debugging_mvcc_db_compaction_keys_total "):
                return float(line.split()[1])
    raise AssertionError("the metric is missing")


def test_a_physical_compaction_is_answered_when_all_is_removed(cluster: Cluster) -> None:
    """CMP-06, CMP-07: also one that is too late, while the first is still removing."""
    client = cluster.client(0)
    for physical_first in (True, False):
        for _ in range(REVISIONS):
            newest = client.put(b"compacted").header.revision
        before = removed(cluster, 0)
        client.compact(newest, physical=physical_first)
        if not physical_first:
            client.put(b"meanwhile")
            with pytest.raises(grpc.RpcError) as late:
                client.compact(newest, physical=True)
            error: Any = late.value
            assert error.code() == grpc.StatusCode.OUT_OF_RANGE
        assert removed(cluster, 0) - before >= REVISIONS - 1


def test_a_key_may_fill_a_request(cluster: Cluster) -> None:
    """PUT-11, GEN-16, RNG-30: up to the limit, bytes of any kind, at every member."""
    long = bytes(range(256)) * (MAX_REQUEST_BYTES // 256 - 4)
    cluster.client(0).put(long, b"found")
    for member in range(3):
        client = cluster.client(member)
        assert client.get(long).kvs[0].value == b"found"
        (found,) = client.prefix(long[:256]).kvs
        assert (found.key, found.version) == (long, 1)
    with pytest.raises(grpc.RpcError) as refused:
        cluster.client(1).put(long + bytes(2048))
    error: Any = refused.value
    assert error.details() == "etcdserver: request is too large"
    assert cluster.client(2).delete(long).deleted == 1


def test_an_empty_range_end_on_the_wire_is_absent(cluster: Cluster) -> None:
    """RNG-02: up to 3.6 etcd takes the two bytes for "from the key on"."""
    client = cluster.client(0)
    for key in (b"end/a", b"end/b"):
        client.put(key)
    encoded = RangeRequest(key=b"end/a").SerializeToString() + b"\x12\x00"
    answer = client.raw_unary("/etcdserverpb.KV/Range", encoded)
    assert [kv.key for kv in rpc_pb2.RangeResponse.FromString(answer).kvs] == [b"end/a"]
