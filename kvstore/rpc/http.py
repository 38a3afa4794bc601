"""Plain HTTP paths: /health, /version, /debug/vars, /metrics and etcd's plain-text refusals.

It is the ASGI application that ``rpc/grpc.py`` falls back to, over HTTP/1.1 and HTTP/2 alike. What
the answers say comes from the callables given; only their shape is decided here (HTP-01..06). Exact
paths and whole prefixes only: a route tree for a dozen paths would be more to read than the dict.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from kvstore.rpc.grpc import AsgiApp, Receive, Scope, Send

TEXT: Final = "text/plain; charset=utf-8"
METRICS_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Request:
    """What a handler may know: ``query`` maps each parameter to its values, in order."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[bytes, bytes]


@dataclass(slots=True, frozen=True)
class Response:
    """A complete answer. ``headers`` come after content-type; names are lower case."""

    body: bytes
    status: int = 200
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]
Health = Callable[[frozenset[str], bool], Awaitable[tuple[bool, str]]]
"""(excluded alarm names, serializable) → (healthy, reason; empty when healthy)."""


def error(status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """A plain-text error as Go's http.Error writes it: text, newline, no content sniffing."""
    return Response(
        f"{text}\n".encode(), status, TEXT, (*headers, ("x-content-type-options", "nosniff"))
    )


def get_only(handler: Handler) -> Handler:
    """Refuse every method but GET with 405, HEAD included, as etcd's handlers do."""

    async def checked(request: Request) -> Response:
        if request.method != "GET":
            return error(405, "Method Not Allowed", [("allow", "GET")])
        return await handler(request)

    return checked


class HttpRouter:
    """An ASGI application of exact paths. Everything else gets "404 page not found".

    Args:
        routes: path → handler.
    """

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._routes = dict(routes)
        self._mounted: dict[str, AsgiApp] = {}

    def mount(self, prefix: str, app: AsgiApp) -> None:
        """Leave all paths below ``prefix``, one segment with its slashes (``/v3/``), to ``app``."""
        self._mounted[prefix] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a failing handler costs a 500 and a traceback in the log.

        The body of a request is not read: no route here has use for one.
        """
        path: str = scope["path"]
        mounted = self._mounted.get(path[: path.find("/", 1) + 1])
        if mounted is not None:
            await mounted(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        handler = self._routes.get(path)
        response = error(404, "404 page not found")
        if handler is not None:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            headers = dict(scope["headers"])
            try:
                response = await handler(Request(scope["method"], path, query, headers))
            except Exception:
                log.exception("%s %s failed", scope["method"], path)
                response = error(500, "Internal Server Error")
        await respond(send, response)


async def respond(send: Send, response: Response) -> None:
    """Send a complete answer; a client that left is not told."""
    headers = [(b"content-type", response.content_type.encode())]
    headers += [(name.encode(), value.encode()) for name, value in response.headers]
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    except OSError:
        pass  # the client left; there is nobody to tell


def health_routes(health: Health) -> dict[str, Handler]:
    """/health, which runs the check of HTP-02."""

    async def serve(request: Request) -> Response:
        excluded = frozenset(request.query.get("exclude", ()))
        serializable = request.query.get("serializable", [""])[0] == "true"
        healthy, reason = await health(excluded, serializable)
        body = _go_json({"health": "true" if healthy else "false", "reason": reason})
        return Response(body.encode()) if healthy else error(503, body)

    return {"/health": get_only(serve)}


def status_routes(
    *, version: Callable[[], Mapping[str, str]], variables: Callable[[], bytes]
) -> dict[str, Handler]:
    """/version and /debug/vars.

    Args:
        version: ``etcdserver``, ``etcdcluster`` and ``storage``, in this order (HTP-06).
        variables: a JSON object.
    """

    async def serve_version(request: Request) -> Response:
        return Response(_go_json(version()).encode(), content_type="application/json")

    async def serve_variables(request: Request) -> Response:
        return Response(variables(), content_type="application/json; charset=utf-8")

    return {"/version": get_only(serve_version), "/debug/vars": get_only(serve_variables)}


def metrics_routes(metrics: Callable[[], bytes]) -> dict[str, Handler]:
    """/metrics: the Prometheus text exposition, format 0.0.4."""

    async def serve(request: Request) -> Response:
        body = metrics()
        vary = ("vary", "accept-encoding")
        if not _accepts_gzip(request.headers.get(b"accept-encoding", b"")):
            return Response(body, 200, METRICS_TEXT, (vary,))
        packed = gzip.compress(body, compresslevel=1, mtime=0)
        return Response(packed, 200, METRICS_TEXT, (vary, ("content-encoding", "gzip")))

    return {"/metrics": serve}


def _accepts_gzip(accept_encoding: bytes) -> bool:
    for item in accept_encoding.split(b","):
        name, _, parameters = item.partition(b";")
        if name.strip() == b"gzip":
            return parameters.replace(b" ", b"") not in (b"q=0", b"q=0.0")
    return False


def _go_json(value: Mapping[str, Any]) -> str:
    """Compact JSON, escaped as Go's encoding/json escapes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
