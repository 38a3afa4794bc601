"""Wrong bytes and wrong peers: a clear error, the server stays up, nothing is lost.

All tests share one three-node cluster; after each of them every member must still hold what was
written before and take a new write.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.bench.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Connection,
    message,
    open_connections,
)
from tests.e2e.client import put_op, rpc_pb2
from tests.e2e.cluster import Cluster, wait_until

MAX_REQUEST_BYTES = 1_572_864
TRANSPORT_LIMIT_BYTES = MAX_REQUEST_BYTES + 512 * 1024
ENVELOPE_BYTES = 512
KEPT = {b"kept/%d" % i: b"value %d" % i for i in range(20)}
END_SECONDS = 10.0


@pytest.fixture(autouse=True)
def nothing_is_lost(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test of the shared cluster: all members live, hold the kept keys, take a write."""
    for key, value in KEPT.items():
        cluster.client(0).put(key, value)
    pids = [member.process.pid for member in cluster.members if member.process]
    yield
    for i, member in enumerate(cluster.members):
        assert member.running, member.log_tail()
        client = cluster.client(i)
        client.put(b"after", request.node.name.encode())
        assert {kv.key: kv.value for kv in client.prefix(b"kept/").kvs} == KEPT
    assert pids == [member.process.pid for member in cluster.members if member.process]


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    """The call inside must fail with this code and exactly this text."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert (error.code(), error.details()) == (code, text)


# -- requests the API refuses ----------------------------------------------------------------------


def test_empty_key_is_refused_everywhere(cluster: Cluster) -> None:
    client = cluster.client(1)
    compare = rpc_pb2.Compare(key=b"", version=0)
    calls: list[Callable[[], Any]] = [
        lambda: client.get(b""),
        lambda: client.put(b"", b"x"),
        lambda: client.delete(b"", range_end=b"z"),
        lambda: client.txn([compare]),
        lambda: client.txn([], [put_op(b"", b"x")]),
    ]
    for call in calls:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
            call()


def test_request_limit_counts_the_envelope(cluster: Cluster) -> None:
    """GEN-16: a value exactly as big as the limit is too large."""
    for i in range(3):
        client = cluster.client(i)
        client.put(b"big", b"x" * (MAX_REQUEST_BYTES - ENVELOPE_BYTES))
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"):
            client.put(b"big", b"y" * MAX_REQUEST_BYTES)
        assert client.get(b"big").kvs[0].value[:1] == b"x"
    cluster.client(0).delete(b"big")


def put_of_size(size: int) -> bytes:
    """A serialized PutRequest of exactly `size` bytes."""
    value_bytes = size
    while True:
        body = rpc_pb2.PutRequest(key=b"k", value=b"x" * value_bytes).SerializeToString()
        if len(body) == size:
            return bytes(body)
        value_bytes -= len(body) - size


def test_transport_limit_is_half_a_mebibyte_more(cluster: Cluster) -> None:
    """GEN-17: two limits, two errors."""
    client = cluster.client(0)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"):
        client.raw_unary("/etcdserverpb.KV/Put", put_of_size(TRANSPORT_LIMIT_BYTES))
    size = TRANSPORT_LIMIT_BYTES + 1
    text = f"grpc: received message larger than max ({size} vs. {TRANSPORT_LIMIT_BYTES})"
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text):
        client.raw_unary("/etcdserverpb.KV/Put", put_of_size(size))


def test_too_many_operations_in_a_txn(cluster: Cluster) -> None:
    client = cluster.client(2)
    assert client.txn([], [put_op(b"ops/%d" % i, b"") for i in range(128)]).succeeded
    text = "etcdserver: too many operations in txn request"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, text):
        client.txn([], [put_op(b"ops/%d" % i, b"") for i in range(129)])


def test_unknown_method_and_unknown_service(cluster: Cluster) -> None:
    """GEN-22."""
    client = cluster.client(0)
    with refused(
        grpc.StatusCode.UNIMPLEMENTED, "unknown method Frobnicate for service etcdserverpb.KV"
    ):
        client.raw_unary("/etcdserverpb.KV/Frobnicate", b"")
    with refused(grpc.StatusCode.UNIMPLEMENTED, "unknown service etcdserverpb.Nothing"):
        client.raw_unary("/etcdserverpb.Nothing/Range", b"")


def test_unknown_protobuf_fields_are_ignored(cluster: Cluster) -> None:
    """GEN-22."""
    known = rpc_pb2.PutRequest(key=b"unknown-field", value=b"x").SerializeToString()
    unknown_field = b"\xfa\x3f\x03abc"  # field 1023, three bytes
    cluster.client(0).raw_unary("/etcdserverpb.KV/Put", known + unknown_field)
    assert cluster.client(1).get(b"unknown-field").kvs[0].value == b"x"


# -- bytes that are no message ---------------------------------------------------------------------

BROKEN_MESSAGES = {
    "truncated length": b"\x0a",
    "length beyond the end": b"\x0a\x7fabc",
    "wrong wire type for a known field": b"\x0f\x01",
    "varint without an end": b"\x18" + b"\xff" * 11,
    "field number zero": b"\x02\x01x",
    "group that never ends": b"\x0b",
}


@pytest.mark.parametrize("body", BROKEN_MESSAGES.values(), ids=BROKEN_MESSAGES.keys())
@pytest.mark.parametrize("method", ["KV/Put", "KV/Range", "KV/Txn", "Lease/LeaseGrant"])
def test_broken_protobuf_is_an_internal_error(cluster: Cluster, method: str, body: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        cluster.client(0).raw_unary(f"/etcdserverpb.{method}", body)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INTERNAL
    assert error.details().startswith("grpc: error unmarshalling request")


def test_broken_protobuf_on_a_stream_ends_that_stream(cluster: Cluster) -> None:
    client = cluster.client(0)
    for method in ("Watch/Watch", "Lease/LeaseKeepAlive"):
        call = client.channel.stream_stream(f"/etcdserverpb.{method}")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([b"\x0a\x7fabc"]), timeout=END_SECONDS))
        assert caught.value.code() == grpc.StatusCode.INTERNAL


GOOD_PUT = rpc_pb2.PutRequest(key=b"framing", value=b"must never be stored").SerializeToString()
BROKEN_FRAMES = {
    "no prefix at all": b"",
    "prefix cut short": b"\x00\x00\x00",
    "fewer bytes than announced": struct.pack(">BI", 0, len(GOOD_PUT) + 10) + GOOD_PUT,
    "four gibibytes announced": struct.pack(">BI", 0, 2**32 - 1) + GOOD_PUT,
    "compressed without an encoding": struct.pack(">BI", 1, len(GOOD_PUT)) + GOOD_PUT,
    "flag that does not exist": struct.pack(">BI", 0x7E, len(GOOD_PUT)) + GOOD_PUT,
}


@pytest.mark.parametrize("framed", BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
def test_wrong_grpc_framing_ends_the_call_alone(cluster: Cluster, framed: bytes) -> None:
    """The broken call ends without a message; the next on the same connection is answered."""

    async def story() -> list[bool]:
        ended: asyncio.Queue[bool] = asyncio.Queue()

        def on_end(_: Connection, ok: bool, __: float) -> None:
            ended.put_nowait(ok)

        (connection,) = await open_connections(
            cluster.endpoints[:1], "/etcdserverpb.KV/Put", 1, on_end
        )
        connection.request(framed)
        connection.flush()
        first = await ended.get()
        good = rpc_pb2.PutRequest(key=b"framing-good", value=b"x").SerializeToString()
        connection.request(message(good))
        connection.flush()
        second = await ended.get()
        assert connection.transport is not None
        connection.transport.abort()
        return [first, second]

    assert asyncio.run(asyncio.wait_for(story(), END_SECONDS)) == [False, True]
    assert cluster.client(0).get(b"framing").count == 0


# -- bytes that are no HTTP ------------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 4, 0, 0)
NOISE = random.Random(7).randbytes(4096)
CLIENT_PORT_GARBAGE = {
    "random bytes": NOISE,
    "zeros": bytes(4096),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:512],
    "no method": b"\r\n\r\n\r\n",
    "unknown HTTP version": b"GET / HTTP/9.9\r\n\r\n",
    "endless request line": b"GET /" + b"a" * 200_000,
    "endless headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000,
    "two content lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx",
    "preface then noise": PREFACE + NOISE,
    "oversized frame": PREFACE + struct.pack(">IBI", 0xFFFFFF << 8 | DATA, 0, 1) + NOISE,
    "data for a stream never opened": PREFACE + struct.pack(">IBI", 4 << 8, 0, 7) + b"abcd",
    "headers that are no HPACK": PREFACE
    + struct.pack(">IBI", 64 << 8 | HEADERS, END_HEADERS | END_STREAM, 1)
    + b"\xff" * 64,
}


def send_and_hang_up(port: int, garbage: bytes) -> bytes:
    """Send `garbage`, close the sending side, and return the first bytes of any answer."""
    with closing(socket.create_connection(("127.0.0.1", port), END_SECONDS)) as connection:
        connection.settimeout(END_SECONDS)
        try:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            return b""  # refused in mid-sentence: as good as an answer


@pytest.mark.parametrize("garbage", CLIENT_PORT_GARBAGE.values(), ids=CLIENT_PORT_GARBAGE.keys())
def test_garbage_on_the_client_port(cluster: Cluster, garbage: bytes) -> None:
    answer = send_and_hang_up(cluster.members[0].client_port, garbage)
    assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))


def test_http_requests_for_nothing_get_http_answers(cluster: Cluster) -> None:
    base = f"http://{cluster.members[0].endpoint}"
    with urllib.request.urlopen(f"{base}/version", timeout=END_SECONDS) as answer:
        assert b"etcdserver" in answer.read()
    for path in ("/no/such/page", "/etcdserverpb.KV/Put"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{base}{path}", timeout=END_SECONDS)
        caught.value.close()
        assert caught.value.code in (404, 405, 415)


def test_many_connections_that_say_nothing(cluster: Cluster) -> None:
    for port in (cluster.members[0].client_port, cluster.members[0].peer_port):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        assert cluster.client(0).get(b"kept/0").kvs[0].value == KEPT[b"kept/0"]
        for connection in silent:
            connection.close()


# -- the peer port ---------------------------------------------------------------------------------

PEER_PORT_GARBAGE = {
    "random bytes": NOISE,
    "zeros": bytes(65536),
    "largest length": b"\xff" * 64,
    "one byte": b"\x00",
    "an HTTP request": b"GET /members HTTP/1.1\r\nHost: x\r\n\r\n",
    "an HTTP/2 preface": PREFACE,
}


@pytest.mark.parametrize("garbage", PEER_PORT_GARBAGE.values(), ids=PEER_PORT_GARBAGE.keys())
def test_garbage_on_the_peer_port(cluster: Cluster, garbage: bytes) -> None:
    terms = {cluster.client(i).status().raftTerm for i in range(3)}
    for member in cluster.members:
        send_and_hang_up(member.peer_port, garbage)
    cluster.client(0).put(b"after-peer-garbage", b"x")
    cluster.wait_equal_hashes()
    assert {cluster.client(i).status().raftTerm for i in range(3)} == terms


def test_peer_of_another_cluster_is_turned_away(cluster: Cluster, tmp_path: Path) -> None:
    """A stranger with another token that names our members as its peers."""
    with Cluster(3, tmp_path, token="another-cluster") as stranger:
        for i in (1, 2):
            stranger.members[i].peer_port = cluster.members[i].peer_port
        stranger.initial = ",".join(
            f"{m.name}=http://127.0.0.1:{m.peer_port}" for m in stranger.members
        )
        before = [cluster.client(i).status() for i in range(3)]
        stranger.start(0)

        def mismatch_is_logged() -> bool:
            logs = [stranger.members[0].log_path, *(m.log_path for m in cluster.members)]
            text = "".join(path.read_text(errors="replace") for path in logs).lower()
            return "cluster id mismatch" in text

        wait_until(mismatch_is_logged, 20, "a log line 'cluster ID mismatch'")

        after = [cluster.client(i).status() for i in range(3)]
        assert [s.raftTerm for s in after] == [s.raftTerm for s in before]
        assert [s.leader for s in after] == [s.leader for s in before]
        assert len(cluster.client(0).member_list().members) == 3
