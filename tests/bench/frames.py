"""A gRPC load generator on bare HTTP/2 frames: many different requests, little work for each.

h2load sends one body again and again, so it cannot put to 10,000 keys, and grpcio spends more on a
call than the servers measured here. This client encodes every request as bytes beforehand, keeps a
fixed number outstanding, and reads only frame headers: a call is good when it ended and carried a
message (an error is trailers without a message). It takes a few microseconds for each request.

Trade-off: it answers no push, no padding, no CONTINUATION after a response's end, and a request
body must fit one DATA frame (16,384 bytes). That is enough for unary calls and for watch streams.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
MAX_BODY_BYTES = 16_384
OnData = Callable[[int, memoryview], None]
_WINDOW = 2**31 - 1
_REFILL = 2**29
_DEFAULT_WINDOW = 65_535
_SETTING_INITIAL_WINDOW = 4
_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + struct.pack(">IBIHIHI", 12 << 8 | SETTINGS, 0, 0, 2, 0, _SETTING_INITIAL_WINDOW, _WINDOW)
    + struct.pack(">IBII", 4 << 8 | WINDOW_UPDATE, 0, 0, _WINDOW - _DEFAULT_WINDOW)
)


def message(body: bytes) -> bytes:
    """`body` with gRPC's five-byte prefix (uncompressed)."""
    return struct.pack(">BI", 0, len(body)) + body


def header_block(authority: str, path: str) -> bytes:
    """An HPACK block that uses the static table alone, so it is the same for every request."""

    def text(value: str) -> bytes:
        assert len(value) < 127
        return bytes([len(value)]) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + text(path)
        + b"\x01" + text(authority)
        + b"\x0f\x10" + text("application/grpc")
        + b"\x00" + text("te") + text("trailers")
    )  # fmt: skip


