"""The gateway on a real port, in front of services made for the tests.

The services stand at etcd's own paths, since those are all that the gateway knows; the requests
tell them what to do.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from kvstore.errors import Code, EtcdError
from kvstore.gateway.app import Gateway
from kvstore.gateway.routes import ALIAS, PREFIX
from kvstore.pb import kv_pb2, lock_pb2, rpc_pb2
from kvstore.rpc.grpc import Call, GrpcRouter, SendMessages
from kvstore.rpc.http import HttpRouter
from kvstore.rpc.listener import Listener
from kvstore.sockets import SocketOptions, listen_tcp

WAIT_S = 10
"""Longest wait for something that must happen; reached only when a test fails."""

MAX_RECV_BYTES = 10_000

HEADER = rpc_pb2.ResponseHeader(cluster_id=2**64 - 1, member_id=1, revision=2, raft_term=3)


class Service:
    """Handlers; ``seen`` collects what they notice."""

    def __init__(self) -> None:
        self.seen: queue.Queue[Any] = queue.Queue()
        self.calls: list[Call] = []

    def put(self, call: Call, request: rpc_pb2.PutRequest) -> bytes:
        """Fail with the code that the lease says, the key being the text; else answer the pair."""
        self.calls.append(call)
        if request.lease:
            raise EtcdError(Code(request.lease), request.key.decode())
        pair = kv_pb2.KeyValue(key=request.key, value=request.value)
        return rpc_pb2.PutResponse(header=HEADER, prev_kv=pair).SerializeToString()

    def range(self, call: Call, request: rpc_pb2.RangeRequest) -> bytes:
        """Answer as many pairs as the limit says."""
        pairs = [kv_pb2.KeyValue(key=b"%d" % i, value=bytes(100)) for i in range(request.limit)]
        response = rpc_pb2.RangeResponse(header=HEADER, kvs=pairs, count=request.limit)
        return response.SerializeToString()

    def crash(self, call: Call, request: Any) -> bytes:
        raise RuntimeError("a bug in a handler")

    def hang(self, call: Call, request: Any) -> Awaitable[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda f: self.seen.put("cancelled") if f.cancelled() else None)
        self.seen.put("started")
        return future

    async def watch(
        self, call: Call, requests: AsyncIterator[rpc_pb2.WatchRequest], send: SendMessages
    ) -> None:
        """Answer each creation with its watch id; id 0 fails, below 0 that many bytes come back.

        The end of the requests does not end it.
        """
        reader = asyncio.ensure_future(self._read_watch(requests, send))
        try:
            await reader
            self.seen.put("half-closed")
            await asyncio.get_running_loop().create_future()
        finally:
            reader.cancel()

    async def _read_watch(
        self, requests: AsyncIterator[rpc_pb2.WatchRequest], send: SendMessages
    ) -> None:
        async for request in requests:
            number = request.create_request.watch_id
            if number == 0:
                raise EtcdError(Code.UNAVAILABLE, "no luck")
            reason = "x" * -number
            response = rpc_pb2.WatchResponse(
                watch_id=number, created=True, cancel_reason=reason, compact_revision=7
            )
            await send([response.SerializeToString()] * (1 if number > 0 else 2))

    async def keep_alive(
        self, call: Call, requests: AsyncIterator[rpc_pb2.LeaseKeepAliveRequest], send: SendMessages
    ) -> None:
        """Answer each request; end with them."""
        async for request in requests:
            response = rpc_pb2.LeaseKeepAliveResponse(header=HEADER, ID=request.ID, TTL=request.ID)
            await send([response.SerializeToString()])

    async def snapshot(
        self, call: Call, requests: AsyncIterator[rpc_pb2.SnapshotRequest], send: SendMessages
    ) -> None:
        """Send without end what nobody may read."""
        async for _ in requests:
            pass
        blob = rpc_pb2.SnapshotResponse(blob=bytes(10_000)).SerializeToString()
        accepted = 0
        while True:
            loop = asyncio.get_running_loop()
            blocked = loop.call_later(0.3, self.seen.put, ("blocked", accepted))
            try:
                await send(blob)
            finally:
                blocked.cancel()
            accepted += len(blob)

    def register(self, router: GrpcRouter) -> None:
        pb, kv = rpc_pb2, "/etcdserverpb.KV/"
        router.unary(kv + "Put", pb.PutRequest.FromString, self.put)
        router.unary(kv + "Range", pb.RangeRequest.FromString, self.range)
        router.unary(kv + "Txn", pb.TxnRequest.FromString, self.crash)
        router.unary(kv + "Compact", pb.CompactionRequest.FromString, self.hang)
        router.unary("/v3lockpb.Lock/Lock", lock_pb2.LockRequest.FromString, self.hang)
        watch, lease = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"
        router.stream(watch, pb.WatchRequest.FromString, self.watch)
        router.stream(lease, pb.LeaseKeepAliveRequest.FromString, self.keep_alive)
        snapshot = "/etcdserverpb.Maintenance/Snapshot"
        router.stream(snapshot, pb.SnapshotRequest.FromString, self.snapshot, kind="server_stream")


class Running:
    """The server, alive in a thread."""

    def __init__(self) -> None:
        self.service = Service()
        http = HttpRouter({})
        self.router = GrpcRouter(http, max_recv_bytes=MAX_RECV_BYTES)
        self.gateway = Gateway(self.router, max_recv_bytes=MAX_RECV_BYTES)
        http.mount(PREFIX, self.gateway)
        http.mount(ALIAS, self.gateway)
        self.service.register(self.router)
        self.loop = asyncio.new_event_loop()
        self._ready: queue.Queue[int] = queue.Queue()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        listener = Listener(
            self.router, listen_tcp("127.0.0.1", 0, SocketOptions()), stop_grace_s=2
        )
        await listener.start()
        self._ready.put(listener.port)
        await self._stopping.wait()
        self.router.stop()
        await listener.stop()
        self.gateway.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopping.set)

    def __enter__(self) -> Running:
        self._thread.start()
        self.port = self._ready.get(timeout=WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self.loop.close()

    def await_idle(self) -> None:
        """Wait until no call is in flight."""
        deadline = time.monotonic() + WAIT_S
        methods = self.router.methods.values()
        while any(method.started != sum(method.handled) for method in methods):
            assert time.monotonic() < deadline, "calls are still in flight"
            time.sleep(0.01)

    def await_seen(self, expected: Any) -> None:
        assert self.service.seen.get(timeout=WAIT_S) == expected


class RawHttp:
    """HTTP/1.1 by hand: any bytes, and the answer as it comes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def post(self, path: str, body: bytes, *headers: str) -> None:
        """Send a request with its whole body."""
        self.start(path, f"Content-Length: {len(body)}", *headers)
        self.socket.sendall(body)

    def start(self, path: str, *headers: str) -> None:
        """Send the head of a request."""
        lines = [f"POST {path} HTTP/1.1", "Host: test", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a body; an empty one ends it."""
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an answer: status and headers."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers

    def body(self, headers: dict[str, str]) -> bytes:
        """Read a body to its end."""
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        return b"".join(iter(self.read_chunk, b""))

    def read_chunk(self) -> bytes:
        """Read one chunk of a body; empty at its end, or where the connection ended."""
        size = self._file.readline()
        data = self._file.read(int(size, 16)) if size else b""
        if size:
            self._file.readline()
        return data

    def answer(self) -> tuple[int, bytes]:
        """Read a whole answer."""
        status, headers = self.head()
        return status, self.body(headers)


@contextmanager
def raw(port: int) -> Iterator[RawHttp]:
    """A connection, closed at the end."""
    connection = RawHttp(port)
    try:
        yield connection
    finally:
        connection.close()
