"""Streams as no good client uses them: too many, never read, garbage in the middle.

Whatever one client does, the others go on, and so does its own connection. The same tests run
against etcd (``E2E_PROGRAM=etcd``).
"""

from __future__ import annotations

import queue
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import h2.events
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.client import Client
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.rpc.harness import RawClient, frame

SECONDS = 60.0
WATCH = "/etcdserverpb.Watch/Watch"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
WatchRequest = rpc_pb2.WatchRequest
Create = rpc_pb2.WatchCreateRequest


def watchers(cluster: Cluster, i: int) -> int:
    """How many watches member `i` says that it serves."""
    url = f"http://{cluster.members[i].endpoint}/metrics"
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        text = answer.read().decode()
    (line,) = [t for t in text.splitlines() if t.startswith("etcd_debugging_mvcc_watcher_total ")]
    return int(float(line.split()[1]))


def create(key: bytes, **fields: Any) -> Any:
    return WatchRequest(create_request=Create(key=key, **fields))


class Watch:
    """One Watch call whose answers are put into a queue by a thread of its own."""

    def __init__(self, client: Client, requests: list[Any]) -> None:
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for request in requests:
            self.requests.put(request)
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = client._watch(iter(self.requests.get, None))
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        try:
            for answer in self.call:
                self.answers.put(answer)
        except grpc.RpcError as error:
            self.answers.put(error)

    def next(self) -> Any:
        return self.answers.get(timeout=SECONDS)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.requests.put(None)
        self.call.cancel()
        self._thread.join(SECONDS)


# -- many ------------------------------------------------------------------------------------------

MANY = 10_000


