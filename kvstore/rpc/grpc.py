"""gRPC over ASGI: framing, metadata, deadlines, status; nothing about any service.

A service registers plain functions with :class:`GrpcRouter` and sees a :class:`Call` and parsed
messages; it never sees ASGI. The router is an ASGI application and leaves whatever is not gRPC to
its ``fallback`` (``rpc/http.py``).

The trade-off: no task watches a unary call for its client's disappearance. The router relies on the
HTTP server to cancel the application's task when a stream is reset or its connection is lost
(h2corn does in every state; a test holds it to that). That keeps the hot path at one coroutine, two
receives and three sends, and a streaming call at one task.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Literal
from urllib.parse import quote

from google.protobuf.message import DecodeError

from kvstore.errors import (
    INVALID_CLIENT_API_VERSION,
    NO_LEADER,
    NOT_SUPPORTED_FOR_LEARNER,
    STOPPED,
    Code,
    EtcdError,
)
from kvstore.histogram import Histogram, exponential
from kvstore.rpc.stalls import PIECE_BYTES, Stalls

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SendMessages = Callable[[bytes | Sequence[bytes]], Awaitable[None]]
UnaryHandler = Callable[["Call", Any], bytes | Awaitable[bytes]]
StreamHandler = Callable[["Call", AsyncIterator[Any], SendMessages], Awaitable[None]]
StreamKind = Literal["client_stream", "server_stream", "bidi_stream"]
Notable = Callable[["Call", Any, bytes | None, float], None]

MAX_RECV_BYTES: Final = 1_572_864 + 524_288
"""Default for ``max_recv_bytes``: --max-request-bytes plus 512 KiB (GEN-17)."""

MAX_CLIENT_VERSIONS: Final = 64
"""Different values of client-api-version that are counted by themselves: the label is the client's
own text, and each new one would be a new series for ever."""

UNKNOWN_VERSION: Final = b"unknown"
OTHER_VERSION: Final = b"other"
"""As what requests without a version, and with one too many, are counted."""

SPLIT_BYTES: Final = 65_536
"""A message from this size on goes out apart from its five-byte prefix, and in pieces."""

_PREFIX: Final = 5
_CONTENT_TYPES: Final = frozenset((b"application/grpc", b"application/grpc+proto"))
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}
_TIMEOUT_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_TIMEOUT_LENGTH: Final = 9
_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_START: Final[Event] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_CONTENT_TYPE],
    "trailers": True,
}
_TRAILERS_OK: Final[Event] = {
    "type": "http.response.trailers",
    "headers": [(b"grpc-status", b"0")],
}
_EMPTY_BODY: Final[Event] = {"type": "http.response.body", "body": b""}

_UNQUOTED: Final = "".join(chr(c) for c in range(0x20, 0x7F) if c != ord("%"))
"""Characters that grpc-message carries as they are; all others are percent-encoded UTF-8."""

# The framework's own statuses, worded as grpc-go does.
_OK: Final = EtcdError(Code.OK, "")
_DEADLINE: Final = EtcdError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
_NOT_READ: Final = EtcdError(Code.INTERNAL, "the client does not read this stream")
_CANCELED: Final = EtcdError(Code.CANCELLED, "context canceled")
_TRUNCATED: Final = EtcdError(Code.INTERNAL, "unexpected EOF")
_NO_MESSAGE: Final = EtcdError(
    Code.INTERNAL, "cardinality violation: received no request message for non-client-streaming RPC"
)
_MANY_MESSAGES: Final = EtcdError(
    Code.INTERNAL,
    "cardinality violation: received multiple request messages for non-client-streaming RPC",
)
_NOT_COMPRESSED: Final = EtcdError(
    Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding"
)
_NOT_POST: Final = EtcdError(Code.INTERNAL, "gRPC requests must use the POST method")
_NO_TRAILERS: Final = EtcdError(Code.INTERNAL, "gRPC requests must carry the header te: trailers")

log = logging.getLogger(__name__)


HANDLING_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REQUEST_S: Final = exponential(0.001, 2, 14)
"""Seconds; the buckets of grpc_server_handling_seconds and of etcd_server_request_duration_…"""

_TIMING_S: Final = tuple(sorted({*HANDLING_S, *REQUEST_S}))


class Timing:
    """How long something took, seconds, when it succeeded and when it failed.

    By default its buckets are those of both metrics that are made of calls' times.
    """

    __slots__ = ("failed", "ok")

    def __init__(self, bounds: tuple[float, ...] = _TIMING_S) -> None:
        self.ok = Histogram(bounds)
        self.failed = Histogram(bounds)


@dataclass(slots=True, eq=False)
class Method:
    """One RPC: how to parse its request, who serves it, and its counters since start.

    ``handled`` is indexed by :class:`Code`; ``started`` minus its sum is the number in flight.
    ``timing`` is None unless somebody wants to know. ``send_failures`` and ``receive_failures``
    count streams that broke for another reason than the client's leaving. ``on_learner`` says
    which requests (None of a stream) a learner serves, None that it serves none (GEN-15).
    """

    service: str
    name: str
    kind: Literal["unary", StreamKind]
    parse: Callable[[bytes], Any]
    serve: Callable[..., Any]
    started: int = 0
    received: int = 0
    sent: int = 0
    handled: list[int] = field(default_factory=lambda: [0] * len(Code))
    timing: Timing | None = None
    send_failures: int = 0
    receive_failures: int = 0
    on_learner: Callable[[Any], bool] | None = None


class Call:
    """What a handler may know about the call it serves.

    Attributes:
        path: ``/package.Service/Method``.
        deadline: when the client gives up, in seconds of the event loop's clock, or None.
        cancelled: the client has gone (reset the stream or lost its connection).
        burst, given: what `Stalls` counts.
    """

    __slots__ = (
        "_end",
        "_headers",
        "_scope",
        "_timer",
        "burst",
        "cancelled",
        "deadline",
        "given",
        "path",
    )

    def __init__(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        self.path: str = scope["path"]
        self.deadline: float | None = None
        self.cancelled = False
        self.burst = self.given = 0
        self._scope = scope
        self._headers = headers
        self._timer: asyncio.TimerHandle | None = None
        self._end: EtcdError | None = None

    def metadata(self, name: str) -> str | None:
        """Return the last value of ASCII metadata ``name`` (lower case), or None."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("utf-8", "replace")

    def binary_metadata(self, name: str) -> bytes | None:
        """Return the decoded value of metadata ``name``, which ends in ``-bin``, or None.

        Raises EtcdError (INTERNAL) when the value is not base64, padded or not.
        """
        value = self._headers.get(name.encode())
        if value is None:
            return None
        try:
            return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error:
            text = f'malformed binary metadata in header "{name}"'
            raise EtcdError(Code.INTERNAL, text) from None

    @property
    def hasleader(self) -> bool:
        """The client wants an error rather than a member without a leader (GEN-12, GEN-13)."""
        return self._headers.get(b"hasleader") == b"true"

    @property
    def token(self) -> str | None:
        """Metadata ``token``: the auth token as gRPC clients send it."""
        return self.metadata("token")

    @property
    def authorization(self) -> str | None:
        """Metadata ``authorization``: the auth token as REST clients send it, as it came."""
        return self.metadata("authorization")

    @property
    def peer(self) -> str:
        """The client's address as ``host:port``; empty when the server does not know it."""
        client = self._scope.get("client")
        return f"{client[0]}:{client[1]}" if client else ""


