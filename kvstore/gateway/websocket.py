"""Gateway calls over a websocket: each text frame a request, each answer line a frame.

For browsers, which can set no headers there: ``Sec-WebSocket-Protocol: Bearer, <token>`` or a
cookie ``token`` carries the auth token. A unary call takes one frame and answers with one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from kvstore.gateway.routes import find_route
from kvstore.rpc.grpc import AsgiApp, Event, Receive, Scope, Send

_BEARER: Final = "Bearer"
_COOKIE: Final = "token"
_NORMAL_CLOSE: Final = 1000


async def serve_websocket(gateway: AsgiApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one websocket with one call of ``gateway``, which sees an HTTP request."""
    await receive()  # websocket.connect
    offered: list[str] = scope.get("subprotocols") or []
    accept: Event = {"type": "websocket.accept"}
    if _BEARER in offered:
        accept["subprotocol"] = _BEARER
    try:
        await send(accept)
        await _Bridge(gateway, scope, receive, send).run(_headers(scope, offered))
        await send({"type": "websocket.close", "code": _NORMAL_CLOSE})
    except OSError:
        pass  # the client left


def _headers(scope: Scope, offered: list[str]) -> list[tuple[bytes, bytes]]:
    token = ""
    if offered[:1] == [_BEARER] and len(offered) > 1:
        token = offered[1]
    for name, value in scope["headers"]:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, found = pair.strip().partition("=")
                token = found if key == _COOKIE else token
    return [(b"authorization", f"{_BEARER} {token}".encode("latin-1"))] if token else []


class _Bridge:
    """Makes of a websocket the HTTP request and answer that the gateway knows."""

    def __init__(self, gateway: AsgiApp, scope: Scope, receive: Receive, send: Send) -> None:
        route = find_route(scope["path"])
        self._single = route is None or not route.client_streaming
        self._gateway = gateway
        self._scope = scope
        self._receive = receive
        self._send = send
        self._rest = b""
        self._drain: asyncio.Task[None] | None = None

    async def run(self, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {**self._scope, "type": "http", "method": "POST", "headers": headers}
        scope["http_version"] = "websocket"
        try:
            await self._gateway(scope, self._next_request, self._take)
            if self._rest:
                await self._send({"type": "websocket.send", "text": self._rest.decode()})
        finally:
            if self._drain is not None:
                self._drain.cancel()

    async def _next_request(self) -> Event:
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            return {"type": "http.disconnect"}
        text = event.get("text")
        body = event.get("bytes") or b"" if text is None else text.encode()
        if self._single:
            task = asyncio.current_task()
            assert task is not None
            self._drain = asyncio.ensure_future(self._until_gone(task))
        return {"type": "http.request", "body": body, "more_body": not self._single}

    async def _until_gone(self, call: asyncio.Task[None]) -> None:
        """Drop what comes after the only request, and end the call with the connection."""
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
        call.cancel()

    async def _take(self, event: Event) -> None:
        """Send the whole lines of the answer."""
        if event["type"] != "http.response.body":
            return
        *lines, self._rest = (self._rest + event["body"]).split(b"\n")
        for line in lines:
            if line:
                await self._send({"type": "websocket.send", "text": line.decode()})
