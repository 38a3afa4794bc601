"""TCP between members: asyncio at the edge of the member core.

Each member dials every other one and sends on the connection it dialed; what it receives comes on
connections the others dialed. Sending never waits: what a slow or broken connection cannot take is
dropped, which Raft expects and repairs. Snapshots have a connection of their own, so that they
delay no heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from kvstore.errors import Code, EtcdError
from kvstore.membership.urls import is_unix, split_host_port
from kvstore.peer import codec
from kvstore.peer.handshake import PROTOCOL_VERSION, Handshake, Purpose, Standing, Status
from kvstore.peer.http import Pages
from kvstore.peer.probe import measure_round_trips
from kvstore.peer.snapshots import CHUNK_BYTES, SnapshotReader, receive_file, send_file
from kvstore.peer.stats import Stats
from kvstore.peer.streams import Incoming, Outgoing, Removed
from kvstore.sockets import (
    SocketOptions,
    close_unix,
    listen_tcp,
    listen_unix,
    peer_sockets,
    unix_path,
)
from kvstore.storage.codec import encode_entries
from kvstore.storage.errors import StorageError
from raft import Entry, Message

__all__ = ["PeerHandler", "PeerTransport", "SnapshotReader"]

log = logging.getLogger("peer")

RECONNECT_DELAY_S = 0.1
"""Pause between two attempts to reach a member."""
REMOVED_DELAY_S = 1.0
"""The same after the other has said that this member was removed."""
DIAL_TIMEOUT_S = 2.0
"""Longest wait for a connection and its handshake."""
MAX_MISSED_PROBES = 2
"""Probes in a row that a connection brings no answer to before it is ended, although its other end
is heard of elsewhere: 10 s, in which it could have read all that may wait."""
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""What may wait on one connection before messages to that member are dropped."""
MAX_STRANGERS = 16
"""Members not known here yet that may be connected at a time."""
MAX_NEWS = 1000
"""Refusals that are remembered, so that the log names each once and not with every attempt."""


class PeerHandler(Protocol):
    """What the transport tells the member."""

    def receive(self, message: Message) -> None: ...
    def unreachable(self, peer: int) -> None: ...
    def snapshot_sent(self, peer: int, ok: bool) -> None: ...
    def handle_call(self, method: int, payload: bytes) -> Awaitable[bytes]: ...
    async def receive_snapshot(self, message: Message, chunks: SnapshotReader) -> None: ...
    def standing(self, peer: int) -> Standing: ...
    def told_removed(self, by: int) -> None: ...
    def pages(self) -> Pages: ...


def _address(url: str) -> tuple[str, int]:
    """Return host and port of a peer URL. Raises OSError for one that leads nowhere."""
    if not url.startswith("http://"):
        raise OSError(f"{url}: peers are not reached in this way yet")
    try:
        return split_host_port(url)
    except ValueError as error:
        raise OSError(f"{url}: {error}") from None