class _Stream:
    """The two directions of one streaming call: an iterator of requests, and ``send``.

    Nothing is read ahead: at most one incomplete message and one body event are held here, the
    rest waits in the HTTP/2 window. ``send`` returns when the server has taken the bytes, which it
    does not while a slow client has left enough of them unread.
    """

    __slots__ = ("_buffer", "_call", "_ended", "_method", "_receive", "_router", "_send", "started")

    def __init__(
        self, router: GrpcRouter, method: Method, call: Call, receive: Receive, send: Send
    ) -> None:
        self.started = False
        self._router = router
        self._method = method
        self._call = call
        self._receive = receive
        self._send = send
        self._buffer = bytearray()
        self._ended = False

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        """Return the next request; end at the client's half-close, the call staying open (WCH-46).

        Raises EtcdError on bad framing, CancelledError when the client has gone.
        """
        try:
            return await self._next()
        except EtcdError:
            self._method.receive_failures += 1
            raise

    async def _next(self) -> Any:
        while True:
            payload = self._cut()
            if payload is not None:
                break
            if self._ended:
                if self._buffer:
                    raise _TRUNCATED
                raise StopAsyncIteration
            event = await self._receive()
            if event["type"] == "http.disconnect":
                self._call.cancelled = True
                raise asyncio.CancelledError
            body = event.get("body", b"")
            self._router.received_bytes += len(body)
            self._buffer += body
            self._ended = not event.get("more_body", False)
        try:
            message = self._method.parse(payload)
        except DecodeError as error:
            text = f"grpc: failed to unmarshal the received message: {error}"
            raise EtcdError(Code.INTERNAL, text) from None
        self._method.received += 1
        return message

    def _cut(self) -> bytes | None:
        """Take one message off the buffer, or None when it is not complete."""
        buffer = self._buffer
        if len(buffer) < _PREFIX:
            return None
        end = _PREFIX + int.from_bytes(buffer[1:_PREFIX], "big")
        self._router._check_size(end - _PREFIX)
        if len(buffer) < end:
            return None
        payload = bytes(buffer[_PREFIX:end])
        flag = buffer[0]
        del buffer[:end]
        return self._router._decode(flag, payload, self._call._headers) if flag else payload

    async def send(self, messages: bytes | Sequence[bytes]) -> None:
        """Send one serialized message, or several in one body event. One sender at a time.

        Raises CancelledError when the client has gone.
        """
        if isinstance(messages, bytes):
            messages = (messages,)
        if len(messages) == 1 and len(messages[0]) >= SPLIT_BYTES:
            pieces: Sequence[bytes] = (_prefix(messages[0]), *_pieces(messages[0]))
        else:
            pieces = _pieces(b"".join([part for m in messages for part in (_prefix(m), m)]))
        router, call = self._router, self._call
        stalls = router.stalls
        try:
            if not self.started:
                self.started = True
                await self._send(_START)
            for piece in pieces:
                router.sent_bytes += len(piece)
                call.burst += len(piece)
                stalls.sending[call] = stalls.look
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except OSError:
            self._method.send_failures += 1
            call.cancelled = True
            raise asyncio.CancelledError from None
        finally:
            stalls.sending.pop(call, None)
        self._method.sent += len(messages)


