"""The two directions of a streaming call: requests out of a JSON body, lines of results (HTP-11).

Each message of the answer is one line, sent as it comes. The requests of a streaming call are taken
from the body as they come; over HTTP/1.1 h2corn passes a chunked body on in pieces of 16 KiB or at
its end (etcd reads it no better), so a client that wants to send a request after it has seen a
result uses HTTP/2 or a websocket.

etcd lets a streaming call hang whose body is no JSON. Here it fails, before the first result or
after it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from google.protobuf.message import Message

from kvstore.errors import Code, EtcdError
from kvstore.gateway.calls import frame
from kvstore.gateway.json_in import BadJson, decode
from kvstore.gateway.json_out import encode
from kvstore.gateway.json_stream import Splitter, TooLong
from kvstore.gateway.routes import Route
from kvstore.gateway.status import HTTP_STATUS, error_headers, error_line
from kvstore.rpc.grpc import Event, Receive, Send

THREAD_BYTES: Final = 131_072
"""Responses from this size on are written as JSON by a thread, so that the event loop is not held
up (a range of 1,000 keys of 100 bytes, 140 KB, takes 3.5 ms)."""

REQUESTS_IN_A_ROW: Final = 64
"""Requests of one piece of a body, after which the event loop has its turn."""

OK_HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"grpc-metadata-content-type", b"application/grpc"),
]


def serialized(route: Route, body: bytes) -> bytes:
    """Return the request that a JSON body says. Raises EtcdError (INVALID_ARGUMENT)."""
    try:
        return decode(route.request, body).SerializeToString()
    except BadJson as error:
        raise EtcdError(Code.INVALID_ARGUMENT, str(error)) from None


async def response_json(response: type[Message], data: bytes) -> str:
    """Return a serialized response as JSON."""
    message = response.FromString(data)
    if len(data) < THREAD_BYTES:
        return encode(message)
    return await asyncio.get_running_loop().run_in_executor(None, encode, message)


def too_long(limit: int) -> EtcdError:
    """The error for a request longer than ``limit`` bytes of JSON."""
    return EtcdError(
        Code.RESOURCE_EXHAUSTED, f"received message larger than max (more than {limit} bytes)"
    )


class Requests:
    """The requests of a client-streaming call, as the ASGI events of a gRPC body."""

    def __init__(self, route: Route, receive: Receive, limit: int) -> None:
        self._route = route
        self._receive = receive
        self._limit = limit
        self._splitter = Splitter(limit)
        self._ended = False
        self._in_a_row = 0

    async def receive(self) -> Event:
        """Return the next event. Raises EtcdError for what is no request, after those before it."""
        while (request := self._next()) is None:
            if self._ended:
                return {"type": "http.request", "body": b"", "more_body": False}
            event = await self._receive()
            if event["type"] == "http.disconnect":
                return event
            self._in_a_row = 0
            self._splitter.feed(event.get("body", b""))
            self._ended = not event.get("more_body", False)
        self._in_a_row += 1
        if self._in_a_row % REQUESTS_IN_A_ROW == 0:
            await asyncio.sleep(0)
        message = serialized(self._route, request)
        return {"type": "http.request", "body": frame(message), "more_body": True}

    def _next(self) -> bytes | None:
        try:
            request = self._splitter.next()
            if request is None and self._ended:
                self._splitter.finish()
        except BadJson as error:
            text = f"failed to decode request: {error}"
            raise EtcdError(Code.INVALID_ARGUMENT, text) from None
        except TooLong:
            raise too_long(self._limit) from None
        return request


class SingleRequest:
    """The one request of a call that only its answer streams."""

    def __init__(self, message: bytes) -> None:
        self._body = frame(message)

    async def receive(self) -> Event:
        """Return the request, and then its end."""
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": bool(body)}


class Lines:
    """The answer, one line for each message."""

    def __init__(self, response: type[Message], send: Send) -> None:
        self._response = response
        self._send = send
        self._started = False

    async def write(self, messages: list[bytes]) -> None:
        """Send serialized messages. Raises OSError when the client has gone."""
        lines = []
        written = 0
        for message in messages:
            lines.append(f'{{"result":{await response_json(self._response, message)}}}\n')
            written += len(message)
            if written >= THREAD_BYTES:
                written = 0
                await asyncio.sleep(0)  # many small messages take as long as a big one
        await self._start(200, OK_HEADERS)
        await self._body("".join(lines), more=True)

    async def fail(self, error: EtcdError) -> None:
        """End the answer with an error; before the first line its status is the HTTP status."""
        await self._start(HTTP_STATUS[error.code], error_headers(error))
        await self._body(error_line(error), more=False)

    async def end(self) -> None:
        """End an answer that went well, be it empty."""
        await self._start(200, OK_HEADERS[:1])
        await self._body("", more=False)

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, text: str, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": more})
