"""A real listener with a small test service, and a raw HTTP/2 client to speak to it.

The server runs in its own thread with its own loop, so that tests are plain blocking code. What the
handlers notice (a cancellation, a count) they put into queues, which is what tests wait on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from kvstore.errors import Code, EtcdError
from kvstore.pb import rpc_pb2
from kvstore.rpc.exposition import Spec, exposition
from kvstore.rpc.grpc import Call, GrpcRouter, SendMessages, single_request
from kvstore.rpc.http import HttpRouter, health_routes, metrics_routes, status_routes
from kvstore.rpc.listener import Listener
from kvstore.rpc.metrics import GRPC_SPECS, grpc_metrics
from kvstore.rpc.probes import Check, ProbeCounts, probe_routes
from kvstore.sockets import SocketOptions, listen_tcp

WAIT_S = 10
"""Longest wait for something that must happen; reached only when a test fails."""

SERVICE = "/test.Service/"
Put = rpc_pb2.PutRequest


class Service:
    """Handlers that take a PutRequest and answer raw bytes; ``seen`` collects what they notice."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.seen: queue.Queue[Any] = queue.Queue()
        self.calls: list[Call] = []
        self.release: asyncio.Event
        self.pending: list[asyncio.Future[bytes]] = []
        self.healthy: tuple[bool, str] = (True, "")
        self.check_failures: dict[str, str] = {}

    def echo(self, call: Call, request: Any) -> bytes:
        self.calls.append(call)
        return bytes(request.value)

    def later(self, call: Call, request: Any) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.loop.call_soon(future.set_result, bytes(request.value))
        return future

    def hang(self, call: Call, request: Any) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = self.loop.create_future()
        future.add_done_callback(self._note_cancelled)
        self.pending.append(future)
        self.seen.put("started")
        return future

    async def wait(self, call: Call, request: Any) -> bytes:
        return await self.hang(call, request)

    def _note_cancelled(self, future: asyncio.Future[bytes]) -> None:
        if future.cancelled():
            self.seen.put("cancelled")

    async def own_cancel(self, call: Call, request: Any) -> bytes:
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.loop.call_soon(future.cancel)
        return await future

    def fail(self, call: Call, request: Any) -> bytes:
        raise EtcdError(Code(int(request.key)), request.value.decode())

    def crash(self, call: Call, request: Any) -> bytes:
        raise RuntimeError("a bug in a handler")

    def inspect(self, call: Call, request: Any) -> bytes:
        binary = call.binary_metadata("trace-bin")
        found = {
            "path": call.path,
            "hasleader": call.hasleader,
            "token": call.token,
            "authorization": call.authorization,
            "source": call.metadata("source"),
            "missing": call.metadata("missing"),
            "trace": None if binary is None else binary.hex(),
            "peer": call.peer,
            "seconds left": call.deadline and call.deadline - self.loop.time(),
        }
        return json.dumps(found).encode()

    async def stream_echo(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        async for request in requests:
            await send(bytes(request.value))

    async def stream_watch(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        """Keep going after the half-close, until released."""
        async for request in requests:
            await send(bytes(request.value))
        self.seen.put("half-closed")
        await self.release.wait()
        await send([b"after", b"the", b"half-close"])

    async def stream_hang(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        await send(b"open")
        try:
            await self.loop.create_future()
        except asyncio.CancelledError:
            self.seen.put("cancelled")
            raise

    async def stream_reader_task(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        """Read in a task of its own, as Watch does, while the handler waits for something else."""

        async def read() -> None:
            async for request in requests:
                await send(bytes(request.value))

        reader = asyncio.ensure_future(read())
        try:
            await self.loop.create_future()
        finally:
            reader.cancel()
            self.seen.put("cancelled")

    async def stream_flood(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        """Send without end. Counts what ``send`` has accepted."""
        accepted = 0
        try:
            while True:
                blocked = self.loop.call_later(0.3, self.seen.put, ("blocked", accepted))
                try:
                    await send(bytes(10_000))
                finally:
                    blocked.cancel()
                accepted += 10_000
        finally:
            self.seen.put("cancelled")

    async def stream_fail(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        """Fail after as many messages as the first request's key says."""
        request = await anext(requests)
        for _ in range(int(request.key)):
            await send(b"ok")
        raise EtcdError(Code.DATA_LOSS, request.value.decode())

    async def stream_single(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        await send(bytes((await single_request(requests)).value))

    async def stream_deaf(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        """Never read; say how much is read once released."""
        self.seen.put("started")
        await self.release.wait()
        count = 0
        async for _ in requests:
            count += 1
        await send(str(count).encode())

    async def stream_crash(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        await send(b"one")
        raise RuntimeError("a bug in a handler")

    async def stream_nothing(
        self, call: Call, requests: AsyncIterator[Any], send: SendMessages
    ) -> None:
        return

    def register(self, router: GrpcRouter) -> None:
        for name in ("echo", "later", "hang", "own_cancel", "fail", "crash", "inspect"):
            router.unary(SERVICE + name, Put.FromString, getattr(self, name))
        router.waiting_unary(SERVICE + "wait", Put.FromString, self.wait)
        for name in dir(self):
            if name.startswith("stream_"):
                router.stream(SERVICE + name, Put.FromString, getattr(self, name))


class Running:
    """A listener with the test service, alive in a thread."""

    def __init__(self, *, max_recv_bytes: int = 100_000, stop_grace_s: float = 2) -> None:
        self.service = Service()
        self.probe_counts = ProbeCounts()
        version = {"etcdserver": "3.6.0", "etcdcluster": "3.6.0", "storage": "3.6.0"}
        routes = {
            **health_routes(self._health),
            **metrics_routes(lambda: self.exposition()),
            **status_routes(version=lambda: version, variables=lambda: b'{"raft.status": {}}'),
            **probe_routes("readyz", self._checks(), self.probe_counts),
            "/broken": self._broken,
        }
        self.router = GrpcRouter(HttpRouter(routes), max_recv_bytes=max_recv_bytes)
        self.service.register(self.router)
        self.values: dict[str, Any] = {}
        specs = {**GRPC_SPECS, "test_value": Spec("gauge", "For tests.")}
        self.exposition = exposition(self, specs)
        self.health_arguments: list[tuple[frozenset[str], bool]] = []
        self.loop = asyncio.new_event_loop()
        self._stop_grace_s = stop_grace_s
        self._ready: queue.Queue[Listener | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))

    def metrics(self) -> dict[str, Any]:
        return {**grpc_metrics(self.router, extensive=True), **self.values}

    async def _health(self, excluded: frozenset[str], serializable: bool) -> tuple[bool, str]:
        self.health_arguments.append((excluded, serializable))
        return self.service.healthy

    def _checks(self) -> dict[str, Check]:
        def check(name: str) -> Check:
            async def run() -> str:
                return self.service.check_failures.get(name, "")

            return run

        return {name: check(name) for name in ("first", "second")}

    async def _broken(self, request: Any) -> Any:
        raise RuntimeError("a bug in a route")

    async def _run(self) -> None:
        self.service.loop = self.loop
        self.service.release = asyncio.Event()
        self._stopping = asyncio.Event()
        self.listener = Listener(
            self.router,
            listen_tcp("127.0.0.1", 0, SocketOptions()),
            stop_grace_s=self._stop_grace_s,
        )
        await self.listener.start()
        self._ready.put(self.listener)
        await self._stopping.wait()
        self.router.stop()
        await self.listener.stop()

    def __enter__(self) -> Running:
        self._thread.start()
        self._ready.get(timeout=WAIT_S)
        self.port = self.listener.port
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()
        self.loop.close()

    def join(self) -> None:
        """Wait until the listener has stopped."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self.on_loop(self._stopping.set)

    def on_loop(self, action: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(action)

    def await_seen(self, expected: Any) -> None:
        seen = self.service.seen.get(timeout=WAIT_S)
        assert seen == expected

    def await_seen_at_last(self, expected: Any) -> None:
        """Wait for ``expected``, whatever else is noticed before it."""
        while self.service.seen.get(timeout=WAIT_S) != expected:
            pass


def frame(payload: bytes, flag: int = 0) -> bytes:
    """Frame one message as gRPC does: flag, length, payload."""
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def put(value: bytes = b"", key: bytes = b"") -> bytes:
    return bytes(Put(key=key, value=value).SerializeToString())


class RawClient:
    """HTTP/2 without a gRPC library in the way: any headers, any bytes, any order."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.flush()
        self.events: list[h2.events.Event] = []
        self.unread: set[int] = set()
        """Streams of which no byte is acknowledged, though the connection's window stays open."""

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: str, *headers: tuple[str, str | bytes], **changed: str | None) -> int:
        """Send request headers; ``changed`` replaces or (None) drops standard ones, ``_`` for -."""
        standard: dict[str, str | bytes | None] = {
            ":method": "POST",
            ":path": path if path.startswith("/") else SERVICE + path,
            ":scheme": "http",
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        for name, value in changed.items():
            standard[":method" if name == "method" else name.replace("_", "-")] = value
        stream = self.h2.get_next_available_stream_id()
        pairs = [(name, value) for name, value in standard.items() if value is not None]
        self.h2.send_headers(stream, [*pairs, *headers])
        self.flush()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes within the server's window, until they are sent or the server has answered."""
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self._data(stream, data, end=end)

    def _data(self, stream: int, data: bytes, *, end: bool) -> None:
        while data:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room == 0:
                self.read()
                continue
            self.h2.send_data(stream, data[:room])
            self.flush()
            data = data[room:]
        if end:
            self.h2.end_stream(stream)
            self.flush()

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream, error_code=8)
        self.flush()

    def read(self) -> bool:
        """Take in what the server sends next; False when it closed the connection."""
        data = self.socket.recv(65_536)
        for event in self.h2.receive_data(data) if data else ():
            if isinstance(event, h2.events.DataReceived):
                if event.stream_id not in self.unread:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif event.flow_controlled_length:
                    self.h2.increment_flow_control_window(event.flow_controlled_length)
            self.events.append(event)
        with contextlib.suppress(OSError):
            self.flush()
        return bool(data)

    def of(self, stream: int, kind: type) -> Iterator[Any]:
        for event in list(self.events):
            if isinstance(event, kind) and getattr(event, "stream_id", None) == stream:
                yield event

    def wait_for(self, stream: int, kind: type) -> Any:
        while True:
            for event in self.of(stream, kind):
                return event
            assert self.read(), f"connection closed before {kind.__name__}"

    def answer(self, stream: int) -> Answer:
        """Wait for the end of the response and return it."""
        self.wait_for(stream, h2.events.StreamEnded)
        return Answer(self, stream)

    def call(self, path: str, body: bytes, *headers: Any, **changed: Any) -> Answer:
        stream = self.open(path, *headers, **changed)
        self.data(stream, body, end=True)
        return self.answer(stream)


class Answer:
    """A complete response: HTTP status, headers, messages, gRPC status and (decoded) message."""

    def __init__(self, client: RawClient, stream: int) -> None:
        response = next(client.of(stream, h2.events.ResponseReceived))
        self.headers = dict(response.headers)
        self.body = b"".join(e.data for e in client.of(stream, h2.events.DataReceived))
        trailers = [dict(e.headers) for e in client.of(stream, h2.events.TrailersReceived)]
        self.trailers_only = not trailers
        last = trailers[0] if trailers else self.headers
        self.http_status = int(self.headers[b":status"])
        self.raw_message = last.get(b"grpc-message", b"")
        self.code = Code(int(last[b"grpc-status"])) if b"grpc-status" in last else None

    @property
    def message(self) -> str:
        return unquote(self.raw_message.decode("ascii"))

    @property
    def status(self) -> tuple[Code | None, str]:
        return self.code, self.message

    @property
    def messages(self) -> list[bytes]:
        found, body = [], self.body
        while body:
            assert body[0] == 0, "responses are never compressed"
            end = 5 + int.from_bytes(body[1:5], "big")
            assert len(body) >= end
            found.append(body[5:end])
            body = body[end:]
        return found