async def single_request(requests: AsyncIterator[Any]) -> Any:
    """Return the request of a server-streaming call. Raises EtcdError (INTERNAL) without one."""
    async for request in requests:
        return request
    raise _NO_MESSAGE


class GrpcRouter:
    """An ASGI application that serves the registered RPCs and leaves the rest to ``fallback``.

    Attributes:
        methods: path → :class:`Method`, with the counters of each.
        on_failure: is told what a handler raised that is no `EtcdError`.
        received_bytes, sent_bytes: body bytes since start, framing included.
        learner: this member has no vote and serves only what ``Method.on_learner`` allows.
        unary_clients, stream_clients: calls by the client's own API version, at most
            MAX_CLIENT_VERSIONS different ones.
        has_leader: whether this member knows one; calls with ``hasleader: true`` are refused at
            once without (GEN-12, GEN-13).
        notable_s, on_notable: ``on_notable(call, request, response or None, seconds)`` is called
            after each unary call that took longer than ``notable_s``; request is None if it could
            not be parsed.
    """

    def __init__(self, fallback: AsgiApp, *, max_recv_bytes: int = MAX_RECV_BYTES) -> None:
        self.methods: dict[str, Method] = {}
        self.received_bytes = 0
        self.sent_bytes = 0
        self.learner = False
        self.unary_clients: dict[bytes, int] = {}
        self.stream_clients: dict[bytes, int] = {}
        self.has_leader: Callable[[], bool] = lambda: True
        self.notable_s = float("inf")
        self.on_notable: Notable = lambda call, request, response, seconds: None
        self._fallback = fallback
        self._max_recv_bytes = max_recv_bytes
        self.on_failure: Callable[[Exception], None] = lambda error: None
        self._streams: dict[asyncio.Task[Any], Call] = {}
        self._waiting: dict[asyncio.Task[Any], Call] = {}
        self.stalls = Stalls(self._streams, self._give_up)
        self._stopped = False

    def unary(self, path: str, parse: Callable[[bytes], Any], handler: UnaryHandler) -> None:
        """Serve ``path`` (``/package.Service/Method``) with ``handler(call, message)``.

        It returns the serialized response, or an awaitable of it that belongs to this call alone:
        it is cancelled when the client goes or its deadline passes.
        """
        self._register(path, "unary", parse, handler)

    def waiting_unary(
        self,
        path: str,
        parse: Callable[[bytes], Any],
        handler: Callable[[Call, Any], Awaitable[bytes]],
    ) -> None:
        """Like `unary`, for calls that wait for other clients: `stop` ends them as it does streams.

        The handler is cancelled then too.
        """

        async def wait(call: Call, message: Any) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            self._waiting[task] = call
            try:
                return await handler(call, message)
            finally:
                del self._waiting[task]

        self._register(path, "unary", parse, wait)

    def stream(
        self,
        path: str,
        parse: Callable[[bytes], Any],
        handler: StreamHandler,
        *,
        kind: StreamKind = "bidi_stream",
    ) -> None:
        """Serve ``path`` with ``await handler(call, requests, send)``; its return ends the call.

        The coroutine is cancelled when the client goes, its deadline passes or the server stops.
        """
        self._register(path, kind, parse, handler)

    def _register(self, path: str, kind: Any, parse: Any, handler: Any) -> None:
        _, service, name = path.split("/")
        if path in self.methods:
            raise ValueError(f"{path} is registered twice")
        self.methods[path] = Method(service, name, kind, parse, handler)

    def stop(self) -> None:
        """Refuse new calls; end streams and calls that wait with "server stopped"; others go on."""
        self._stopped = True
        for task, call in (*self._streams.items(), *self._waiting.items()):
            _end(call, task, STOPPED)

    def leaderless(self) -> None:
        """The cluster has had no leader for too long: end streams with ``hasleader`` (GEN-13)."""
        for task, call in self._streams.items():
            if call.hasleader:
                _end(call, task, NO_LEADER)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Route one request; not a coroutine itself, as each layer of those costs throughput."""
        if scope["type"] != "http" or scope["http_version"] != "2":
            return self._fallback(scope, receive, send)
        headers = dict(scope["headers"])
        method = self.methods.get(scope["path"])
        content_type = headers.get(b"content-type", b"")
        if content_type not in _CONTENT_TYPES:
            content_type = content_type.partition(b";")[0].strip().lower()
            if content_type not in _CONTENT_TYPES:
                if method is None and not content_type.startswith(b"application/grpc"):
                    return self._fallback(scope, receive, send)
                return _send_status(send, _bad_content_type(content_type), 415)
        if scope["method"] != "POST":
            return _send_status(send, _NOT_POST, 405)
        if method is None:
            return _send_status(send, self._unknown(scope["path"]))
        method.started += 1
        call = Call(scope, headers)
        if method.kind == "unary":
            return self._serve_unary(method, call, receive, send)
        return self._serve_stream(method, call, receive, send)

    async def _serve_unary(self, method: Method, call: Call, receive: Receive, send: Send) -> None:
        started = perf_counter()
        message = None
        try:
            self._admit(call, self.unary_clients)
            event = await receive()
            body = event.get("body", b"")
            while event.get("more_body"):
                event = await receive()
                if "body" in event:
                    body = self._grow(body, event["body"])
            if event["type"] == "http.disconnect":
                call.cancelled = True
                raise asyncio.CancelledError
            message = self._message(method, body, call._headers)
            if self.learner:
                require_voter(method, message)
            result = method.serve(call, message)
            if type(result) is not bytes:
                result = await result
        except (Exception, asyncio.CancelledError) as error:
            took = perf_counter() - started
            if method.timing is not None:
                method.timing.failed.observe(took)
            if took > self.notable_s:
                self.on_notable(call, message, None, took)
            await self._finish(method, call, send, error)
            return
        finally:
            if call._timer is not None:
                call._timer.cancel()
        took = perf_counter() - started
        if method.timing is not None:
            method.timing.ok.observe(took)
        if took > self.notable_s:
            self.on_notable(call, message, result, took)
        method.handled[0] += 1
        method.sent += 1
        stalls = self.stalls
        stalls.sending[call] = stalls.look
        try:
            await send(_START)
            if len(result) < SPLIT_BYTES:
                body = _prefix(result) + result
            else:
                body = _prefix(result)
                for piece in _pieces(result):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    stalls.sending[call] = stalls.look
                    body = piece
            await send({"type": "http.response.body", "body": body})
            self.sent_bytes += len(result) + _PREFIX
            await send(_TRAILERS_OK)
        except OSError:
            call.cancelled = True  # the client left between the work and its answer
        finally:
            del stalls.sending[call]

    async def _serve_stream(self, method: Method, call: Call, receive: Receive, send: Send) -> None:
        stream = _Stream(self, method, call, receive, send)
        task = asyncio.current_task()
        assert task is not None
        self._streams[task] = call
        self.stalls.watch()
        outcome: BaseException = _OK
        started = perf_counter()
        try:
            self._admit(call, self.stream_clients)
            if self.learner:
                require_voter(method, None)
            await method.serve(call, stream, stream.send)
        except (Exception, asyncio.CancelledError) as error:
            outcome = error
        finally:
            del self._streams[task]
            if call._timer is not None:
                call._timer.cancel()
        if method.timing is not None:
            timing = method.timing.ok if outcome is _OK else method.timing.failed
            timing.observe(perf_counter() - started)
        await self._finish(method, call, send, outcome, started=stream.started)

    def _admit(self, call: Call, clients: dict[bytes, int]) -> None:
        """Check what the headers alone decide, count the client's version, arm the deadline."""
        headers = call._headers
        if self._stopped:
            raise STOPPED
        if "http.response.trailers" not in call._scope["extensions"]:
            raise _NO_TRAILERS
        encoding = headers.get(b"grpc-encoding") or b"identity"
        if encoding != b"identity" and encoding not in _WINDOW_BITS:
            name = encoding.decode("utf-8", "replace")
            text = f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
            raise EtcdError(Code.UNIMPLEMENTED, text)
        version = headers.get(b"client-api-version", UNKNOWN_VERSION)
        if version in clients:
            clients[version] += 1
        else:
            _count_new_version(clients, version)
        if headers.get(b"hasleader") == b"true" and not self.has_leader():
            raise NO_LEADER
        if b"grpc-timeout" in headers:
            loop = asyncio.get_running_loop()
            call.deadline = loop.time() + _parse_timeout(headers[b"grpc-timeout"])
            task = asyncio.current_task()
            assert task is not None
            call._timer = loop.call_at(call.deadline, _end, call, task, _DEADLINE)

    def _grow(self, body: bytes | bytearray, chunk: bytes) -> bytearray:
        """Join a body that came in several events; refuse one too large before it is all here."""
        if type(body) is not bytearray:
            body = bytearray(body)
        body += chunk
        if len(body) >= _PREFIX:
            size = int.from_bytes(body[1:_PREFIX], "big")
            self._check_size(size)
            if len(body) > _PREFIX + size:
                raise _MANY_MESSAGES
        return body

    def _message(self, method: Method, body: bytes, headers: dict[bytes, bytes]) -> Any:
        """Parse the body of a unary call: exactly one message."""
        self.received_bytes += len(body)
        payload = body[_PREFIX:]
        size = int.from_bytes(body[1:_PREFIX], "big")
        if size != len(payload) or size > self._max_recv_bytes or len(body) < _PREFIX:
            if not body:
                raise _NO_MESSAGE
            if len(body) < _PREFIX:
                raise _TRUNCATED
            self._check_size(size)
            raise _TRUNCATED if len(payload) < size else _MANY_MESSAGES
        if body[0]:
            payload = self._decode(body[0], payload, headers)
        try:
            message = method.parse(payload)
        except DecodeError as error:
            text = f"grpc: error unmarshalling request: {error}"
            raise EtcdError(Code.INTERNAL, text) from None
        method.received += 1
        return message

    def _check_size(self, size: int) -> None:
        if size > self._max_recv_bytes:
            text = f"grpc: received message larger than max ({size} vs. {self._max_recv_bytes})"
            raise EtcdError(Code.RESOURCE_EXHAUSTED, text)

    def _decode(self, flag: int, payload: bytes, headers: dict[bytes, bytes]) -> bytes:
        """Return a flagged message decompressed, never producing more than the size limit."""
        if flag != 1:
            raise EtcdError(Code.INTERNAL, f"grpc: received unexpected payload format {flag}")
        bits = _WINDOW_BITS.get(headers.get(b"grpc-encoding", b""))
        if bits is None:
            raise _NOT_COMPRESSED
        inflate = zlib.decompressobj(bits)
        try:
            message = inflate.decompress(payload, self._max_recv_bytes + 1)
        except zlib.error as error:
            text = f"grpc: failed to decompress the received message: {error}"
            raise EtcdError(Code.INTERNAL, text) from None
        if len(message) > self._max_recv_bytes:
            text = (
                "grpc: received message after decompression larger than max "
                f"({len(message)} vs. {self._max_recv_bytes})"
            )
            raise EtcdError(Code.RESOURCE_EXHAUSTED, text)
        if not inflate.eof or inflate.unused_data:
            text = "grpc: failed to decompress the received message: unexpected EOF"
            raise EtcdError(Code.INTERNAL, text)
        return message

    async def _finish(
        self,
        method: Method,
        call: Call,
        send: Send,
        outcome: BaseException,
        *,
        started: bool = False,
    ) -> None:
        """Answer with the status that ``outcome`` means, unless it means that nobody listens."""
        status = _status(call, outcome)
        method.handled[status.code] += 1
        if isinstance(outcome, Exception) and not isinstance(outcome, EtcdError):
            self.on_failure(outcome)
        if call.cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise outcome
            return  # the client left and nothing cancelled this task: nothing went wrong
        if status is _NOT_READ:
            return  # an answer without an end resets the stream: an end would wait for its turn
        try:
            if started:
                await send(_EMPTY_BODY)
                await send({"type": "http.response.trailers", "headers": _status_headers(status)})
            else:
                await _send_status(send, status)
        except OSError:
            call.cancelled = True

    def _give_up(self, call: object) -> None:
        """End a stream that its client does not read (`Stalls`)."""
        for task, running in self._streams.items():
            if running is call:
                log.warning("%s from %s is not read: reset", running.path, running.peer)
                _end(running, task, _NOT_READ)

    def _unknown(self, path: str) -> EtcdError:
        service, slash, name = path.removeprefix("/").rpartition("/")
        if not slash:
            text = f'malformed method name: "{path}"'
        elif any(method.service == service for method in self.methods.values()):
            text = f"unknown method {name} for service {service}"
        else:
            text = f"unknown service {service}"
        return EtcdError(Code.UNIMPLEMENTED, text)


