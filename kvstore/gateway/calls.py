"""Calls of the registered RPCs from inside the process: gRPC without a socket.

The caller hands the router an ASGI request as an HTTP/2 client would have made it, and reads the
events that come back. So limits, deadlines, counters and whatever else the router does for a gRPC
client hold for the gateway too, and the router needs to know nothing of it; a call costs 10 µs
more than its handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from kvstore.errors import Code, EtcdError
from kvstore.rpc.grpc import AsgiApp, Event, Receive, Scope

Headers = list[tuple[bytes, bytes]]
Deliver = Callable[[list[bytes]], Awaitable[None]]

PREFIX_BYTES: Final = 5
"""Before each message: a flag and the length, 4 bytes big-endian."""

_GRPC_HEADERS: Final = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
_OK: Final = EtcdError(Code.OK, "")
_OK_HEADERS: Final = [(b"grpc-status", b"0")]
_EXTENSIONS: Final[Mapping[str, Any]] = {"http.response.trailers": {}}


class ClientGone(Exception):
    """The call ended without an answer, because its client left."""


def frame(message: bytes) -> bytes:
    """One message as gRPC sends it, not compressed."""
    return len(message).to_bytes(PREFIX_BYTES, "big") + message


async def call_unary(
    router: AsgiApp, scope: Scope, rpc: str, metadata: Headers, message: bytes
) -> bytes:
    """Return the serialized response of ``rpc``.

    Args:
        scope: of the HTTP request that this is done for.
        metadata: further headers of the call.

    Raises:
        EtcdError: the call failed. ClientGone: nobody waits for it any more.
    """
    answer = _Answer()
    request = {"type": "http.request", "body": frame(message)}

    async def receive() -> Event:
        return request

    await router(_grpc_scope(scope, rpc, metadata), receive, answer.take)
    answer.check()
    return b"".join(answer.parts)[PREFIX_BYTES:]


async def call_stream(
    router: AsgiApp, scope: Scope, rpc: str, metadata: Headers, receive: Receive, deliver: Deliver
) -> None:
    """Run a streaming ``rpc`` to its end.

    Args:
        receive: the call's ASGI events, each body a framed message. It may raise EtcdError, which
            then ends the call as its status.
        deliver: takes serialized responses; while it waits, so does the call.

    Raises:
        EtcdError: the call failed. ClientGone: nobody waits for it any more.
    """
    answer = _Answer(deliver)
    await router(_grpc_scope(scope, rpc, metadata), receive, answer.take)
    answer.check()


def _grpc_scope(scope: Scope, rpc: str, metadata: Headers) -> Scope:
    return {
        "type": "http",
        "http_version": "2",
        "method": "POST",
        "path": rpc,
        "headers": _GRPC_HEADERS + metadata,
        "client": scope.get("client"),
        "extensions": _EXTENSIONS,
    }


class _Answer:
    """The client's end of the answer: collects it, or passes its messages on."""

    __slots__ = ("_deliver", "_status", "parts")

    def __init__(self, deliver: Deliver | None = None) -> None:
        self.parts: list[bytes] = []
        self._deliver = deliver
        self._status: EtcdError | None = None

    async def take(self, event: Event) -> None:
        kind = event["type"]
        if kind == "http.response.body":
            body = event.get("body", b"")
            if not body:
                return
            self.parts.append(body)
            if self._deliver is not None:
                messages = self._cut()
                if messages:
                    await self._deliver(messages)
        elif kind == "http.response.trailers" or not event.get("trailers"):
            headers = event["headers"]
            self._status = _OK if headers == _OK_HEADERS else _status(headers)

    def _cut(self) -> list[bytes]:
        """Take the whole messages off what has come."""
        data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        messages, start = [], 0
        while (end := start + PREFIX_BYTES) <= len(data):
            end += int.from_bytes(data[start + 1 : end], "big")
            if end > len(data):
                break
            messages.append(data[start + PREFIX_BYTES : end])
            start = end
        self.parts = [data[start:]] if start < len(data) else []
        return messages

    def check(self) -> None:
        """Raise what the call ended with, if it did not end well."""
        status = self._status
        if status is None:
            raise ClientGone
        if status.code is not Code.OK:
            raise status


def _status(headers: Any) -> EtcdError:
    found = dict(headers)
    code = Code(int(found.get(b"grpc-status", Code.UNKNOWN)))
    return EtcdError(code, unquote_to_bytes(found.get(b"grpc-message", b"")).decode())
