"""TCP between members: asyncio at the edge of the member core.

Each member dials every other one and sends on the connection it dialed; what it receives comes on
connections the others dialed. Sending never waits: what a slow or broken connection cannot take is
dropped, which Raft expects and repairs. Snapshots have a connection of their own, so that they
delay no heartbeat.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from kvstore.errors import Code, EtcdError
from kvstore.peer import codec
from kvstore.peer.probe import measure_round_trips
from kvstore.peer.stats import Stats
from kvstore.sockets import (
    SocketOptions,
    close_unix,
    listen_tcp,
    listen_unix,
    peer_sockets,
    tune,
    unix_path,
)
from kvstore.storage.codec import encode_entries
from kvstore.storage.errors import CodecError, StorageError
from raft import Entry, Message, MessageKind

log = logging.getLogger("peer")

RECONNECT_DELAY_S = 0.1
"""Pause between two attempts to reach a member."""
DIAL_TIMEOUT_S = 2.0
"""Longest wait for a connection and its handshake."""
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""What may wait on one connection before messages to that member are dropped."""
SNAPSHOT_CHUNK_BYTES = 256 * 1024
SNAPSHOT_CONFIRM_S = 120.0
"""Longest wait for the receiver to check a snapshot that was sent completely."""


class PeerHandler(Protocol):
    """What the transport tells the member."""

    def receive(self, message: Message) -> None: ...
    def unreachable(self, peer: int) -> None: ...
    def snapshot_sent(self, peer: int, ok: bool) -> None: ...
    def handle_call(self, method: int, payload: bytes) -> Awaitable[bytes]: ...
    async def receive_snapshot(self, message: Message, chunks: SnapshotReader) -> None: ...
    def knows(self, peer: int) -> bool: ...


class SnapshotReader:
    """The body of an incoming snapshot: ``size`` bytes, then their SHA-256."""

    def __init__(self, reader: asyncio.StreamReader, size: int) -> None:
        self._reader = reader
        self.size = size
        self._left = size

    async def read(self) -> bytes:
        """Return the next chunk, b"" after the last. Raises IncompleteReadError."""
        if not self._left:
            return b""
        chunk = await self._reader.read(min(SNAPSHOT_CHUNK_BYTES, self._left))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(chunk)
        return chunk

    async def digest(self) -> bytes:
        return await self._reader.readexactly(32)


def _tune(transport: asyncio.Transport, options: SocketOptions) -> None:
    """Let the kernel end a connection whose other end has vanished without a word."""
    tune(transport.get_extra_info("socket"), options)