def require_voter(method: Method, message: Any) -> None:
    """Refuse a request (None: a stream) that a learner does not serve (GEN-15)."""
    if method.on_learner is None or not method.on_learner(message):
        raise NOT_SUPPORTED_FOR_LEARNER


def _count_new_version(clients: dict[bytes, int], version: bytes) -> None:
    """Raise INVALID_CLIENT_API_VERSION for what is not UTF-8 (GEN-14)."""
    try:
        version.decode()
    except UnicodeDecodeError:
        raise INVALID_CLIENT_API_VERSION from None
    if len(clients) >= MAX_CLIENT_VERSIONS:
        version = OTHER_VERSION
    clients[version] = clients.get(version, 0) + 1


def _end(call: Call, task: asyncio.Task[Any], status: EtcdError) -> None:
    """End a call from outside its handler; the first reason given is the one reported."""
    if call._end is None:
        call._end = status
        task.cancel()


def _status(call: Call, outcome: BaseException) -> EtcdError:
    """Name the gRPC status of what a handler raised. Marks the call when its client has gone."""
    if isinstance(outcome, EtcdError):
        # The catalogue's errors are shared: a traceback left on one would grow with each raise and
        # keep every frame, and what hangs on it, alive.
        outcome.__traceback__ = outcome.__context__ = None
        return outcome
    if isinstance(outcome, asyncio.CancelledError):
        task = asyncio.current_task()
        assert task is not None
        if call._end is not None:
            task.uncancel()
            return call._end
        # Not cancelled from outside: the handler's own awaitable was, and the client still waits.
        call.cancelled = call.cancelled or task.cancelling() > 0
        return _CANCELED
    log.error("%s from %s failed", call.path, call.peer, exc_info=outcome)
    return EtcdError(Code.INTERNAL, f"internal error: {type(outcome).__name__}")


