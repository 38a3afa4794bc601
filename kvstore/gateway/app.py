"""The JSON gateway: REST requests to calls of the registered RPCs, and back (HTP-09 to HTP-13).

An ASGI application for the paths under ``/v3/``, over HTTP/1.1 and HTTP/2. What a request means is
in ``json_in``, what an answer looks like in ``json_out`` and ``status``, and how a stream goes in
``streams``; here they are joined by a call through ``calls``, so nothing of a service is known.
"""

from __future__ import annotations

import asyncio
from typing import Final

from kvstore.errors import Code, EtcdError
from kvstore.gateway.calls import ClientGone, call_stream, call_unary
from kvstore.gateway.metadata import call_metadata
from kvstore.gateway.routes import Route, find_route
from kvstore.gateway.status import (
    CLIENT_CLOSED_REQUEST,
    HTTP_STATUS,
    error_body,
    error_headers,
)
from kvstore.gateway.streams import (
    OK_HEADERS,
    Lines,
    Requests,
    SingleRequest,
    response_json,
    serialized,
    too_long,
)
from kvstore.gateway.vanished import Vanished
from kvstore.gateway.websocket import serve_websocket
from kvstore.rpc.grpc import MAX_RECV_BYTES, AsgiApp, Event, Receive, Scope, Send

JSON_PER_BYTE: Final = 2
"""Bytes of JSON allowed for each byte that a gRPC message may have; base64 takes 4/3. Reading JSON
cannot be interrupted: 4 MiB of the worst kind hold the event loop for 80 ms."""

_NOT_FOUND: Final = EtcdError(Code.NOT_FOUND, "Not Found")
_NOT_POST: Final = EtcdError(Code.UNIMPLEMENTED, "Method Not Allowed")


class Gateway:
    """The ASGI application.

    Args:
        router: the ASGI application of the RPCs (``GrpcRouter``).
        max_recv_bytes: the longest message that it takes.
    """

    def __init__(self, router: AsgiApp, *, max_recv_bytes: int = MAX_RECV_BYTES) -> None:
        self._router = router
        self._max_body_bytes = JSON_PER_BYTE * max_recv_bytes
        self._vanished = Vanished()

    def close(self) -> None:
        """Give up the descriptor that notices clients leaving."""
        self._vanished.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one websocket. Raises nothing but a cancellation."""
        if scope["type"] == "websocket":
            await serve_websocket(self, scope, receive, send)
            return
        try:
            route = find_route(scope["path"])
            if route is None:
                raise _NOT_FOUND
            if scope["method"] != "POST":
                raise _NOT_POST
            if route.waits and scope["http_version"] == "1.1":
                await self._serve_watched(route, scope, receive, send)
            else:
                await self._serve(route, scope, receive, send)
        except EtcdError as error:
            await _respond(send, HTTP_STATUS[error.code], error_headers(error), error_body(error))
        except (ClientGone, OSError):
            pass  # there is nobody to tell

    async def _serve_watched(
        self, route: Route, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """End the call when its client leaves, where the HTTP server would not."""
        task = asyncio.current_task()
        assert task is not None
        gone = started = False

        def leave() -> None:
            nonlocal gone
            gone = task.cancel()

        async def send_noting(event: Event) -> None:
            nonlocal started
            started = True
            await send(event)

        try:
            with self._vanished.call_when_gone(scope, leave):
                await self._serve(route, scope, receive, send_noting)
        except asyncio.CancelledError:
            if not gone or task.uncancel():
                raise
            # The HTTP server reports an answer that is not ended as this application's failure.
            if not started:
                await _respond(send, CLIENT_CLOSED_REQUEST, [], "")
            else:
                await send({"type": "http.response.body", "body": b""})

    async def _serve(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        metadata = call_metadata(scope["headers"])
        if route.client_streaming:
            requests = Requests(route, receive, self._max_body_bytes).receive
        else:
            message = serialized(route, await self._read_body(receive))
            if not route.server_streaming:
                answer = await call_unary(self._router, scope, route.rpc, metadata, message)
                text = await response_json(route.response, answer)
                await _respond(send, 200, OK_HEADERS, text)
                return
            requests = SingleRequest(message).receive
        lines = Lines(route.response, send)
        try:
            await call_stream(self._router, scope, route.rpc, metadata, requests, lines.write)
        except EtcdError as error:
            await lines.fail(error)
        else:
            await lines.end()

    async def _read_body(self, receive: Receive) -> bytes:
        """Return the whole body. Raises EtcdError when it is too long, ClientGone."""
        event = await receive()
        body: bytes = event.get("body", b"")
        if event.get("more_body"):
            parts = bytearray(body)
            while event.get("more_body") and len(parts) <= self._max_body_bytes:
                event = await receive()
                parts += event.get("body", b"")
            body = bytes(parts)
        if event["type"] == "http.disconnect":
            raise ClientGone
        if len(body) > self._max_body_bytes:
            raise too_long(self._max_body_bytes)
        return body


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], text: str) -> None:
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})
    except OSError:
        pass  # there is nobody to tell