class _Incoming(asyncio.Protocol):
    """The stream another member dialed: handshake, then frames."""

    def __init__(self, transport: PeerTransport) -> None:
        self._owner = transport
        self._reader = codec.FrameReader()
        self._head = b""
        self._peer = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.incoming.add(self._transport)
        _tune(self._transport, self._owner.options)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._owner.incoming.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        if not self._peer:
            self._head += data
            if len(self._head) < codec.HANDSHAKE_SIZE:
                if not codec.MAGIC.startswith(self._head[: len(codec.MAGIC)]):
                    self._refuse("this is a peer port, and that is not its protocol")
                return
            data = self._accept()
            if not self._peer:
                return
        try:
            frames = self._reader.feed(data)
            self._owner.stats.received[self._peer] += len(data)
            for frame_type, body in frames:
                self._dispatch(frame_type, body)
        except CodecError as error:
            self._owner.stats.receive_failures[self._peer] += 1
            log.warning("closing peer stream: %s", error, extra={"peer": f"{self._peer:x}"})
            assert self._transport is not None
            self._transport.abort()

    def _accept(self) -> bytes:
        """Check the handshake; return what came after it."""
        assert self._transport is not None
        raw, rest = self._head[: codec.HANDSHAKE_SIZE], self._head[codec.HANDSHAKE_SIZE :]
        shake = codec.decode_handshake(raw)
        problem = self._owner.check_handshake(shake)
        if problem or shake is None:
            self._refuse(problem or "")
            return b""
        self._transport.write(b"\x00\x00\x00")
        if shake.purpose == codec.Purpose.SNAPSHOT:
            self._owner.take_over_for_snapshot(self._transport, shake.from_id, rest)
            return b""
        self._peer = shake.from_id
        return rest

    def _refuse(self, problem: str) -> None:
        assert self._transport is not None
        address = self._transport.get_extra_info("peername")
        log.warning("refused a peer connection: %s", problem, extra={"remote": str(address)})
        text = problem.encode()[:1000]
        self._transport.write(b"\x01" + len(text).to_bytes(2, "big") + text)
        self._transport.close()

    def _dispatch(self, frame_type: int, body: memoryview) -> None:
        if frame_type == codec.FrameType.MESSAGE:
            message = codec.decode_message(body)
            if message.from_ != self._peer:
                raise CodecError(f"message from {message.from_:x} on the stream of another member")
            if message.kind == MessageKind.SNAPSHOT:
                raise CodecError("a snapshot needs a connection of its own")
            self._owner.handler.receive(message)
        elif frame_type == codec.FrameType.CALL:
            call_id, method, payload = codec.decode_call(body)
            if method == codec.PING:
                assert self._transport is not None
                self._transport.write(codec.encode_reply(call_id, 0, b""))
                return
            task = asyncio.ensure_future(self._answer(call_id, method, payload))
            self._owner.keep(task)
        else:
            raise CodecError(f"unknown frame type {frame_type}")

    async def _answer(self, call_id: int, method: int, payload: bytes) -> None:
        try:
            frame = codec.encode_reply(
                call_id, 0, await self._owner.handler.handle_call(method, payload)
            )
        except EtcdError as error:
            frame = codec.encode_reply(call_id, error.code, error.message.encode())
        except Exception as error:
            log.exception("a peer call failed", extra={"method": method})
            text = f"peer call failed: {type(error).__name__}"
            frame = codec.encode_reply(call_id, Code.INTERNAL, text.encode())
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)


class _Outgoing(asyncio.Protocol):
    """The stream this member dialed: frames go out, replies to calls come back."""

    def __init__(self, owner: PeerTransport, peer: int) -> None:
        self._owner = owner
        self._peer = peer
        self._head: bytes | None = b""
        self._reader = codec.FrameReader()
        self._transport: asyncio.Transport | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            if len(self._head) < 3:
                return
            end = 3 + int.from_bytes(self._head[1:3], "big")
            if len(self._head) < end:
                return
            status, text, data = self._head[0], self._head[3:end], self._head[end:]
            self._head = None
            if not self.accepted.done():
                if status:
                    self.accepted.set_exception(
                        ConnectionRefusedError(text.decode(errors="replace"))
                    )
                else:
                    self.accepted.set_result(None)
        try:
            for frame_type, body in self._reader.feed(data):
                if frame_type == codec.FrameType.REPLY:
                    self._owner.take_reply(*codec.decode_reply(body))
        except CodecError as error:
            log.warning("bad reply from peer: %s", error, extra={"peer": f"{self._peer:x}"})
            if self._transport is not None:
                self._transport.abort()  # the framing is lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _tune(self._transport, self._owner.options)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(exc or ConnectionResetError("closed in the handshake"))
            self.accepted.exception()
        if not self.closed.done():
            self.closed.set_result(None)


def _is_unix(url: str) -> bool:
    return url.startswith("unix://")


