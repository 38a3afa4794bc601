"""KV.RangeStream on real members: parts, slow readers, compactions and snapshots in the middle.

etcd has it from 3.7 on, so ``E2E_PROGRAM=etcd`` (3.5) can only show how it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.client import Client, prefix_end
from tests.e2e.cluster import Cluster, reference_under_test, wait_until

pytestmark = pytest.mark.skipif(reference_under_test(), reason="etcd 3.5 has no RangeStream")

DEADLINE_SECONDS = 60.0
VALUE = b"v" * 50_000
KEYS = 400
"""20 MB, many times what may wait unread between the member and a client."""
SLOW = [("grpc.http2.bdp_probe", 0)]
"""A slow reader takes 64 KB at most until they are read. By default gRPC lets come what the line
seems to hold: on a slow machine that was all of the 20 MB."""
WINDOW = 256
"""Entries that the leader sends to a member that does not answer (`raft.Config`)."""


def stream(client: Client, **fields: Any) -> Any:
    call = client.channel.unary_stream(
        "/etcdserverpb.KV/RangeStream",
        request_serializer=rpc_pb2.RangeRequest.SerializeToString,
        response_deserializer=rpc_pb2.RangeStreamResponse.FromString,
    )
    return call(rpc_pb2.RangeRequest(**fields), timeout=DEADLINE_SECONDS)


def ended(parts: Any) -> tuple[grpc.StatusCode, str, int]:
    """Read on to the error: its code and text, and how many keys came before it."""
    count = 0
    try:
        for part in parts:
            count += len(part.range_response.kvs)
    except grpc.RpcError as error:
        status: Any = error
        return status.code(), status.details(), count
    raise AssertionError(f"it ended well, after {count} keys")


def fill(client: Client, prefix: bytes) -> dict[str, bytes]:
    """Write the keys; the fields of a request for them."""
    for n in range(KEYS):
        client.put(prefix + b"%05d" % n, VALUE)
    return {"key": prefix, "range_end": prefix_end(prefix)}


def test_parts_merge_to_the_answer_of_range(cluster: Cluster) -> None:
    """RST-01, RST-03, RST-05, RST-08: on every member, for requests of all kinds."""
    interval = fill(cluster.client(0), b"merge/")
    requests: list[dict[str, Any]] = [
        interval,
        {**interval, "limit": 7},
        {**interval, "limit": KEYS},
        {**interval, "keys_only": True},
        {**interval, "count_only": True},
        {**interval, "revision": cluster.client(0).get(b"x").header.revision - 10},
        {"key": b"merge/00007"},
        {"key": b"merge/nothing"},
        {"key": b"z", "range_end": b"a"},
    ]
    for request in requests:
        for i in range(3):
            client = cluster.client(i)
            parts = [part.range_response for part in stream(client, **request)]
            assert all(part.kvs and not part.HasField("header") for part in parts[:-1])
            assert all(not part.more and not part.count for part in parts[:-1])
            whole = rpc_pb2.RangeResponse()
            for part in parts:
                whole.MergeFrom(part)
            assert whole == client.get(**request)
            assert max(part.ByteSize() for part in parts) < 4 << 20, "grpc's own default limit"


def test_bad_requests_are_refused_before_anything_is_sent(cluster: Cluster) -> None:
    """RST-01, RST-02: with Range's errors, and Unimplemented for what it does not do."""
    client = cluster.client(1)
    target, order = rpc_pb2.RangeRequest.CREATE, rpc_pb2.RangeRequest.ASCEND
    refusals: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
        (
            {"key": b"a", "sort_order": 9},
            grpc.StatusCode.INVALID_ARGUMENT,
            "etcdserver: invalid sort option",
        ),
        (
            {"key": b"a", "sort_order": order, "sort_target": target},
            grpc.StatusCode.UNIMPLEMENTED,
            "RangeStream does not support custom sort orders",
        ),
        (
            {"key": b"a", "max_mod_revision": 3},
            grpc.StatusCode.UNIMPLEMENTED,
            "RangeStream does not support revision filters",
        ),
        (
            {"key": b"a", "revision": 2**62},
            grpc.StatusCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ]
    for fields, code, text in refusals:
        assert ended(stream(client, **fields)) == (code, text, 0)


