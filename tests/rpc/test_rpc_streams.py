"""Streaming calls: both directions, half-close, back-pressure, and every way they can end."""

from __future__ import annotations

import logging
import queue

import grpc
import h2.events
import pytest

from kvstore.errors import STOPPED, Code
from kvstore.rpc.listener import STREAM_WINDOW_BYTES
from kvstore.rpc.stalls import LATE_LOOKS
from tests.rpc.harness import SERVICE, WAIT_S, RawClient, Running, frame, put

MAX_UNSENT_BYTES = 8_000_000
"""What the server may hold for a client that does not read, before ``send`` waits."""


def test_each_message_is_answered_before_the_next_is_sent(channel: grpc.Channel) -> None:
    outbox: queue.Queue[bytes | None] = queue.Queue()
    answers = channel.stream_stream(SERVICE + "stream_echo")(iter(outbox.get, None), timeout=WAIT_S)
    for value in (b"one", b"two", b"three"):
        outbox.put(put(value))
        assert next(answers) == value
    outbox.put(None)
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def test_many_messages_in_one_frame_all_arrive(client: RawClient) -> None:
    values = [b"%d" % i for i in range(1000)]
    answer = client.call("stream_echo", b"".join(frame(put(value)) for value in values))
    assert (answer.messages, answer.status) == (values, (Code.OK, ""))


def test_a_message_split_over_many_frames_is_joined(client: RawClient) -> None:
    stream = client.open("stream_echo")
    for byte in frame(put(b"piecemeal")) * 2:
        client.data(stream, bytes([byte]))
    client.data(stream, b"", end=True)
    assert client.answer(stream).messages == [b"piecemeal", b"piecemeal"]


def test_large_messages_travel_both_ways_unchanged(client: RawClient) -> None:
    values = [bytes([i]) * 99_000 for i in range(20)]
    answer = client.call("stream_echo", b"".join(frame(put(value)) for value in values))
    assert answer.messages == values


def test_a_half_close_ends_the_requests_but_not_the_call(
    server: Running, client: RawClient
) -> None:
    """WCH-46."""
    stream = client.open("stream_watch")
    client.data(stream, frame(put(b"before")), end=True)
    server.await_seen("half-closed")
    server.on_loop(server.service.release.set)
    assert client.answer(stream).messages == [b"before", b"after", b"the", b"half-close"]


def test_several_messages_leave_in_one_frame(server: Running, client: RawClient) -> None:
    stream = client.open("stream_watch")
    client.data(stream, b"", end=True)
    server.await_seen("half-closed")
    server.on_loop(server.service.release.set)
    client.answer(stream)
    sizes = [len(event.data) for event in client.of(stream, h2.events.DataReceived)]
    assert sizes[0] == sum(len(frame(m)) for m in (b"after", b"the", b"half-close"))


def test_a_stream_without_any_message_ends_with_a_status(client: RawClient) -> None:
    answer = client.call("stream_nothing", b"")
    assert (answer.messages, answer.status) == ([], (Code.OK, ""))


# Errors.


@pytest.mark.parametrize("messages", [0, 3])
def test_an_error_ends_the_stream_with_its_status(client: RawClient, messages: int) -> None:
    answer = client.call("stream_fail", frame(put(b"100 % lost", key=b"%d" % messages)))
    assert answer.messages == [b"ok"] * messages
    assert answer.status == (Code.DATA_LOSS, "100 % lost")


def test_a_bug_in_a_handler_ends_the_stream_and_is_logged(
    client: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = client.call("stream_crash", b"")
    assert answer.messages == [b"one"]
    assert answer.status == (Code.INTERNAL, "internal error: RuntimeError")
    assert "a bug in a handler" in caplog.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (frame(put(b"cut short"))[:-1], (Code.INTERNAL, "unexpected EOF")),
        (b"\0\0", (Code.INTERNAL, "unexpected EOF")),
        (
            frame(put(b"x"), flag=1),
            (Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding"),
        ),
        (
            b"\0\0\1\x86\xa1",
            (
                Code.RESOURCE_EXHAUSTED,
                "grpc: received message larger than max (100001 vs. 100000)",
            ),
        ),
    ],
)
def test_bad_framing_ends_the_stream_after_the_good_messages(
    client: RawClient, body: bytes, status: tuple[Code, str]
) -> None:
    answer = client.call("stream_echo", frame(put(b"good")) + body)
    assert (answer.messages, answer.status) == ([b"good"], status)