def _prefix(message: bytes) -> bytes:
    """Flag 0 (responses are never compressed) and the length, 4 bytes big-endian."""
    return len(message).to_bytes(_PREFIX, "big")


def _pieces(body: bytes) -> Sequence[bytes]:
    """Cut what is long, so that it shows while it is sent whether the client takes it."""
    if len(body) <= PIECE_BYTES:
        return (body,)
    return [body[first : first + PIECE_BYTES] for first in range(0, len(body), PIECE_BYTES)]


def _parse_timeout(value: bytes) -> float:
    """Return the seconds in a ``grpc-timeout``: up to 8 digits and a unit of H M S m u n."""
    text = value.decode("utf-8", "replace")
    if len(text) < 2:
        reason = "timeout string is too short"
    elif len(text) > _MAX_TIMEOUT_LENGTH:
        reason = "timeout string is too long"
    elif text[-1] not in _TIMEOUT_UNITS:
        reason = "timeout unit is not recognized"
    elif not (text.isascii() and text[:-1].isdigit()):
        reason = "timeout is not a number"
    else:
        return int(text[:-1]) * _TIMEOUT_UNITS[text[-1]]
    raise EtcdError(Code.INTERNAL, f'malformed grpc-timeout: transport: {reason}: "{text}"')


def _bad_content_type(content_type: bytes) -> EtcdError:
    text = content_type.decode("utf-8", "replace")
    return EtcdError(Code.INVALID_ARGUMENT, f'invalid gRPC request content-type "{text}"')


def _status_headers(status: EtcdError) -> list[tuple[bytes, bytes]]:
    headers = [(b"grpc-status", str(int(status.code)).encode())]
    if status.message:
        text = quote(status.message, safe=_UNQUOTED)
        if text != text.strip():  # a header value may not begin or end with a space
            text = text.replace(" ", "%20")
        headers.append((b"grpc-message", text.encode()))
    return headers


async def _send_status(send: Send, status: EtcdError, http_status: int = 200) -> None:
    """Answer without a message: the status travels in the only header block."""
    headers = [_CONTENT_TYPE, *_status_headers(status)]
    await send({"type": "http.response.start", "status": http_status, "headers": headers})
    await send(_EMPTY_BODY)
