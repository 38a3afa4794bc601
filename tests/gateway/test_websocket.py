"""Gateway calls over a websocket: a frame for a request, a frame for a line (HTP-11)."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.server import RawHttp, Running

TEXT, CLOSE = 1, 8


@pytest.fixture(scope="module")
def module_server() -> Iterator[Running]:
    with Running() as running:
        yield running


@pytest.fixture
def server(module_server: Running) -> Running:
    """The module's server, when the calls of the test before have ended."""
    module_server.await_idle()
    module_server.service.seen.queue.clear()
    return module_server


class Socket:
    """A websocket of a client that knows nothing but the two frames."""

    def __init__(self, port: int, path: str, *headers: str) -> None:
        self._http = RawHttp(port)
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: test",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *headers,
            "",
            "",
        ]
        self._http.socket.sendall("\r\n".join(lines).encode())
        self.status, self.headers = self._http.head()
        assert self.status == 101

    def send(self, value: Any) -> None:
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        assert len(data) < 126
        self._http.socket.sendall(bytes([0x80 | TEXT, 0x80 | len(data)]) + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame."""
        read = self._http._file.read
        first, length = read(2)
        if length == 126:
            (length,) = struct.unpack("!H", read(2))
        return first & 0x0F, read(length)

    def line(self) -> Any:
        opcode, data = self.receive()
        assert opcode == TEXT
        return json.loads(data)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_requests_and_results_alternate(server: Running) -> None:
    """HTP-11: on one connection, as long as the client stays."""
    with Socket(server.port, "/v3/watch") as client:
        for watch_id in (1, 2, 3):
            client.send({"create_request": {"watch_id": watch_id}})
            assert client.line()["result"]["watch_id"] == str(watch_id)
    server.await_idle()


def test_an_error_is_the_last_frame(server: Running) -> None:
    """HTP-11: then the websocket is closed."""
    with Socket(server.port, "/v3/watch") as client:
        client.send({"create_request": {"watch_id": 1}})
        client.line()
        client.send("garbage")
        assert client.line()["error"]["code"] == 3
        assert client.receive()[0] == CLOSE


def test_a_unary_call_takes_one_frame(server: Running) -> None:
    """HTP-09: and answers with one."""
    with Socket(server.port, "/v3beta/kv/put") as client:
        client.send({"key": "YQ=="})
        assert client.line()["prev_kv"] == {"key": "YQ=="}
        assert client.receive()[0] == CLOSE


def test_an_unknown_path_is_told_in_a_frame(server: Running) -> None:
    """HTP-12: the upgrade comes before the path is looked at, as in etcd."""
    with Socket(server.port, "/v3/nowhere") as client:
        assert client.line()["code"] == 5
        assert client.receive()[0] == CLOSE


@pytest.mark.parametrize(
    ("header", "protocol"),
    [("Sec-WebSocket-Protocol: Bearer, abc", "Bearer"), ("Cookie: a=b; token=abc", None)],
)
def test_a_browser_can_send_its_token(server: Running, header: str, protocol: str | None) -> None:
    """HTP-13: it can set no Authorization header for a websocket."""
    with Socket(server.port, "/v3/kv/put", header) as client:
        assert client.headers.get("sec-websocket-protocol") == protocol
        client.send({})
        client.line()
    assert server.service.calls[-1].authorization == "Bearer abc"


def test_a_client_that_leaves_ends_a_call_that_waits(server: Running) -> None:
    """HTP-11: even if nobody reads what it sends."""
    with Socket(server.port, "/v3/lock/lock") as client:
        client.send({"name": "YQ=="})
        server.await_seen("started")
        client.send({"ignored": True})
    server.await_idle()
