"""The little HTTP that a peer port answers: bytes only, no sockets (HTP-15).

A member that joins asks for ``/members``, people ask for ``/version``; nothing else is needed
between members, so this is one bounded request head, one answer and the end of the connection, and
no server library on the port that carries Raft.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

MAX_HEAD_BYTES = 8192
"""Longest request line and headers together."""

_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")
_TEXT = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A JSON document and what headers it has besides the usual ones."""

    body: bytes
    headers: Mapping[str, str]


Pages = Mapping[str, Callable[[], Awaitable[Page]]]
"""Path -> what makes its document."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str


def may_begin(data: bytes) -> bool:
    """Whether `data` is, or may become, the beginning of an HTTP/1 request."""
    return any(data.startswith(m) or m.startswith(data) for m in _METHODS)


def take_request(data: bytes) -> Request | bytes | None:
    """Parse a complete request head; None while it is not, the answer itself if it is bad."""
    if b"\r\n\r\n" not in data[:MAX_HEAD_BYTES]:
        return _answer(431, b"", _TEXT) if len(data) >= MAX_HEAD_BYTES else None
    words = data.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return _answer(400, b"400 Bad Request", _TEXT)
    return Request(words[0], words[1].partition("?")[0])


async def respond(request: Request, pages: Pages) -> bytes:
    """Return the whole answer to a request. Raises what the page raises."""
    page = pages.get(request.path)
    if page is None:
        return _answer(404, b"404 page not found\n", _TEXT)
    if request.method != "GET":
        return _answer(405, b"Method Not Allowed\n", _TEXT, {"Allow": "GET"})
    made = await page()
    return _answer(200, made.body, "application/json", made.headers)


def failed() -> bytes:
    """The answer when a page could not be made."""
    return _answer(500, b"Internal Server Error\n", _TEXT)


def _answer(
    status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