def test_writes_behind_a_slow_reader_are_not_seen(cluster: Cluster) -> None:
    """RST-04: header and content are of the moment when it began."""
    client = cluster.client(1)
    interval = fill(client, b"slow/")
    began = cluster.client(2).get(b"x").header.revision
    slow = Client(cluster.endpoints[2], SLOW)
    parts = stream(slow, **interval)
    first = next(parts).range_response
    for n in range(0, KEYS, 7):
        client.put(b"slow/%05d" % n, b"new")
    client.delete(b"slow/%05d" % (KEYS - 1))
    client.put(b"slow/new", b"")
    kvs, last = list(first.kvs), first
    for part in parts:
        last = part.range_response
        kvs += last.kvs
    slow.close()
    assert [kv.key for kv in kvs] == [b"slow/%05d" % n for n in range(KEYS)]
    assert {kv.value for kv in kvs} == {VALUE}
    assert (last.header.revision, last.count, last.more) == (began, KEYS, False)


def test_a_compaction_ends_a_slow_reader(cluster: Cluster) -> None:
    """RST-06: after part of the data, and the compaction does not wait for it."""
    client = cluster.client(0)
    interval = fill(client, b"compact/")
    slow = Client(cluster.endpoints[1], SLOW)
    parts = stream(slow, **interval)
    next(parts)
    client.compact(client.put(b"x", b"").header.revision, physical=True)
    code, text, count = ended(parts)
    slow.close()
    assert (code, text) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    assert count < KEYS


def test_readers_that_do_not_read_cost_little_and_hinder_nobody(cluster: Cluster) -> None:
    """RST-07: a hundred streams of 20 MB each, of which nothing but the first part is taken."""
    client = cluster.client(1)
    interval = fill(client, b"idle/")
    before = cluster.rss_kib(1)
    clients = [Client(cluster.endpoints[1]) for _ in range(20)]
    streams = [stream(one, **interval) for one in clients for _ in range(5)]
    for parts in streams:
        next(parts)
    assert client.put(b"others", b"go on", timeout=DEADLINE_SECONDS).header.revision
    assert len(client.get(**interval, timeout=DEADLINE_SECONDS).kvs) == KEYS
    grown_kib = cluster.rss_kib(1) - before
    assert grown_kib < 100 * 5 * 1024, "about 2 MB for a stream, never its 20"
    for parts in streams:
        parts.cancel()
    for one in clients:
        one.close()


def test_a_snapshot_ends_a_reader_of_what_it_replaced(tmp_path: Path) -> None:
    """RST-06: the rest would be of another store."""
    flags = ("--snapshot-count=100", "--snapshot-catchup-entries=10")
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        away, other = cluster.followers()
        interval = fill(cluster.client(other), b"replaced/")
        needed = cluster.client(other).status().raftIndex + WINDOW
        slow = Client(cluster.endpoints[away], SLOW)
        parts = stream(slow, **interval)
        next(parts)
        cluster.pause(away)
        for n in range(WINDOW + 200):
            cluster.client(other).put(b"filler", b"%d" % n)
        leader = cluster.leader()
        wait_until(lambda: _kept_from(cluster, leader) > needed, DEADLINE_SECONDS, "a compaction")
        cluster.resume(away)
        wait_until(_says(cluster, away, "installed a snapshot"), DEADLINE_SECONDS, "a snapshot")
        code, text, count = ended(parts)
        slow.close()
        assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
        assert count < KEYS
        assert len(cluster.client(away).get(**interval).kvs) == KEYS


def _kept_from(cluster: Cluster, i: int) -> int:
    """The first entry that the member's last compaction of its log left; 0: all are there."""
    text = cluster.members[i].log_path.read_text(errors="replace")
    return max(map(int, re.findall(r'"kept_from":(\d+)', text)), default=0)


def _says(cluster: Cluster, i: int, text: str) -> Callable[[], bool]:
    path = cluster.members[i].log_path
    return lambda: text in path.read_text(errors="replace")
