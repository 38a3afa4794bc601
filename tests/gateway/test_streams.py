"""Streaming calls: lines as they come, requests as they come, and both ends of a call (HTP-11)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import h2.events
import pytest

from kvstore.errors import Code
from tests.gateway.server import MAX_RECV_BYTES, WAIT_S, Running, raw
from tests.rpc.harness import RawClient

WATCH, KEEPALIVE = "/v3/watch", "/v3/lease/keepalive"


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


def create(watch_id: int) -> bytes:
    return json.dumps({"create_request": {"watch_id": watch_id}}).encode()


def created(watch_id: int) -> bytes:
    return (
        f'{{"result":{{"watch_id":"{watch_id}","created":true,"compact_revision":"7"}}}}\n'
    ).encode()


def error(line: bytes) -> dict[str, Any]:
    assert line.endswith(b"\n")
    found: dict[str, Any] = json.loads(line)["error"]
    return found


def test_a_result_is_a_line_sent_at_once(server: Running) -> None:
    """HTP-11: {"result": …} and a newline; a half-close leaves the call open (WCH-46)."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(1))
        status, headers = connection.head()
        assert (status, headers["content-type"]) == (200, "application/json")
        assert headers["grpc-metadata-content-type"] == "application/grpc"
        assert headers["transfer-encoding"] == "chunked"
        assert connection.read_chunk() == created(1)
        server.await_seen("half-closed")
        assert server.service.seen.empty()


def test_a_body_may_hold_several_requests(server: Running) -> None:
    """HTP-11: concatenated JSON objects, with or without newlines between them."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(1) + create(2) + b"\n\n" + create(3) + b"\n")
        connection.head()
        assert [connection.read_chunk() for _ in range(3)] == [created(1), created(2), created(3)]


def test_messages_that_belong_together_are_sent_together(server: Running) -> None:
    """HTP-11: each is a line of its own."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(-3))
        connection.head()
        one, two, end = connection.read_chunk().split(b"\n")
        assert (json.loads(one)["result"]["cancel_reason"], end) == ("xxx", b"")
        assert one == two


def test_a_keepalive_of_one_request_has_one_result_and_ends(server: Running) -> None:
    """HTP-11: the call ends with its requests; a TTL of 0 is left out (OTH-17)."""
    with raw(server.port) as connection:
        connection.post(KEEPALIVE, b'{"ID":"7"}')
        status, body = connection.answer()
        assert (status, json.loads(body)["result"]["TTL"]) == (200, "7")
        connection.post(KEEPALIVE, b'{"ID":0}')
        status, body = connection.answer()
        assert "TTL" not in json.loads(body)["result"]


def test_no_request_at_all_is_an_empty_answer(server: Running) -> None:
    """HTP-11: 200 without a line, as etcd answers."""
    with raw(server.port) as connection:
        connection.post(KEEPALIVE, b"")
        assert connection.answer() == (200, b"")


def test_an_error_before_the_first_result_is_the_status(server: Running) -> None:
    """HTP-11, HTP-12: and a line, with the keys of older and newer servers."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(0))
        status, body = connection.answer()
    assert status == 503
    assert error(body) == {
        "grpc_code": 14,
        "http_code": 503,
        "message": "no luck",
        "http_status": "Service Unavailable",
        "code": 14,
    }


def test_an_error_after_results_is_the_last_line(server: Running) -> None:
    """HTP-11: the status was sent already."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(1) + create(0) + create(2))
        status, headers = connection.head()
        lines = connection.body(headers).splitlines(keepends=True)
    assert (status, lines[0]) == (200, created(1))
    assert error(lines[1])["message"] == "no luck"
    assert len(lines) == 2


@pytest.mark.parametrize(
    "garbage", [b"x", b"[]", b'{"create_request":7}', b'{"create_request"', b"\xff", b'{"a":}']
)
def test_garbage_ends_the_call_with_an_error(server: Running, garbage: bytes) -> None:
    """HTP-11: at once, or after the results of what came before it; other calls go on."""
    with raw(server.port) as connection:
        connection.post(WATCH, garbage)
        status, body = connection.answer()
        assert (status, error(body)["code"]) == (400, Code.INVALID_ARGUMENT)
        connection.post(WATCH, create(1) + garbage)
        status, headers = connection.head()
        first, last = connection.body(headers).splitlines(keepends=True)
        assert (status, first) == (200, created(1))
        assert error(last)["code"] == Code.INVALID_ARGUMENT


