"""What the bench measures on a running cluster: one function for each measure.

Requests go to all three endpoints evenly, as clients with a list of endpoints do. Puts come from
`frames` (10,000 keys in random order); gets and ranges come from h2load, which repeats one body, so
they read one key or one range again and again. h2load and `frames` were compared on puts of one key
and agree within ten per cent.

Trade-off: client and servers share the machine, so every figure includes the client's cost; it is
the same for both servers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from kvstore.pb import rpc_pb2
from tests.bench.frames import OnData, message, open_connections, run_load
from tests.e2e.client import Client, prefix_end
from tests.e2e.cluster import Cluster

KEYS = 10_000
VALUE = b"v" * 256
WARM_UP_SECONDS = 1  # h2load takes whole seconds
RANGE_KEYS = 1_000
RANGE_OUTSTANDING = 16
WATCHERS = 100
WATCH_STREAMS_PER_CONNECTION = 10
WATCH_WRITES = 2_000
WATCH_OUTSTANDING = 64
WATCH_SINGLE_WRITES = 50
RESTART_KEYS = 100_000
RESTART_DEADLINE_SECONDS = 120.0
_PUTS_PER_TXN = 50
_H2LOAD_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `better` says which direction is good."""

    name: str
    value: float
    unit: str
    better: str = "higher"


class BenchFailed(Exception):
    """A server answered wrongly, so its figures would mean nothing."""


def _key(number: int) -> bytes:
    return b"bench/key/%08d" % number


def puts(cluster: Cluster, outstanding: int, seconds: float) -> Iterator[Figure]:
    """Durable puts a second at `outstanding` open requests, and the 99th percentile."""
    order = random.Random(outstanding).sample(range(KEYS), KEYS)
    bodies = [
        message(rpc_pb2.PutRequest(key=_key(i), value=VALUE).SerializeToString()) for i in order
    ]
    load = asyncio.run(
        run_load(
            cluster.endpoints,
            "/etcdserverpb.KV/Put",
            itertools.cycle(bodies),
            outstanding,
            seconds=seconds,
            warm_up=WARM_UP_SECONDS,
        )
    )
    if load.failed or not load.answered:
        raise BenchFailed(f"{load.failed} puts failed, {load.answered} were answered")
    yield Figure(f"put, {outstanding} outstanding", load.rate, "/s")
    yield Figure(
        f"put, {outstanding} outstanding, p99", load.percentile(0.99) * 1000, "ms", "lower"
    )


def gets(
    cluster: Cluster, outstanding: int, seconds: float, *, serializable: bool
) -> Iterator[Figure]:
    """Gets of one key a second."""
    client = cluster.client(0)
    client.put(_key(0), VALUE)
    client.get(_key(0))
    request = rpc_pb2.RangeRequest(key=_key(0), serializable=serializable)
    rate = _h2load_all(cluster, request, len(VALUE), outstanding, seconds)
    kind = "serializable" if serializable else "linearizable"
    yield Figure(f"get, {kind}, {outstanding} outstanding", rate, "/s")


def ranges(cluster: Cluster, seconds: float) -> Iterator[Figure]:
    """Linearizable ranges of 1,000 keys a second."""
    _fill(cluster, b"bench/range/", RANGE_KEYS)
    prefix = b"bench/range/"
    request = rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix))
    least = RANGE_KEYS * len(VALUE)
    rate = _h2load_all(cluster, request, least, RANGE_OUTSTANDING, seconds)
    yield Figure(f"range of {RANGE_KEYS:,} keys, {RANGE_OUTSTANDING} outstanding", rate, "/s")


