"""Who may use the HTTP side of a client port: host whitelist and CORS (HTP-14).

Both are for browsers. A web page whose host name was rebound to this server's address still sends
its own name as Host: the whitelist refuses it with 421. CORS headers tell a browser which pages may
read the answers; a request from another page is served nonetheless, as etcd does. gRPC is not
concerned, nor are the metrics ports.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kvstore.rpc.grpc import AsgiApp, Event, Receive, Scope, Send
from kvstore.rpc.http import Response, error, respond

ANY: Final = "*"

Header = tuple[bytes, bytes]

_CORS_HEADERS: Final[tuple[Header, ...]] = (
    (b"access-control-allow-headers", b"accept, content-type, authorization"),
    (b"access-control-allow-methods", b"POST, GET, OPTIONS, PUT, DELETE"),
)
_TLS_SCHEMES: Final = frozenset({"https", "wss"})


class AccessControl:
    """An ASGI application that stands before another one.

    Args:
        app: what is served to those who may.
        origins: ``--cors``: the origins that get CORS headers; ``*`` or none at all: every one.
        hosts: ``--host-whitelist``: host names without port; ``*`` or none at all: every one.
    """

    def __init__(
        self, app: AsgiApp, *, origins: Iterable[str] = (ANY,), hosts: Iterable[str] = (ANY,)
    ) -> None:
        self._app = app
        self._origins = _restricted(origins)
        self._hosts = _restricted(hosts)
        self._any_origin = _cors_headers(ANY.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, origin = _host_and_origin(scope)
        if self._hosts and scope.get("scheme") not in _TLS_SCHEMES and host not in self._hosts:
            await _refuse(scope, send, host)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        if not self._origins:
            send = _adding(send, self._any_origin)
        elif origin in self._origins:
            send = _adding(send, _cors_headers(origin.encode("latin-1")))
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def _restricted(names: Iterable[str]) -> frozenset[str]:
    """The names, or none when they allow everything."""
    found = frozenset(names)
    return frozenset() if ANY in found else found


def _host_and_origin(scope: Scope) -> tuple[str, str]:
    host = origin = b""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value
    return _without_port(host.decode("latin-1")), origin.decode("latin-1")


def _without_port(host: str) -> str:
    """As Go's SplitHostPort: what has no port, or is no address at all, stays as it is."""
    name, colon, _ = host.rpartition(":")
    if not colon:
        return host
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1]
    return host if ":" in name or "[" in name or "]" in name else name


def _cors_headers(origin: bytes) -> list[Header]:
    return [*_CORS_HEADERS, (b"access-control-allow-origin", origin)]


def _adding(send: Send, headers: list[Header]) -> Send:
    """Return ``send`` with more headers on every answer."""

    async def send_with_headers(event: Event) -> None:
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event["headers"], *headers]}
        await send(event)

    return send_with_headers


async def _refuse(scope: Scope, send: Send, host: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await respond(send, _misdirected(host))


def _misdirected(host: str) -> Response:
    text = (
        f"The Host header of this request names {host!r}, which this server does not answer for.\n"
        "\n"
        "Allowed are all hosts over TLS, and over plain HTTP the names in --host-whitelist.\n"
        "The check keeps web pages from reaching the server by DNS rebinding (CVE-2018-5702)."
    )
    return error(421, text)
