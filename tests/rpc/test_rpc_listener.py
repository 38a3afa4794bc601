"""The port itself: readiness, conflicts, hostile bytes, limits, and stopping within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import grpc
import h2.events
import h2.exceptions
import pytest

from kvstore.errors import Code
from kvstore.rpc.listener import (
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_HTTP_BODY_BYTES,
    Listener,
)
from kvstore.sockets import SocketOptions, listen_tcp
from tests.rpc.harness import SERVICE, WAIT_S, RawClient, Running, frame, put


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes, close the sending side, return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        received = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65_536):
                received += data
        except OSError:
            pass  # the server would not even hear it out
        return received


async def nothing(_scope: object, receive: object, send: object) -> None:
    """Never asked in these tests."""


def test_a_stopped_listener_frees_its_port() -> None:
    with Running() as first:
        port = first.port
    listener = Listener(nothing, listen_tcp("127.0.0.1", port, SocketOptions()))
    assert listener.port == port
    asyncio.run(listener.stop())


def test_streams_per_connection_are_unlimited(client: RawClient) -> None:
    while not any(isinstance(e, h2.events.RemoteSettingsChanged) for e in client.events):
        client.read()
    assert client.h2.remote_settings.max_concurrent_streams == MAX_CONCURRENT_STREAMS


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(range(256)) * 40,
        b"\x16\x03\x01\x02\x00\x01" + bytes(500),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\4\x08\0\0\0\0\0\0\0\0\0",
        b"",
    ],
)
def test_garbage_on_the_port_costs_only_its_own_connection(
    server: Running, client: RawClient, garbage: bytes
) -> None:
    assert b"200 OK" not in exchange(server.port, garbage)
    assert client.call("echo", frame(put(b"fine"))).messages == [b"fine"]


def test_an_http1_head_over_the_limit_is_refused(server: Running) -> None:
    line = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: %s\r\n\r\n"
    assert b" 200 OK" in exchange(server.port, line % (b"a" * 1000))
    assert b" 200 OK" not in exchange(server.port, line % (b"a" * MAX_HEADER_BYTES))


def test_an_http1_body_over_the_limit_is_refused(server: Running) -> None:
    head = b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    assert b"413" in exchange(server.port, head % (MAX_HTTP_BODY_BYTES + 1))


@pytest.mark.parametrize(
    "headers",
    [
        [(f"x-{i}", "a") for i in range(MAX_HEADER_FIELDS + 1)],
        [(f"x-{i}", "a" * 8000) for i in range(MAX_HEADER_BYTES // 8000 + 1)],
    ],
    ids=["fields", "bytes"],
)
def test_http2_headers_over_the_limit_are_refused(
    server: Running, client: RawClient, headers: list[tuple[str, str]]
) -> None:
    stream = client.open("echo", *headers)
    while client.read():
        refused = [e for e in client.events if isinstance(e, h2.events.StreamReset)]
        answers = list(client.of(stream, h2.events.ResponseReceived))
        if refused or answers:
            break
    assert all(dict(answer.headers)[b":status"] == b"431" for answer in answers)
    other = RawClient(server.port)
    assert other.call("echo", frame(put(b"fine"))).messages == [b"fine"]
    other.close()


def test_a_flood_of_resets_costs_the_flooder_its_connection(
    server: Running, client: RawClient
) -> None:
    flooder = RawClient(server.port)
    terminated = False
    for _ in range(1000):
        try:
            flooder.reset(flooder.open("echo"))
        except (OSError, h2.exceptions.ProtocolError):
            terminated = True
            break
    while not terminated and flooder.read():
        terminated = any(isinstance(e, h2.events.ConnectionTerminated) for e in flooder.events)
    flooder.close()
    assert terminated
    assert client.call("echo", frame(put(b"fine"))).messages == [b"fine"]


# Stopping.


def test_stop_refuses_connections_and_lets_a_unary_call_finish() -> None:
    with (
        Running(stop_grace_s=WAIT_S) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        pending = channel.unary_unary(SERVICE + "hang").future(put(), timeout=WAIT_S)
        server.await_seen("started")
        server.stop()
        await_refusal(server.port)
        server.on_loop(lambda: server.service.pending[-1].set_result(b"finished"))
        assert pending.result() == b"finished"


def await_refusal(port: int) -> None:
    """Connect until the port refuses, for as long as anything may take."""
    give_up_at = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
        except ConnectionError:
            return  # refused, or reset while the port closed
    pytest.fail("the port still accepts connections")


def test_stop_ends_open_streams_with_server_stopped() -> None:
    with Running() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        open_stream = channel.stream_stream(SERVICE + "stream_hang")
        streams = [open_stream(iter(()), timeout=WAIT_S) for _ in range(50)]
        for stream in streams:
            assert next(stream) == b"open"
        server.stop()
        for stream in streams:
            with pytest.raises(grpc.RpcError):
                next(stream)
            assert stream.code() == grpc.StatusCode.UNAVAILABLE
            assert stream.details() == "etcdserver: server stopped"


def test_stop_ends_calls_that_wait_for_other_clients() -> None:
    """CON-06: who waits for a lock must hear of it, and can wait elsewhere."""
    with Running(stop_grace_s=WAIT_S) as server:
        client = RawClient(server.port)
        stream = client.open("wait")
        client.data(stream, frame(put()), end=True)
        server.await_seen("started")
        server.stop()
        assert client.answer(stream).status == (Code.UNAVAILABLE, "etcdserver: server stopped")
        server.await_seen("cancelled")
        client.close()


def test_stop_cancels_what_outlives_the_grace() -> None:
    with Running(stop_grace_s=0.1) as server:
        client = RawClient(server.port)
        client.data(client.open("hang"), frame(put()), end=True)
        server.await_seen("started")
        server.stop()
        server.await_seen("cancelled")
        while client.read():
            pass
        client.close()


def test_stop_does_not_wait_for_idle_connections() -> None:
    with Running(stop_grace_s=WAIT_S * 10) as server:
        idle = RawClient(server.port)
        assert idle.call("echo", frame(put(b"x"))).messages == [b"x"]
        http1 = socket.create_connection(("127.0.0.1", server.port))
        http1.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert http1.recv(1000).startswith(b"HTTP/1.1 200")
        server.stop()
        server.join()
        for connection in (idle, http1):
            connection.close()


def test_stop_gives_up_on_a_handler_that_resists(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        entered, released = asyncio.Event(), asyncio.Event()

        async def stubborn(_scope: object, _receive: object, _send: object) -> None:
            entered.set()
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()

        listener = Listener(
            stubborn, listen_tcp("127.0.0.1", 0, SocketOptions()), stop_grace_s=0.05
        )
        await listener.start()
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await entered.wait()
        await listener.stop()
        released.set()
        writer.close()
        # The loop must outlive what h2corn left behind, which offers nothing to wait for.
        while listener._server.releasing:
            await asyncio.sleep(0)

    asyncio.run(story())
    assert "did not stop cleanly" in caplog.text