class PeerTransport:
    """All connections of one member to the others."""

    def __init__(
        self,
        handler: PeerHandler,
        cluster_id: int,
        member_id: int,
        options: SocketOptions | None = None,
        own_urls: tuple[str, ...] = (),
    ) -> None:
        """Connect to nobody yet.

        Args:
            options: of all connections, default `peer_sockets()`.
            own_urls: where this member says it is reached, besides what the member list says.
        """
        self.handler = handler
        self.options = options or peer_sockets()
        self.stats = Stats()
        self.incoming: dict[asyncio.Transport, int] = {}
        """Connections from elsewhere, and whose they are; 0 before the handshake."""
        self._cluster_id = cluster_id
        self._member_id = member_id
        self._advertised = own_urls
        self._own_urls = own_urls
        self._announced: dict[int, tuple[str, ...]] = {}
        """What members said of themselves: they may have moved while this one was away."""
        self._strangers: dict[int, tuple[str, ...]] = {}
        self._news: set[tuple[int, str]] = set()
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
            if is_unix(url):
                bound = listen_unix(unix_path(url))
                server = await loop.create_unix_server(lambda: Incoming(self), sock=bound)
            else:
                bound = listen_tcp(*_address(url), self.options)
                server = await loop.create_server(lambda: Incoming(self), sock=bound)
            self._listening.append(bound)
            self._servers.append(server)

    def set_peers(self, peers: Mapping[int, tuple[str, ...]]) -> None:
        """Follow a change of the member list: dial new members, drop removed ones.

        What is on its way to a removed one still goes out: it may be the news of its removal. It
        comes back, and is refused.
        """
        wanted = {i: urls for i, urls in peers.items() if i != self._member_id}
        listed = peers.get(self._member_id, ())
        self._own_urls = tuple(dict.fromkeys((*listed, *self._advertised)))
        for peer in [p for p in self._strangers if self.handler.standing(p) != Standing.STRANGER]:
            del self._strangers[peer]
        self._follow({**self._strangers, **wanted})
        for transport, peer in list(self.incoming.items()):
            if self.handler.standing(peer) in (Standing.BARRED, Standing.REMOVED):
                transport.close()

    def _follow(self, wanted: dict[int, tuple[str, ...]]) -> None:
        for peer in list(self._dialers):
            if wanted.get(peer) != self._urls.get(peer):
                self._dialers.pop(peer).cancel()
                self._drop_stream(peer, flush=peer not in wanted)
        self._urls = wanted
        self._announced = {i: urls for i, urls in self._announced.items() if i in wanted}
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

    def check_handshake(self, shake: Handshake) -> tuple[Status, str]:
        """Return whether a dialing member is accepted, and if not, why."""
        peer = shake.from_id
        if shake.version != PROTOCOL_VERSION:
            problem = (
                f"peer protocol version {shake.version}, this member speaks {PROTOCOL_VERSION}"
            )
        elif shake.cluster_id != self._cluster_id:
            problem = (
                f"cluster ID mismatch: the remote member is of cluster {shake.cluster_id:x},"
                f" this one of {self._cluster_id:x}"
            )
        elif shake.to_id != self._member_id:
            problem = f"member {shake.to_id:x} was expected here, this is {self._member_id:x}"
        elif peer == self._member_id:
            problem = f"member {peer:x} is this one"
        else:
            return self._admit(peer, shake.urls)
        return Status.REFUSED, problem

    def _admit(self, peer: int, urls: tuple[str, ...]) -> tuple[Status, str]:
        standing = self.handler.standing(peer)
        if standing is Standing.REMOVED:
            return Status.REMOVED, f"member {peer:x} was removed from the cluster"
        if standing is Standing.BARRED:
            return Status.REFUSED, f"member {peer:x} is not in the cluster any more"
        if standing is Standing.STRANGER and peer not in self._strangers:
            if not urls:
                return Status.REFUSED, f"member {peer:x} is not in the cluster"
            if len(self._strangers) >= MAX_STRANGERS:
                return Status.REFUSED, "too many members that are not in the cluster"
        return Status.ACCEPTED, ""

    def accepted(self, transport: asyncio.Transport, shake: Handshake) -> None:
        """A handshake was accepted. A stranger is dialed for as long as it is connected."""
        peer = shake.from_id
        self.incoming[transport] = peer
        if self.handler.standing(peer) is Standing.STRANGER and peer not in self._strangers:
            log.info("accepted a member not known here yet", extra={"peer": f"{peer:x}"})
            self._strangers[peer] = shake.urls
            self._follow({**self._urls, peer: shake.urls})
        self._announced[peer] = shake.urls

    def incoming_lost(self, transport: asyncio.Transport) -> None:
        """A connection from elsewhere has ended."""
        peer = self.incoming.pop(transport, 0)
        if peer in self._strangers and peer not in self.incoming.values():
            del self._strangers[peer]
            self._follow({i: urls for i, urls in self._urls.items() if i != peer})

    def is_news(self, peer: int, problem: str) -> bool:
        """Whether a refusal has not been logged yet."""
        if (peer, problem) in self._news:
            return False
        if len(self._news) >= MAX_NEWS:
            self._news.clear()
        self._news.add((peer, problem))
        return True

    async def _dial(self, peer: int, purpose: Purpose) -> tuple[Outgoing, asyncio.Transport]:
        shake = Handshake(
            PROTOCOL_VERSION, purpose, self._cluster_id, self._member_id, peer, self._own_urls
        )
        error: Exception = ConnectionError("no peer URL")
        listed, announced = self._urls.get(peer, ()), self._announced.get(peer, ())
        for url in dict.fromkeys((*listed, *announced)):
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
            except Removed:
                raise
            except (OSError, TimeoutError) as failure:
                error = failure
        raise error

    async def _connect(self, peer: int, url: str) -> tuple[asyncio.Transport, Outgoing]:
        loop = asyncio.get_running_loop()
        if url.startswith("unix://"):
            return await loop.create_unix_connection(lambda: Outgoing(self, peer), unix_path(url))
        return await loop.create_connection(lambda: Outgoing(self, peer), *_address(url))

    async def _keep_dialed(self, peer: int) -> None:
        """Keep one stream to a member open for as long as it is a member."""
        said = ""
        while True:
            try:
                protocol, transport = await self._dial(peer, Purpose.STREAM)
            except (OSError, TimeoutError) as error:
                text = str(error) or type(error).__name__
                if text != said:
                    log.warning("cannot reach peer: %s", text, extra={"peer": f"{peer:x}"})
                    said = text
                if isinstance(error, Removed):
                    self.handler.told_removed(peer)
                await asyncio.sleep(
                    REMOVED_DELAY_S if isinstance(error, Removed) else RECONNECT_DELAY_S
                )
                continue
            said = ""
            transport.set_write_buffer_limits(high=MAX_BUFFERED_BYTES)
            self._streams[peer] = transport
            self.stats.connect(peer, asyncio.get_running_loop().time())
            log.info("peer became active", extra={"peer": f"{peer:x}"})
            probe = asyncio.ensure_future(self._probe(peer, protocol, transport))
            try:
                await protocol.closed
            finally:
                probe.cancel()
                if self._streams.get(peer) is transport:
                    self._drop_stream(peer)
            log.warning("lost the connection to peer", extra={"peer": f"{peer:x}"})

    async def _probe(self, peer: int, protocol: Outgoing, transport: asyncio.Transport) -> None:
        """Measure round trips; end a connection whose other end has fallen silent.

        One that only has too much to read is heard of: it probes, too, on a connection of its own.
        That is no proof for long: this connection may be dead while the other one is not.
        """
        heard = answered = -1
        missed = 0

        async def ping(timeout_s: float) -> bytes:
            nonlocal answered
            answered = protocol.received
            return await self.call(peer, codec.PING, b"", timeout_s)

        while heard != self.stats.received[peer] and missed < MAX_MISSED_PROBES:
            heard = self.stats.received[peer]
            try:
                await measure_round_trips(ping, partial(self.stats.round_trip, peer))
            except TimeoutError:
                missed = missed + 1 if protocol.received == answered else 0
                continue
            return
        log.warning("peer does not answer", extra={"peer": f"{peer:x}"})
        transport.abort()

    def _drop_stream(self, peer: int, *, flush: bool = False) -> None:
        stream = self._streams.pop(peer, None)
        self.stats.disconnect(peer)
        if stream is not None:
            if flush:
                stream.close()
            else:
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
        ok, loop = False, asyncio.get_running_loop()
        stats, began = self.stats.snapshots_sent, loop.time()
        stats.begin(message.to)
        call_id, self._next_call = self._next_call, self._next_call + 1
        confirmed: asyncio.Future[bytes] = loop.create_future()
        self._calls[call_id] = (0, confirmed)
        try:
            protocol, transport = await self._dial(message.to, Purpose.SNAPSHOT)
            try:
                size = await send_file(
                    message, path, transport, call_id, confirmed, protocol.closed
                )
                self.stats.sent[message.to] += size
                ok = True
            finally:
                transport.close()
        except (OSError, TimeoutError, EtcdError) as error:
            log.warning("snapshot was not sent: %s", error, extra={"peer": f"{message.to:x}"})
            self.stats.send_failures[message.to] += 1
        finally:
            self._calls.pop(call_id, None)
            stats.end(message.to, ok=ok, seconds=loop.time() - began)
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call
            self.handler.snapshot_sent(message.to, ok)

    def take_over_for_snapshot(self, transport: asyncio.Transport, peer: int, rest: bytes) -> None:
        """Turn an accepted connection into a stream reader and receive a snapshot from it."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2 * CHUNK_BYTES, loop=loop)
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
            call_id, size = await receive_file(reader, self.handler.receive_snapshot)
            self.stats.received[peer] += size
            ok = True
            transport.write(codec.encode_reply(call_id, 0, b""))
        except (StorageError, OSError, asyncio.IncompleteReadError) as error:
            log.warning("snapshot was not received: %s", error, extra={"peer": f"{peer:x}"})
        finally:
            stats.end(peer, ok=ok, seconds=clock() - began)
            transport.close()
            self.incoming_lost(transport)