def test_a_request_has_a_limit(server: Running) -> None:
    """HTP-11: one request too long is refused; any number of short ones is not."""
    short = create(1)
    with raw(server.port) as connection:
        connection.post(WATCH, short * (3 * MAX_RECV_BYTES // len(short)))
        connection.head()
        assert connection.read_chunk().startswith(created(1))
    with raw(server.port) as connection:
        connection.post(WATCH, b'{"create_request":{"key":"' + b"A" * 3 * MAX_RECV_BYTES + b'"}}')
        status, body = connection.answer()
    assert (status, error(body)["code"]) == (429, Code.RESOURCE_EXHAUSTED)


def test_over_http2_requests_and_results_alternate(server: Running) -> None:
    """HTP-11: each request is answered before the next one is sent, cut anywhere."""
    client = RawClient(server.port)
    stream = client.open(WATCH, content_type="application/json", te=None)
    for watch_id in (1, 2, 3):
        body = create(watch_id)
        client.data(stream, body[:5])
        client.data(stream, body[5:])
        data: list[bytes] = []
        while len(data) < watch_id:
            data = [e.data for e in client.of(stream, h2.events.DataReceived) if e.data]
            assert len(data) >= watch_id or client.read()
        assert data[-1] == created(watch_id)
    client.reset(stream)
    server.await_idle()
    client.close()


def test_a_client_that_leaves_ends_its_call(server: Running) -> None:
    """HTP-11: over HTTP/1.1 too, where nothing is sent that could fail."""
    for _ in range(3):
        with raw(server.port) as connection:
            connection.post(WATCH, create(1))
            connection.head()
            connection.read_chunk()
            server.await_seen("half-closed")
        server.await_idle()


def test_a_client_that_leaves_with_a_reset_ends_its_call(server: Running) -> None:
    """HTP-11: its machine's kernel may send a reset instead of an orderly end."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(1))
        connection.head()
        server.await_seen("half-closed")
        linger = b"\1\0\0\0\0\0\0\0"
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    server.await_idle()


def test_a_client_that_sent_more_before_it_left_ends_its_call(server: Running) -> None:
    """HTP-11: requests in the pipeline hide nothing."""
    with raw(server.port) as connection:
        connection.post(WATCH, create(1))
        connection.post(WATCH, create(2))
        connection.head()
        server.await_seen("half-closed")
    server.await_idle()


def test_a_client_that_leaves_within_its_body_ends_its_call(server: Running) -> None:
    """HTP-11: half a request is none."""
    with raw(server.port) as connection:
        connection.start(WATCH, "Content-Length: 100")
        connection.socket.sendall(create(1))
        connection.head()
        assert connection.read_chunk() == created(1)
    server.await_idle()


def test_a_client_that_does_not_read_stops_only_its_own_call(server: Running) -> None:
    """HTP-11: the call waits with a bounded amount under way, and ends when the client leaves."""
    with raw(server.port) as connection:
        connection.post("/v3/maintenance/snapshot", b"{}")
        connection.head()
        kind, accepted = server.service.seen.get(timeout=30)
        assert kind == "blocked"
        assert accepted < 50_000_000
        with raw(server.port) as other:
            other.post(KEEPALIVE, b'{"ID":"7"}')
            assert other.answer()[0] == 200
    server.await_idle()


def test_a_server_that_stops_says_so_in_the_stream() -> None:
    """HTP-11: the last line of a stream that the server ends."""
    with Running() as server, raw(server.port) as connection:
        connection.post(WATCH, create(1))
        _, headers = connection.head()
        assert connection.read_chunk() == created(1)
        server.stop()
        assert error(connection.body(headers))["message"] == "etcdserver: server stopped"


def test_descriptors_are_given_back(server: Running) -> None:
    """Noticing that clients leave costs a descriptor for each long call, until it ends."""
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(raw(server.port))
            connection.post(WATCH, create(1))
            connection.head()
        # For each call: both ends of its connection, which are in this process, and a duplicate;
        # meanwhile those of the test before may go.
        await_descriptors(lambda count: count >= before + 50)
    server.await_idle()
    await_descriptors(lambda count: count <= before + 1)  # one is the epoll of the first time


def await_descriptors(reached: Callable[[int], bool]) -> None:
    """Wait until the number of open descriptors is as wanted."""
    deadline = time.monotonic() + WAIT_S
    while not reached(count := len(os.listdir("/proc/self/fd"))):
        assert time.monotonic() < deadline, f"{count} descriptors are open"
        time.sleep(0.01)


def test_many_clients_that_leave_are_all_noticed(server: Running) -> None:
    """HTP-11: those that leave before their connection was looked for, too."""
    connections = []
    for number in range(60):
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(raw(server.port))
            connection.post(WATCH, create(1))
            connection.head()
            connection.read_chunk()
            if number % 3 == 0:  # an end that leaves no address behind
                linger = b"\1\0\0\0\0\0\0\0"
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connections.append(stack.pop_all())
        if number % 2:
            connections.pop().close()
    for remaining in connections:
        remaining.close()
    server.await_idle()