def _address(url: str) -> tuple[str, int]:
    """Return host and port of a peer URL; the configuration has checked that it has both."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


class PeerTransport:
    """All connections of one member to the others."""

    def __init__(
        self,
        handler: PeerHandler,
        cluster_id: int,
        member_id: int,
        options: SocketOptions | None = None,
    ) -> None:
        """Connect to nobody yet. Args: options: of all connections, default `peer_sockets()`."""
        self.handler = handler
        self.options = options or peer_sockets()
        self.stats = Stats()
        self.incoming: set[asyncio.Transport] = set()
        self._cluster_id = cluster_id
        self._member_id = member_id
        self._urls: dict[int, tuple[str, ...]] = {}
        self._dialers: dict[int, asyncio.Task[None]] = {}
        self._streams: dict[int, asyncio.Transport] = {}
        self._calls: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        self._next_call = 1
        self._servers: list[asyncio.Server] = []
        self._listening: list[socket.socket] = []
        self._tasks: set[asyncio.Future[None]] = set()

    # Set-up.

    async def listen(self, urls: Sequence[str]) -> None:
        """Open the peer listeners. Raises OSError naming the address that is taken."""
        loop = asyncio.get_running_loop()
        for url in urls:
            if _is_unix(url):
                bound = listen_unix(unix_path(url))
                server = await loop.create_unix_server(lambda: _Incoming(self), sock=bound)
            else:
                bound = listen_tcp(*_address(url), self.options)
                server = await loop.create_server(lambda: _Incoming(self), sock=bound)
            self._listening.append(bound)
            self._servers.append(server)

    def set_peers(self, peers: Mapping[int, tuple[str, ...]]) -> None:
        """Follow a change of the member list: dial new members, drop removed ones."""
        wanted = {i: urls for i, urls in peers.items() if i != self._member_id}
        for peer in list(self._dialers):
            if wanted.get(peer) != self._urls.get(peer):
                self._dialers.pop(peer).cancel()
                self._drop_stream(peer)
        self._urls = wanted
        for peer in wanted:
            if peer not in self._dialers:
                self._dialers[peer] = asyncio.ensure_future(self._keep_dialed(peer))

    async def close(self) -> None:
        for bound in self._listening:
            close_unix(bound)
        for server in self._servers:
            server.close()
        for task in [*self._dialers.values(), *self._tasks]:
            task.cancel()
        for stream in [*self._streams.values(), *self.incoming]:
            stream.close()
        for _, call in self._calls.values():
            if not call.done():
                call.cancel()
        await asyncio.gather(*self._dialers.values(), *self._tasks, return_exceptions=True)

    def keep(self, task: asyncio.Future[None]) -> None:
        """Hold a reference to a running task until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Sending.

    def send(self, messages: Sequence[Message]) -> None:
        """Send raft messages, in order for each member; drop what cannot be sent."""
        blocks: dict[tuple[int, int, int], bytes] = {}

        def block(first_index: int, entries: Sequence[Entry]) -> bytes:
            key = (first_index, len(entries), entries[-1][0])
            found = blocks.get(key)
            if found is None:
                found = blocks[key] = encode_entries(first_index, entries)
            return found

        for message in messages:
            stream = self._streams.get(message.to)
            if stream is None or stream.get_write_buffer_size() > MAX_BUFFERED_BYTES:
                self.stats.send_failures[message.to] += 1
                self.handler.unreachable(message.to)
                continue
            frame = codec.encode_message(message, block)
            self.stats.sent[message.to] += len(frame)
            stream.write(frame)

    async def call(self, peer: int, method: int, payload: bytes, timeout_s: float) -> bytes:
        """Ask another member. Raises EtcdError from its answer, ConnectionError, TimeoutError."""
        stream = self._streams.get(peer)
        if stream is None:
            raise ConnectionError(f"no connection to member {peer:x}")
        call_id, self._next_call = self._next_call, self._next_call + 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = (peer, future)
        stream.write(codec.encode_call(call_id, method, payload))
        try:
            return await asyncio.wait_for(future, timeout_s)
        finally:
            self._calls.pop(call_id, None)

    def take_reply(self, call_id: int, status: int, payload: bytes) -> None:
        _, future = self._calls.pop(call_id, (0, None))
        if future is None or future.done():
            return
        if status:
            code = Code(status) if status in Code._value2member_map_ else Code.UNKNOWN
            future.set_exception(EtcdError(code, payload.decode(errors="replace")))
        else:
            future.set_result(payload)

    # Connections.

    def check_handshake(self, shake: codec.Handshake | None) -> str:
        """Return why a dialing member is refused, or "" to accept it."""
        if shake is None:
            return "this is a peer port, and that is not its protocol"
        if shake.version != codec.PROTOCOL_VERSION:
            return f"peer protocol version {shake.version}, this member speaks 1"
        if shake.cluster_id != self._cluster_id:
            return (
                f"cluster ID mismatch: the remote member is of cluster {shake.cluster_id:x},"
                f" this one of {self._cluster_id:x}"
            )
        if shake.to_id != self._member_id:
            return f"member {shake.to_id:x} was expected here, this is {self._member_id:x}"
        if not self.handler.knows(shake.from_id):
            return f"member {shake.from_id:x} is not in the cluster"
        return ""

    async def _dial(self, peer: int, purpose: codec.Purpose) -> tuple[_Outgoing, asyncio.Transport]:
        shake = codec.Handshake(
            codec.PROTOCOL_VERSION, purpose, self._cluster_id, self._member_id, peer
        )
        error: Exception = ConnectionError("no peer URL")
        for url in self._urls.get(peer, ()):
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    transport, protocol = await self._connect(peer, url)
                    transport.write(shake.encode())
                    try:
                        await protocol.accepted
                    except BaseException:
                        transport.abort()
                        raise
                return protocol, transport
            except (OSError, TimeoutError) as failure:
                error = failure
        raise error

    async def _connect(self, peer: int, url: str) -> tuple[asyncio.Transport, _Outgoing]:
        loop = asyncio.get_running_loop()
        if _is_unix(url):
            return await loop.create_unix_connection(lambda: _Outgoing(self, peer), unix_path(url))
        return await loop.create_connection(lambda: _Outgoing(self, peer), *_address(url))

    async def _keep_dialed(self, peer: int) -> None:
        """Keep one stream to a member open for as long as it is a member."""
        said = ""
        while True:
            try:
                protocol, transport = await self._dial(peer, codec.Purpose.STREAM)
            except (OSError, TimeoutError) as error:
                text = str(error) or type(error).__name__
                if text != said:
                    log.warning("cannot reach peer: %s", text, extra={"peer": f"{peer:x}"})
                    said = text
                await asyncio.sleep(RECONNECT_DELAY_S)
                continue
            said = ""
            transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES)
            self._streams[peer] = transport
            self.stats.connect(peer)
            log.info("peer became active", extra={"peer": f"{peer:x}"})
            probe = asyncio.ensure_future(
                measure_round_trips(
                    partial(self.call, peer, codec.PING, b""),
                    partial(self.stats.round_trip, peer),
                )
            )
            try:
                await protocol.closed
            finally:
                probe.cancel()
                self._drop_stream(peer)
            log.warning("lost the connection to peer", extra={"peer": f"{peer:x}"})

    def _drop_stream(self, peer: int) -> None:
        stream = self._streams.pop(peer, None)
        self.stats.disconnect(peer)
        if stream is not None:
            stream.abort()
        for waited_for, call in self._calls.values():
            if waited_for == peer and not call.done():
                call.set_exception(ConnectionResetError(f"lost the connection to {peer:x}"))
                call.exception()  # its caller may have gone: then nobody else looks at it

    # Snapshots.

    def send_snapshot(self, message: Message, path: Path) -> None:
        """Stream a snapshot file in the background; the handler hears how it ended."""
        self.keep(asyncio.ensure_future(self._send_snapshot(message, path)))

    async def _send_snapshot(self, message: Message, path: Path) -> None:
        ok = False
        stats, clock = self.stats.snapshots_sent, asyncio.get_running_loop().time
        stats.begin(message.to)
        began = clock()
        try:
            protocol, transport = await self._dial(message.to, codec.Purpose.SNAPSHOT)
            try:
                await self._stream_file(message, path, protocol, transport)
                ok = True
            finally:
                transport.close()
        except (OSError, TimeoutError, EtcdError) as error:
            log.warning("snapshot was not sent: %s", error, extra={"peer": f"{message.to:x}"})
            self.stats.send_failures[message.to] += 1
        finally:
            stats.end(message.to, ok=ok, seconds=clock() - began)
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call
            self.handler.snapshot_sent(message.to, ok)

    async def _stream_file(
        self, message: Message, path: Path, protocol: _Outgoing, transport: asyncio.Transport
    ) -> None:
        size = os.path.getsize(path)  # noqa: ASYNC240 - one system call
        digest = hashlib.sha256()
        transport.set_write_buffer_limits(high=4 * SNAPSHOT_CHUNK_BYTES)
        call_id, self._next_call = self._next_call, self._next_call + 1
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = (0, done)
        transport.write(call_id.to_bytes(8, "big") + size.to_bytes(8, "big"))
        transport.write(codec.encode_message(message))
        with open(path, "rb") as file:  # noqa: ASYNC230 - 256 KiB from the page cache at a time
            while chunk := file.read(SNAPSHOT_CHUNK_BYTES):
                digest.update(chunk)
                transport.write(chunk)
                while transport.get_write_buffer_size() > 2 * SNAPSHOT_CHUNK_BYTES:
                    if protocol.closed.done():
                        raise ConnectionResetError("closed by the receiver")
                    await asyncio.sleep(0.002)
        transport.write(digest.digest())
        self.stats.sent[message.to] += size
        either: set[asyncio.Future[Any]] = {done, protocol.closed}
        waited, _ = await asyncio.wait(
            either, timeout=SNAPSHOT_CONFIRM_S, return_when=asyncio.FIRST_COMPLETED
        )
        self._calls.pop(call_id, None)
        if done not in waited:
            raise ConnectionResetError("closed before the snapshot was confirmed")
        done.result()

    def take_over_for_snapshot(self, transport: asyncio.Transport, peer: int, rest: bytes) -> None:
        """Turn an accepted connection into a stream reader and receive a snapshot from it."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2 * SNAPSHOT_CHUNK_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            reader.feed_data(rest)
        self.keep(asyncio.ensure_future(self._receive_snapshot(transport, reader, peer)))

    async def _receive_snapshot(
        self, transport: asyncio.Transport, reader: asyncio.StreamReader, peer: int
    ) -> None:
        ok = False
        stats, clock = self.stats.snapshots_received, asyncio.get_running_loop().time
        stats.begin(peer)
        began = clock()
        try:
            call_id = int.from_bytes(await reader.readexactly(8), "big")
            size = int.from_bytes(await reader.readexactly(8), "big")
            length, _ = codec.FRAME_HEAD.unpack(await reader.readexactly(codec.FRAME_HEAD.size))
            if length > MAX_BUFFERED_BYTES:
                raise CodecError(f"snapshot message of {length} bytes")
            message = codec.decode_message(memoryview(await reader.readexactly(length - 1)))
            if message.kind != MessageKind.SNAPSHOT or message.snapshot is None:
                raise CodecError("not a snapshot message")
            await self.handler.receive_snapshot(message, SnapshotReader(reader, size))
            self.stats.received[peer] += size
            ok = True
            transport.write(codec.encode_reply(call_id, 0, b""))
        except EtcdError as error:
            transport.write(codec.encode_reply(call_id, error.code, error.message.encode()))
        except (StorageError, OSError, asyncio.IncompleteReadError) as error:
            log.warning("snapshot was not received: %s", error, extra={"peer": f"{peer:x}"})
        finally:
            stats.end(peer, ok=ok, seconds=clock() - began)
            transport.close()
            self.incoming.discard(transport)