def test_ten_thousand_watches_on_one_stream(cluster: Cluster) -> None:
    """WCH-01, WCH-03: each gets its id and its events; other clients are served meanwhile."""
    client, other = Client(cluster.endpoints[0]), cluster.client(0)
    keys = [b"many/all"] * (MANY // 2) + [b"many/%d" % i for i in range(MANY // 2)]
    with Watch(client, [create(key) for key in keys]) as watch:
        created = [watch.next() for _ in keys]
        assert all(answer.created for answer in created)
        assert [answer.watch_id for answer in created] == list(range(MANY))
        revision = other.put(b"many/all", b"x").header.revision
        told = [watch.next() for _ in range(MANY // 2)]
        assert sorted(answer.watch_id for answer in told) == list(range(MANY // 2))
        assert {answer.events[0].kv.mod_revision for answer in told} == {revision}
        other.put(b"many/77", b"x")
        assert watch.next().watch_id == MANY // 2 + 77
    wait_until(lambda: watchers(cluster, 0) == 0, SECONDS, "no watch is left")
    client.close()


STREAMS = 2000


def received(raw: RawClient) -> dict[int, bytes]:
    """All bytes of message data so far, by stream: frames may end anywhere."""
    data: dict[int, bytes] = defaultdict(bytes)
    for event in raw.events:
        if isinstance(event, h2.events.DataReceived):
            data[event.stream_id] += event.data
    return data


def read_until(raw: RawClient, streams: list[int], wanted: bytes) -> None:
    """Read until each of the streams was sent these bytes."""
    while not all(wanted in data for data in map(received(raw).__getitem__, streams)):
        assert raw.read()


def test_two_thousand_streams_on_one_connection(cluster: Cluster) -> None:
    """GEN-20: as many calls at once as the client likes, each with its own end."""
    with RawClient(cluster.members[1].client_port) as raw:
        body = frame(create(b"streams/all").SerializeToString())
        streams = []
        for _ in range(STREAMS):
            streams.append(raw.open(WATCH))
            raw.data(streams[-1], body)
        for stream in streams:
            raw.wait_for(stream, h2.events.DataReceived)
        assert watchers(cluster, 1) == STREAMS
        cluster.client(2).put(b"streams/all", b"x")
        read_until(raw, streams, b"streams/all")
        get = rpc_pb2.RangeRequest(key=b"streams/all").SerializeToString()
        answer = raw.call("/etcdserverpb.KV/Range", frame(get))
        assert rpc_pb2.RangeResponse.FromString(answer.messages[0]).count == 1
    wait_until(lambda: watchers(cluster, 1) == 0, SECONDS, "no watch is left")


# -- never read ------------------------------------------------------------------------------------

BACKLOG_VALUE = b"v" * 100_000
BACKLOG = 300
"""30 MB, far more than any window."""


@contextmanager
def unread_watch(client: Client, cluster: Cluster, key: bytes) -> Iterator[Any]:
    """A watch with a backlog, of which nothing is read but the reply that it was created."""
    first = cluster.client(0).put(key, BACKLOG_VALUE).header.revision
    for _ in range(BACKLOG):
        cluster.client(0).put(key, BACKLOG_VALUE)
    call = client._watch(iter([create(key, start_revision=first)]))
    assert next(call).created
    yield call
    call.cancel()


def test_a_client_that_never_reads_hurts_no_other(cluster: Cluster) -> None:
    """WCH-47: others watch the same key and write, and memory stays bounded."""
    deaf = Client(cluster.endpoints[2])
    before = cluster.rss_kib(2)
    with unread_watch(deaf, cluster, b"deaf/key"):
        with Watch(Client(cluster.endpoints[2]), [create(b"deaf/key")]) as watch:
            assert watch.next().created
            for number in range(BACKLOG):
                cluster.client(2).put(b"deaf/key", BACKLOG_VALUE)
                assert len(watch.next().events) == 1, number
        grown_kib = cluster.rss_kib(2) - before
    assert grown_kib < 400 * 1024
    deaf.close()


def test_calls_beside_an_unread_watch_are_answered(cluster: Cluster) -> None:
    """WCH-47, GEN-20: on the same connection; what the watch's client has read already it has."""
    client = Client(cluster.endpoints[1])
    with unread_watch(client, cluster, b"beside/key") as call:
        for number in range(50):
            client.put(b"beside/other", b"%d" % number, timeout=SECONDS)
        assert client.get(b"beside/other").kvs[0].value == b"49"
        events = 0
        try:
            for answer in call:
                events += len(answer.events)
                if events == BACKLOG + 1:
                    break
        except grpc.RpcError as error:
            assert not reference_under_test()  # it gives a stream up rather than its connection
            assert error.code() is grpc.StatusCode.INTERNAL
    client.close()


# -- garbage after good requests -------------------------------------------------------------------

GARBAGE = {
    "no message": frame(b"\x0a\x7fabc"),
    "a flag that does not exist": b"\x7e\x00\x00\x00\x01x",
    "compressed without an encoding": frame(b"x", flag=1),
    "four gibibytes announced": b"\x00\xff\xff\xff\xff" + bytes(100),
    "an end in the middle of a message": b"\x00\x00\x00\x00\x09abc",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_in_a_watch_stream_ends_it_alone(cluster: Cluster, garbage: bytes) -> None:
    """GEN-22: the watches of that stream are gone; the other stream beside it goes on."""
    with RawClient(cluster.members[0].client_port) as raw:
        good, bad = raw.open(WATCH), raw.open(WATCH)
        for stream in (good, bad):
            raw.data(stream, frame(create(b"garbage/key").SerializeToString()))
            raw.wait_for(stream, h2.events.DataReceived)
        raw.data(bad, garbage, end=True)
        raw.wait_for(bad, h2.events.StreamEnded)
        (trailers,) = [dict(e.headers) for e in raw.of(bad, h2.events.TrailersReceived)]
        assert trailers[b"grpc-status"] in (b"13", b"8"), "INTERNAL or RESOURCE_EXHAUSTED"
        wait_until(lambda: watchers(cluster, 0) == 1, SECONDS, "one watch is left")
        cluster.client(1).put(b"garbage/key", b"x")
        read_until(raw, [good], b"garbage/key")
    wait_until(lambda: watchers(cluster, 0) == 0, SECONDS, "no watch is left")


def test_garbage_in_a_lease_stream_ends_it_alone(cluster: Cluster) -> None:
    lease = cluster.client(0).grant(60).ID
    body = frame(rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString())
    with RawClient(cluster.members[0].client_port) as raw:
        stream = raw.open(KEEP_ALIVE)
        raw.data(stream, body)
        raw.wait_for(stream, h2.events.DataReceived)
        raw.data(stream, frame(b"\x0a\x7fabc"))
        raw.wait_for(stream, h2.events.StreamEnded)
        (trailers,) = [dict(e.headers) for e in raw.of(stream, h2.events.TrailersReceived)]
        assert trailers[b"grpc-status"] == b"13"
        again = raw.open(KEEP_ALIVE)
        raw.data(again, body)
        raw.wait_for(again, h2.events.DataReceived)
    assert cluster.client(0).time_to_live(lease).TTL > 0
    cluster.client(0).revoke(lease)


def test_frames_that_are_no_http2_after_good_requests(cluster: Cluster) -> None:
    """The connection is over, and with it its watches; nobody else notices."""
    with RawClient(cluster.members[1].client_port) as raw:
        stream = raw.open(WATCH)
        raw.data(stream, frame(create(b"frames/key").SerializeToString()))
        raw.wait_for(stream, h2.events.DataReceived)
        raw.socket.sendall(b"\x00\x00\x04\x08\x00" + stream.to_bytes(4, "big") + b"\x00" * 4)
        raw.socket.sendall(b"\xff" * 1000)
        try:
            while raw.socket.recv(65_536):
                pass
        except ConnectionError:
            pass  # reset: as good as closed
    wait_until(lambda: watchers(cluster, 1) == 0, SECONDS, "no watch is left")
    cluster.client(1).put(b"frames/key", b"x")


def test_streams_that_say_nothing(cluster: Cluster) -> None:
    """A half-close without a request: a lease stream ends, a watch stream stays open."""
    with RawClient(cluster.members[2].client_port) as raw:
        lease, watch = raw.open(KEEP_ALIVE), raw.open(WATCH)
        raw.data(watch, b"", end=True)
        raw.data(lease, b"", end=True)
        assert raw.answer(lease).status[0] == 0
        assert not list(raw.of(watch, h2.events.StreamEnded))
        raw.reset(watch)