def _h2load_all(
    cluster: Cluster,
    request: rpc_pb2.RangeRequest,
    least_bytes: int,
    outstanding: int,
    seconds: float,
) -> float:
    """Requests a second of all endpoints together.

    Fewer requests than endpoints: the endpoints are loaded in turn, each for its share of the time,
    and the harmonic mean is what a client that goes round would see.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(message(request.SerializeToString()))
        body.flush()
        share = outstanding // len(cluster.endpoints)
        if share == 0:
            part = seconds / len(cluster.endpoints)
            rates = [
                _h2load_rate(_h2load(e, body.name, 1, part), least_bytes) for e in cluster.endpoints
            ]
            return len(rates) / sum(1 / rate for rate in rates)
        running = [_h2load(e, body.name, share, seconds) for e in cluster.endpoints]
        return sum(_h2load_rate(process, least_bytes) for process in running)


def _h2load(endpoint: str, body: str, outstanding: int, seconds: float) -> subprocess.Popen[str]:
    connections = _H2LOAD_CONNECTIONS if outstanding >= 16 * _H2LOAD_CONNECTIONS else 1
    line = [
        "h2load",
        f"--clients={connections}",
        f"--max-concurrent-streams={outstanding // connections}",
        f"--duration={seconds:g}",
        f"--warm-up-time={WARM_UP_SECONDS}",
        "--window-bits=30",
        "--connection-window-bits=30",
        f"--data={body}",
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        f"http://{endpoint}/etcdserverpb.KV/Range",
    ]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _h2load_rate(process: subprocess.Popen[str], least_bytes: int) -> float:
    out, _ = process.communicate()
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", out)
    answered = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", out)
    data = re.search(r"\((\d+)\) data", out)
    if not (rate and answered and data) or int(answered[2]) or int(answered[3]):
        raise BenchFailed(f"h2load failed:\n{out}")
    # An RPC error is HTTP status 200 as well: only the bytes show that answers were answers.
    if not int(answered[1]) or int(data[1]) < int(answered[1]) * least_bytes:
        raise BenchFailed(f"answers are too short to be answers:\n{out}")
    return float(rate[1])


def _fill(cluster: Cluster, prefix: bytes, keys: int) -> None:
    """Put `keys` keys under `prefix`, many in one transaction."""

    def bodies() -> Iterator[bytes]:
        for start in range(0, keys, _PUTS_PER_TXN):
            txn = rpc_pb2.TxnRequest()
            for i in range(start, min(start + _PUTS_PER_TXN, keys)):
                put = txn.success.add().request_put
                put.key, put.value = prefix + b"%08d" % i, VALUE
            yield message(txn.SerializeToString())

    load = asyncio.run(run_load(cluster.endpoints, "/etcdserverpb.KV/Txn", bodies(), 24))
    if load.failed:
        raise BenchFailed(f"{load.failed} transactions failed")


def watch_fan_out(cluster: Cluster) -> Iterator[Figure]:
    """One writer, 100 watchers: events delivered a second, and the delay of a single write."""
    rate, delay = asyncio.run(_watch_fan_out(cluster))
    yield Figure(f"watch, events to {WATCHERS} watchers", rate, "/s")
    yield Figure(f"watch, one write seen by all {WATCHERS}", delay * 1000, "ms", "lower")


async def _watch_fan_out(cluster: Cluster) -> tuple[float, float]:
    fences = _Fences(WATCHERS)
    connections = await open_connections(
        cluster.endpoints,
        "/etcdserverpb.Watch/Watch",
        -(-WATCHERS // (WATCH_STREAMS_PER_CONNECTION * len(cluster.endpoints))),
        lambda *_: None,
    )
    prefix = b"bench/watch/"
    create = rpc_pb2.WatchCreateRequest(key=prefix, range_end=prefix_end(prefix))
    framed = message(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
    for i, connection in enumerate(connections):
        connection.on_data = fences.reader(i)
    for watcher in range(WATCHERS):
        connections[watcher % len(connections)].request(framed, end=False)
    for connection in connections:
        connection.flush()
    await fences.all_started.wait()

    writer = cluster.endpoints[:1]
    path = "/etcdserverpb.KV/Put"

    async def write(count: int, outstanding: int) -> None:
        bodies = (
            message(rpc_pb2.PutRequest(key=prefix + b"%d" % i, value=VALUE).SerializeToString())
            for i in range(count)
        )
        await run_load(writer, path, bodies, outstanding, per_endpoint=1)

    async def fence(number: int) -> None:
        mark = fences.expect(number)
        request = rpc_pb2.PutRequest(key=prefix + mark)
        await run_load(writer, path, iter([message(request.SerializeToString())]), 1)
        await fences.all_seen.wait()

    begin = time.perf_counter()
    await write(WATCH_WRITES, WATCH_OUTSTANDING)
    await fence(0)
    rate = WATCH_WRITES * WATCHERS / (time.perf_counter() - begin)
    delays = []
    for number in range(1, WATCH_SINGLE_WRITES + 1):
        begin = time.perf_counter()
        await fence(number)
        delays.append(time.perf_counter() - begin)
    for connection in connections:
        if connection.transport is not None:
            connection.transport.abort()
    return rate, sorted(delays)[len(delays) // 2]


class _Fences:
    """Which watchers have received the write that was made last (events come in order)."""

    def __init__(self, watchers: int) -> None:
        self._watchers = watchers
        self._mark = b"fence-none"
        self._started: set[tuple[int, int]] = set()
        self._seen: set[tuple[int, int]] = set()
        self._tails: dict[tuple[int, int], bytes] = {}
        self.all_started = asyncio.Event()
        self.all_seen = asyncio.Event()

    def expect(self, number: int) -> bytes:
        """The mark of the next fence; `all_seen` is set when every watcher has it."""
        self._mark = b"fence-%06d" % number
        self._seen.clear()
        self.all_seen.clear()
        return self._mark

    def reader(self, connection: int) -> OnData:
        """The data callback of one connection."""

        def on_data(stream: int, payload: memoryview) -> None:
            watcher = (connection, stream)
            data = self._tails.get(watcher, b"") + payload
            self._tails[watcher] = data[-len(self._mark) :]
            if not self.all_started.is_set():
                self._started.add(watcher)
                if len(self._started) == self._watchers:
                    self.all_started.set()
            elif self._mark in data:
                self._seen.add(watcher)
                if len(self._seen) == self._watchers:
                    self.all_seen.set()

        return on_data


def restart(cluster: Cluster) -> Iterator[Figure]:
    """Memory with 100,000 keys, and seconds from start to the first linearizable read."""
    _fill(cluster, b"bench/restart/", RESTART_KEYS)
    follower = cluster.followers()[0]
    for i in range(len(cluster.members)):
        cluster.client(i).get(b"x")  # a linearizable read: every member has applied all
    most = max(cluster.rss_kib(i) for i in range(len(cluster.members)))
    yield Figure(f"memory of a member, {RESTART_KEYS:,} keys", most / 1024, "MiB", "lower")
    cluster.terminate(follower)
    begin = time.perf_counter()
    cluster.start(follower)
    count = _first_answer(cluster, follower, begin + RESTART_DEADLINE_SECONDS)
    seconds = time.perf_counter() - begin
    if count != RESTART_KEYS:
        raise BenchFailed(f"{count} of {RESTART_KEYS} keys after the restart")
    yield Figure(f"restart with {RESTART_KEYS:,} keys", seconds, "s", "lower")


def _first_answer(cluster: Cluster, member: int, deadline: float) -> int:
    prefix = b"bench/restart/"
    while time.perf_counter() < deadline:
        client = Client(cluster.endpoints[member])  # fresh: no reconnection back-off
        try:
            answer = client.get(prefix, range_end=prefix_end(prefix), count_only=True, timeout=5.0)
            return int(answer.count)
        except grpc.RpcError:
            time.sleep(0.01)
        finally:
            client.close()
    raise BenchFailed(f"no answer after the restart:\n{cluster.members[member].log_tail()}")