def test_bytes_that_are_no_message_end_the_stream(client: RawClient) -> None:
    answer = client.call("stream_echo", frame(b"\xff\xff"))
    assert answer.code == Code.INTERNAL
    assert answer.message.startswith("grpc: failed to unmarshal the received message: ")


def test_headers_are_checked_before_a_stream_starts(client: RawClient) -> None:
    answer = client.call("stream_hang", b"", ("grpc-encoding", "snappy"))
    assert answer.code == Code.UNIMPLEMENTED


# Ways to end.


def test_a_deadline_cancels_the_handler_and_is_reported(server: Running, client: RawClient) -> None:
    stream = client.open("stream_hang", ("grpc-timeout", "50m"))
    answer = client.answer(stream)
    assert answer.messages == [b"open"]
    assert answer.status == (Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    server.await_seen("cancelled")


@pytest.mark.parametrize("name", ["stream_hang", "stream_reader_task"])
@pytest.mark.parametrize("half_closed", [False, True])
def test_a_reset_cancels_the_handler(
    server: Running, client: RawClient, name: str, half_closed: bool
) -> None:
    stream = client.open(name)
    client.data(stream, frame(put(b"x")), end=half_closed)
    client.wait_for(stream, h2.events.DataReceived)
    client.reset(stream)
    server.await_seen("cancelled")


@pytest.mark.parametrize("name", ["stream_hang", "stream_reader_task"])
def test_a_lost_connection_cancels_the_handler(server: Running, name: str) -> None:
    client = RawClient(server.port)
    stream = client.open(name)
    client.data(stream, frame(put(b"x")))
    client.wait_for(stream, h2.events.DataReceived)
    client.close()
    server.await_seen("cancelled")


def test_a_cancelled_call_of_a_grpc_client_cancels_the_handler(
    server: Running, channel: grpc.Channel
) -> None:
    answers = channel.stream_stream(SERVICE + "stream_hang")(iter(()))
    assert next(answers) == b"open"
    answers.cancel()
    server.await_seen("cancelled")


def test_a_stopping_server_ends_open_streams_and_refuses_new_calls() -> None:
    """WCH-50, RFT-07."""
    with Running() as server:
        client = RawClient(server.port)
        stream = client.open("stream_hang")
        client.wait_for(stream, h2.events.DataReceived)
        server.on_loop(server.router.stop)
        assert client.answer(stream).status == (STOPPED.code, STOPPED.message)
        server.await_seen("cancelled")
        assert client.call("echo", frame(put())).status == (STOPPED.code, STOPPED.message)
        client.close()


def test_a_server_stream_takes_one_request(client: RawClient) -> None:
    assert client.call("stream_single", frame(put(b"one"))).messages == [b"one"]
    code, text = client.call("stream_single", b"").status
    assert code is Code.INTERNAL
    assert "received no request message" in text


# Back-pressure.


def test_send_waits_for_a_client_that_does_not_read_and_goes_on_when_it_does(
    server: Running, client: RawClient
) -> None:
    stream = client.open("stream_flood")
    state, accepted = server.service.seen.get(timeout=WAIT_S)
    assert state == "blocked"
    assert accepted < MAX_UNSENT_BYTES
    while sum(len(e.data) for e in client.of(stream, h2.events.DataReceived)) <= accepted:
        client.read()
    client.reset(stream)
    server.await_seen_at_last("cancelled")


def test_a_blocked_send_is_cancelled_with_its_client(server: Running, client: RawClient) -> None:
    stream = client.open("stream_flood")
    assert server.service.seen.get(timeout=WAIT_S)[0] == "blocked"
    client.reset(stream)
    server.await_seen_at_last("cancelled")


def test_a_deadline_ends_a_stream_whose_client_does_not_read(
    server: Running, client: RawClient
) -> None:
    stream = client.open("stream_flood", ("grpc-timeout", "500m"))
    server.await_seen_at_last("cancelled")
    answer = client.answer(stream)
    assert answer.status == (Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    assert set(answer.messages) <= {bytes(10_000)}


def test_a_blocked_stream_does_not_block_other_connections(
    server: Running, client: RawClient
) -> None:
    flood = client.open("stream_flood")
    assert server.service.seen.get(timeout=WAIT_S)[0] == "blocked"
    with RawClient(server.port) as other:
        assert other.call("echo", frame(put(b"x"))).messages == [b"x"]
    client.reset(flood)
    server.await_seen_at_last("cancelled")


def test_a_stream_that_is_not_read_is_reset_when_it_holds_up_its_connection(
    server: Running, client: RawClient
) -> None:
    """WCH-47: the other calls of the same client are answered, small answers and large ones."""
    flood = client.open("stream_flood")
    client.unread.add(flood)
    assert server.service.seen.get(timeout=WAIT_S)[0] == "blocked"
    for size in (1, 90_000):
        assert client.call("echo", frame(put(bytes(size)))).messages == [bytes(size)]
    assert client.wait_for(flood, h2.events.StreamReset).error_code == 2, "INTERNAL_ERROR"
    server.await_seen_at_last("cancelled")
    again = client.open("stream_hang")
    client.wait_for(again, h2.events.DataReceived)
    client.reset(again)
    server.await_seen_at_last("cancelled")


def test_a_stream_that_holds_up_nobody_may_be_unread_for_ever(
    server: Running, client: RawClient
) -> None:
    """WCH-47: it goes on when it is read."""
    flood = client.open("stream_flood")
    client.unread.add(flood)
    assert server.service.seen.get(timeout=WAIT_S)[0] == "blocked"
    for _ in range(2 * LATE_LOOKS):
        server.on_loop(server.router.stalls.check)
    with RawClient(server.port) as other:
        assert other.call("echo", frame(put(b"x"))).messages == [b"x"]
    while client.h2.remote_flow_control_window(flood):
        client.read()
    client.unread.clear()
    received = sum(len(e.data) for e in client.of(flood, h2.events.DataReceived))
    client.h2.increment_flow_control_window(1 << 20, flood)
    client.flush()
    while sum(len(e.data) for e in client.of(flood, h2.events.DataReceived)) == received:
        client.read()
    client.reset(flood)
    server.await_seen_at_last("cancelled")


def test_a_handler_that_does_not_read_stops_its_client_and_loses_nothing(
    server: Running, client: RawClient
) -> None:
    stream = client.open("stream_deaf")
    server.await_seen("started")
    message = frame(put(bytes(10_000)))
    while client.h2.remote_settings.initial_window_size != STREAM_WINDOW_BYTES:
        client.read()
    sent = STREAM_WINDOW_BYTES // len(message)
    client.data(stream, message * sent)
    assert client.h2.local_flow_control_window(stream) < len(message)
    assert client.call("echo", frame(put(b"x"))).messages == [b"x"]
    server.on_loop(server.service.release.set)
    client.data(stream, message * sent, end=True)
    assert client.answer(stream).messages == [b"%d" % (2 * sent)]


def test_a_thousand_streams_on_one_connection_are_served_at_once(
    server: Running, client: RawClient
) -> None:
    streams = [client.open("stream_hang") for _ in range(1000)]
    for stream in streams:
        client.wait_for(stream, h2.events.DataReceived)
    assert client.call("echo", frame(put(b"and one more"))).messages == [b"and one more"]
    client.close()
    for _ in streams:
        server.await_seen("cancelled")
