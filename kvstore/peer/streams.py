"""The two ends of a connection between members, as asyncio protocols.

`Incoming` is what another member (or a browser) dialed, `Outgoing` what this one did. They know
bytes and handshakes; which member may connect, and what its messages mean, is the transport's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from kvstore.errors import Code, EtcdError
from kvstore.peer import codec, http
from kvstore.peer.handshake import (
    NOT_OUR_PROTOCOL,
    Purpose,
    Status,
    encode_answer,
    take_answer,
    take_handshake,
)
from kvstore.sockets import SocketOptions, tune
from kvstore.storage.errors import CodecError
from raft import MessageKind

if TYPE_CHECKING:
    from kvstore.peer.transport import PeerTransport

log = logging.getLogger("peer")

HANDSHAKE_S = 10.0
"""A connection that has not said by then what it is for is closed."""


class Removed(ConnectionRefusedError):
    """The other member says that this one was removed from the cluster."""


def _tune(transport: asyncio.Transport, options: SocketOptions) -> None:
    """Let the kernel end a connection whose other end has vanished without a word."""
    tune(transport.get_extra_info("socket"), options)


class Incoming(asyncio.Protocol):
    """A connection dialed from elsewhere: a handshake, then frames; or one HTTP request."""

    def __init__(self, owner: PeerTransport) -> None:
        self._owner = owner
        self._reader = codec.FrameReader()
        self._head = b""
        self._peer = 0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.incoming[self._transport] = 0
        _tune(self._transport, self._owner.options)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._begun()
        if self._transport is not None:
            self._owner.incoming_lost(self._transport)

    def _begun(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if not self._peer:
            if self._timer is None:
                return  # refused, or an HTTP request that is being answered
            self._head += data
            data = self._begin()
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

    def _begin(self) -> bytes:
        """Find out what the connection is for; return what came after the handshake."""
        assert self._transport is not None
        head = self._head
        try:
            taken = take_handshake(head)
        except CodecError as error:
            if not http.may_begin(head):
                self._refuse(Status.REFUSED, str(error))
            elif (request := http.take_request(head)) is not None:
                self._begun()
                self._owner.keep(asyncio.ensure_future(self._serve_http(request)))
            return b""
        if taken is None:
            return b""
        shake, end = taken
        status, problem = self._owner.check_handshake(shake)
        if status is not Status.ACCEPTED:
            self._refuse(status, problem, shake.from_id)
            return b""
        self._begun()
        self._head = b""
        self._owner.accepted(self._transport, shake)
        self._transport.write(encode_answer(Status.ACCEPTED))
        if shake.purpose == Purpose.SNAPSHOT:
            self._owner.take_over_for_snapshot(self._transport, shake.from_id, head[end:])
            return b""
        self._peer = shake.from_id
        return head[end:]

    def _refuse(self, status: Status, problem: str, peer: int = 0) -> None:
        assert self._transport is not None
        self._begun()
        if self._owner.is_news(peer, problem):
            address = self._transport.get_extra_info("peername")
            log.warning("refused a peer connection: %s", problem, extra={"remote": str(address)})
        self._transport.write(encode_answer(status, problem))
        self._transport.close()

    async def _serve_http(self, request: http.Request | bytes) -> None:
        try:
            if isinstance(request, bytes):
                answer = request
            else:
                answer = await http.respond(request, self._owner.handler.pages())
        except Exception:
            log.exception("an HTTP request to the peer port failed")
            answer = http.failed()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)
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


class Outgoing(asyncio.Protocol):
    """A connection this member dialed: frames go out, replies to calls come back.

    Attributes:
        accepted: done when the other end has taken the handshake; else `Removed` or another
            ConnectionError.
        closed: done when the connection has ended.
        received: bytes that came back.
    """

    def __init__(self, owner: PeerTransport, peer: int) -> None:
        self._owner = owner
        self._peer = peer
        self._head: bytes | None = b""
        self._reader = codec.FrameReader()
        self._transport: asyncio.Transport | None = None
        self.received = 0
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._head is not None:
            self._head += data
            taken = take_answer(self._head)
            if taken is None:
                return
            status, text, end = taken
            data, self._head = self._head[end:], None
            self._take_status(status, text)
        try:
            for frame_type, body in self._reader.feed(data):
                if frame_type == codec.FrameType.REPLY:
                    self._owner.take_reply(*codec.decode_reply(body))
        except CodecError as error:
            log.warning("bad reply from peer: %s", error, extra={"peer": f"{self._peer:x}"})
            if self._transport is not None:
                self._transport.abort()  # the framing is lost

    def _take_status(self, status: int, text: str) -> None:
        if self.accepted.done():
            return
        if status == Status.ACCEPTED:
            self.accepted.set_result(None)
        elif status == Status.REMOVED:
            self.accepted.set_exception(Removed(text))
        else:
            self.accepted.set_exception(ConnectionRefusedError(text or NOT_OUR_PROTOCOL))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _tune(self._transport, self._owner.options)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(exc or ConnectionResetError("closed in the handshake"))
            self.accepted.exception()
        if not self.closed.done():
            self.closed.set_result(None)