class Connection(asyncio.Protocol):
    """One HTTP/2 connection.

    `on_end(connection, ok, started)` is called for each call that ended; `on_data(stream, bytes)`,
    when set, for each piece of an answer (streams).
    """

    def __init__(
        self,
        authority: str,
        path: str,
        on_end: Callable[[Connection, bool, float], None],
    ) -> None:
        self._block = header_block(authority, path)
        self._on_end = on_end
        self.on_data: OnData | None = None
        self._next_stream = 1
        self._started: dict[int, float] = {}
        self._with_message: set[int] = set()
        self._buffer = bytearray()
        self._window = _DEFAULT_WINDOW
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._unacknowledged = 0
        self._outbox: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(_PREFACE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call still open has failed."""
        self.lost = True
        for started in list(self._started.values()):
            self._on_end(self, False, started)
        self._started.clear()

    def request(self, framed: bytes, *, end: bool = True) -> int:
        """Queue one call with the gRPC-framed `framed`; it leaves with `flush`."""
        assert len(framed) <= MAX_BODY_BYTES
        if len(self._waiting) == 0 and len(framed) <= self._window:
            stream = self._open(framed, end)
        else:
            stream = 0
            self._waiting.append((framed, end))
        return stream

    def _open(self, framed: bytes, end: bool) -> int:
        stream = self._next_stream
        self._next_stream += 2
        self._window -= len(framed)
        self._started[stream] = time.perf_counter()
        block = self._block
        self._outbox.append(
            struct.pack(">IBI", len(block) << 8 | HEADERS, END_HEADERS, stream)
            + block
            + struct.pack(">IBI", len(framed) << 8 | DATA, END_STREAM if end else 0, stream)
            + framed
        )
        return stream

    def flush(self) -> None:
        """Write what was queued, in one call."""
        if self._outbox and self.transport is not None:
            self.transport.write(b"".join(self._outbox))
            self._outbox.clear()

    def data_received(self, data: bytes) -> None:
        """Read whole frames and keep the rest."""
        self._buffer += data
        buffer = self._buffer
        at, size = 0, len(buffer)
        with memoryview(buffer) as view:
            while size - at >= 9:
                length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
                end = at + 9 + length
                if end > size:
                    break
                stream = int.from_bytes(view[at + 5 : at + 9], "big") & 0x7FFFFFFF
                self._frame(buffer[at + 3], buffer[at + 4], stream, view[at + 9 : end])
                at = end
        del buffer[:at]
        if self._unacknowledged > _REFILL:
            self._outbox.append(
                struct.pack(">IBII", 4 << 8 | WINDOW_UPDATE, 0, 0, self._unacknowledged)
            )
            self._unacknowledged = 0
        self.flush()

    def _frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        if kind == DATA:
            self._unacknowledged += len(payload)
            if len(payload):
                self._with_message.add(stream)
            if self.on_data is not None:
                self.on_data(stream, payload)
            if flags & END_STREAM:
                self._end(stream, True)
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._end(stream, stream in self._with_message)
        elif kind == RST_STREAM:
            self._end(stream, False)
        elif kind == WINDOW_UPDATE:
            if stream == 0:
                self._window += int.from_bytes(payload, "big")
                self._send_waiting()
        elif kind == SETTINGS:
            if not flags & ACK:
                self._outbox.append(struct.pack(">IBI", SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._outbox.append(struct.pack(">IBI", 8 << 8 | PING, ACK, 0) + payload)

    def _send_waiting(self) -> None:
        while self._waiting and len(self._waiting[0][0]) <= self._window:
            self._open(*self._waiting.popleft())

    def _end(self, stream: int, ok: bool) -> None:
        started = self._started.pop(stream, None)
        self._with_message.discard(stream)
        if started is not None:
            self._on_end(self, ok, started)


@dataclass(slots=True)
class Load:
    """What a load run did. Times are in seconds."""

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The latency below which `share` (0..1) of the answers lie, in seconds."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def open_connections(
    endpoints: Sequence[str],
    path: str,
    per_endpoint: int,
    on_end: Callable[[Connection, bool, float], None],
) -> list[Connection]:
    """Connections in round-robin order of `endpoints` (``host:port``)."""
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(per_endpoint):
        for endpoint in endpoints:
            host, port = endpoint.rsplit(":", 1)
            _, connection = await loop.create_connection(
                lambda e=endpoint: Connection(e, path, on_end),  # type: ignore[misc]
                host,
                int(port),
            )
            connections.append(connection)
    return connections


async def run_load(
    endpoints: Sequence[str],
    path: str,
    bodies: Iterator[bytes],
    outstanding: int,
    *,
    seconds: float | None = None,
    per_endpoint: int = 4,
    warm_up: float = 0.0,
) -> Load:
    """Keep `outstanding` unary calls of `path` open until `seconds` passed or `bodies` are used up.

    `bodies` are gRPC-framed messages. The calls are spread evenly: each connection keeps its share,
    and with fewer calls than connections every next call goes to the next connection. The first
    `warm_up` seconds are not counted.
    """
    per_endpoint = max(1, min(per_endpoint, outstanding // len(endpoints)))
    load = Load()
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    begin = time.perf_counter()
    count_from = begin + warm_up
    until = count_from + seconds if seconds is not None else float("inf")
    open_calls = outstanding
    rotating = outstanding < per_endpoint * len(endpoints)
    turn = 0

    def on_end(connection: Connection, ok: bool, started: float) -> None:
        nonlocal open_calls, turn
        now = time.perf_counter()
        if started >= count_from and now <= until:
            if ok:
                load.answered += 1
                load.latencies.append(now - started)
            else:
                load.failed += 1
        body = next(bodies, None) if now < until and not connection.lost else None
        if body is None:
            open_calls -= 1
            if open_calls == 0 and not done.done():
                done.set_result(now)
            return
        if rotating:
            turn = (turn + 1) % len(connections)
            connection = connections[turn]
            connection.request(body)
            connection.flush()
        else:
            connection.request(body)

    connections = await open_connections(endpoints, path, per_endpoint, on_end)
    begin = time.perf_counter()
    count_from = begin + warm_up
    until = count_from + seconds if seconds is not None else float("inf")
    for i in range(outstanding):
        body = next(bodies, None)
        if body is None:
            open_calls -= 1
        else:
            connections[i % len(connections)].request(body)
    for connection in connections:
        connection.flush()
    if open_calls:
        await done
    ended = time.perf_counter()
    load.seconds = min(ended, until) - count_from if seconds is not None else ended - begin
    for connection in connections:
        if connection.transport is not None:
            connection.transport.abort()
    return load
