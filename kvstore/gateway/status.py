"""What the gateway says when a call fails: HTTP status by gRPC code, and the body (HTP-12).

etcd changed the body: up to 3.5 it is ``{"error", "code", "message"}``, and in a stream
``{"error": {"grpc_code", "http_code", "message", "http_status"}}``; from 3.6 on ``{"code",
"message"}`` and ``{"error": {"code", "message"}}``. Clients exist that read only the one or only
the other, so the bodies here hold the keys of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvstore.errors import Code, EtcdError
from kvstore.gateway.json_out import quote

CLIENT_CLOSED_REQUEST: Final = 499

HTTP_STATUS: Final[Mapping[Code, int]] = {
    Code.OK: 200,
    Code.CANCELLED: CLIENT_CLOSED_REQUEST,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

_PHRASES: Final[Mapping[int, str]] = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    429: "Too Many Requests",
    CLIENT_CLOSED_REQUEST: "",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def error_body(error: EtcdError) -> str:
    """The body of a call that failed without a result."""
    text = quote(error.message)
    return f'{{"error":{text},"code":{int(error.code)},"message":{text}}}'


def error_line(error: EtcdError) -> str:
    """The line, newline included, that ends a stream which failed."""
    status = HTTP_STATUS[error.code]
    return (
        f'{{"error":{{"grpc_code":{int(error.code)},"http_code":{status},'
        f'"message":{quote(error.message)},"http_status":"{_PHRASES[status]}","code":{int(error.code)}}}}}\n'
    )


def error_headers(error: EtcdError) -> list[tuple[bytes, bytes]]:
    """The headers of such an answer: a 401 repeats its text as the challenge."""
    headers = [(b"content-type", b"application/json")]
    if error.code is Code.UNAUTHENTICATED:
        text = "".join(c if c.isprintable() else " " for c in error.message).strip()
        headers.append((b"www-authenticate", text.encode("latin-1", "replace")))
    return headers
