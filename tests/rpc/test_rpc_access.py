"""Who may use the HTTP side: the host whitelist and CORS (HTP-14)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvstore.rpc.access import AccessControl
from kvstore.rpc.http import HttpRouter, Request, Response

CORS = {
    "access-control-allow-headers": "accept, content-type, authorization",
    "access-control-allow-methods": "POST, GET, OPTIONS, PUT, DELETE",
}


async def _hello(request: Request) -> Response:
    return Response(b"hello", headers=(("x-own", "1"),))


def ask(
    control: AccessControl, method: str = "GET", scheme: str = "http", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """One request through the access control to a page that says hello."""
    events: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "scheme": scheme,
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> Any:
        return {"type": "http.request"}

    asyncio.run(control(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in events[0]["headers"]}
    return events[0]["status"], b"".join(e["body"] for e in events[1:]), found


def control(**settings: Any) -> AccessControl:
    return AccessControl(HttpRouter({"/": _hello}), **settings)


@pytest.mark.parametrize("settings", [{}, {"origins": []}, {"origins": ["*", "http://a:80"]}])
def test_by_default_every_page_may_read_every_answer(settings: dict[str, Any]) -> None:
    """HTP-14: the defaults allow all, for requests without an origin too."""
    for headers in ({}, {"origin": "http://page:80"}):
        status, body, found = ask(control(**settings), **headers)
        assert (status, body, found["x-own"]) == (200, b"hello", "1")
        assert CORS.items() <= found.items()
        assert found["access-control-allow-origin"] == "*"


def test_only_a_page_on_the_list_may_read_an_answer() -> None:
    """HTP-14: others are served, but get no CORS headers, which keeps a browser from showing it."""
    listed = control(origins=["http://a:80", "http://b:80"])
    status, _, found = ask(listed, origin="http://b:80")
    assert (status, found["access-control-allow-origin"]) == (200, "http://b:80")
    for headers in ({}, {"origin": "http://c:80"}, {"origin": "http://b:80/"}):
        status, body, found = ask(listed, **headers)
        assert (status, body) == (200, b"hello")
        assert not any(name.startswith("access-control") for name in found)


def test_options_is_answered_for_every_path() -> None:
    """HTP-14: a browser's question before the request itself."""
    status, body, found = ask(control(), "OPTIONS", origin="http://page:80")
    assert (status, body, found["access-control-allow-origin"]) == (200, b"", "*")
    assert "x-own" not in found


@pytest.mark.parametrize(
    "host", ["etcd.example", "etcd.example:2379", "::1", "[::1]:2379", "10.0.0.1:80"]
)
def test_a_host_on_the_list_is_served(host: str) -> None:
    """HTP-14: with or without a port."""
    listed = control(hosts=["etcd.example", "::1", "10.0.0.1"])
    assert ask(listed, host=host)[:2] == (200, b"hello")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:2379", "etcd.example.", "", "[::1"])
def test_another_host_is_misdirected(host: str) -> None:
    """HTP-14: 421 over plain HTTP, whatever was asked, and a text that names host and flag."""
    listed = control(hosts=["etcd.example", "::1"])
    for method in ("GET", "OPTIONS"):
        status, body, headers = ask(listed, method, host=host)
        assert status == 421
        assert host.removesuffix(":2379") in body.decode()
        assert b"--host-whitelist" in body
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("hosts", [[], ["*"], ["*", "etcd.example"]])
def test_without_a_list_every_host_is_served(hosts: list[str]) -> None:
    """HTP-14: the default."""
    assert ask(control(hosts=hosts), host="evil.example")[0] == 200


def test_over_tls_every_host_is_served() -> None:
    """HTP-14: a page cannot rebind a name that has a certificate."""
    assert ask(control(hosts=["a"]), scheme="https", host="evil.example")[0] == 200


@pytest.mark.parametrize(
    ("host", "events"), [("a:1", ["websocket.accept"]), ("b:1", ["websocket.close"])]
)
def test_a_websocket_is_held_to_the_list_too(host: str, events: list[str]) -> None:
    """HTP-14: browsers open them across origins."""
    seen: list[str] = []

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def send(event: Any) -> None:
        seen.append(event["type"])

    scope = {"type": "websocket", "scheme": "ws", "headers": [(b"host", host.encode())]}
    asyncio.run(AccessControl(accept, hosts=["a"])(scope, None, send))  # type: ignore[arg-type]
    assert seen == events
