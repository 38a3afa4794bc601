"""Unary calls as clients make them: answers, errors, deadlines, cancellation, metadata."""

from __future__ import annotations

import json
import logging
import socket
import struct

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvstore.errors import COMPACTED, INVALID_CLIENT_API_VERSION, Code
from tests.rpc.harness import SERVICE, WAIT_S, RawClient, Running, frame, put


def call(channel: grpc.Channel, name: str, body: bytes = b"", **options: object) -> bytes:
    options.setdefault("timeout", WAIT_S)
    path = name if name.startswith("/") else SERVICE + name
    return bytes(channel.unary_unary(path)(body, **options))


def failure(
    channel: grpc.Channel, name: str, body: bytes = b"", **options: object
) -> tuple[Code, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, name, body)
    return Code(caught.value.code().value[0]), caught.value.details()


def test_a_handler_that_returns_bytes_is_answered_with_them(channel: grpc.Channel) -> None:
    assert call(channel, "echo", put(b"hello")) == b"hello"


def test_a_handler_that_returns_a_future_is_answered_with_its_result(channel: grpc.Channel) -> None:
    assert call(channel, "later", put(b"hello")) == b"hello"


def test_an_empty_answer_is_one_empty_message(client: RawClient) -> None:
    answer = client.call("echo", frame(put()))
    assert (answer.messages, answer.status) == ([b""], (Code.OK, ""))


@pytest.mark.parametrize("size", [65_530, 65_536, 99_000])
def test_large_messages_travel_both_ways_unchanged(channel: grpc.Channel, size: int) -> None:
    value = bytes(i % 251 for i in range(size))
    assert call(channel, "echo", put(value)) == value


def test_an_etcd_error_arrives_with_its_code_and_exact_text(channel: grpc.Channel) -> None:
    body = put(COMPACTED.message.encode(), key=b"%d" % COMPACTED.code)
    assert failure(channel, "fail", body) == (Code.OUT_OF_RANGE, COMPACTED.message)


def test_an_error_travels_in_the_headers_alone(client: RawClient) -> None:
    answer = client.call("fail", frame(put(b"gone", key=b"5")))
    assert answer.trailers_only
    assert answer.http_status == 200
    assert answer.headers[b"content-type"] == b"application/grpc"


# With spaces, which no header value may begin or end with, and non-ASCII.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
@example(text=" padded ")
@example(text="100 % — \n\x00")
def test_any_error_text_survives_percent_encoding(module_server: Running, text: str) -> None:
    client = RawClient(module_server.port)
    answer = client.call("fail", frame(put(text.encode(), key=b"2")))
    client.close()
    assert answer.status == (Code.UNKNOWN, text)
    assert all(0x20 <= byte < 0x7F for byte in answer.raw_message)


def test_a_bug_in_a_handler_costs_one_call_and_is_logged_with_its_traceback(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        code, text = failure(channel, "crash", put())
    assert (code, text) == (Code.INTERNAL, "internal error: RuntimeError")
    assert "a bug in a handler" in caplog.text
    assert "Traceback" in caplog.text
    assert call(channel, "echo", put(b"alive")) == b"alive"


def test_a_handlers_own_cancelled_future_is_told_to_the_client(channel: grpc.Channel) -> None:
    assert failure(channel, "own_cancel", put()) == (Code.CANCELLED, "context canceled")


def test_an_unknown_service_is_named(channel: grpc.Channel) -> None:
    expected = (Code.UNIMPLEMENTED, "unknown service no.Such")
    assert failure(channel, "/no.Such/Range") == expected


def test_an_unknown_method_of_a_known_service_is_named(channel: grpc.Channel) -> None:
    expected = (Code.UNIMPLEMENTED, "unknown method RangeStream for service test.Service")
    assert failure(channel, SERVICE + "RangeStream") == expected


def test_a_path_without_a_service_is_a_malformed_method_name(channel: grpc.Channel) -> None:
    assert failure(channel, "/echo") == (Code.UNIMPLEMENTED, 'malformed method name: "/echo"')


# Deadlines.


def test_an_expired_deadline_cancels_the_work_and_is_reported(
    server: Running, client: RawClient
) -> None:
    answer = client.call("hang", frame(put()), ("grpc-timeout", "50m"))
    assert answer.status == (Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    server.await_seen("started")
    server.await_seen("cancelled")


def test_a_deadline_covers_a_body_that_never_comes(client: RawClient) -> None:
    stream = client.open("echo", ("grpc-timeout", "50m"))
    assert client.answer(stream).code == Code.DEADLINE_EXCEEDED


def test_a_deadline_that_is_not_reached_changes_nothing(channel: grpc.Channel) -> None:
    assert call(channel, "later", put(b"in time"), timeout=WAIT_S) == b"in time"


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("2H", 7200), ("3M", 180), ("40S", 40), ("50000m", 50), ("99999999u", 99.999999)],
)  # fmt: skip
def test_a_grpc_timeout_sets_the_deadline(client: RawClient, timeout: str, seconds: float) -> None:
    answer = client.call("inspect", frame(put()), ("grpc-timeout", timeout))
    left = json.loads(answer.messages[0])["seconds left"]
    assert seconds - WAIT_S < left <= seconds


@pytest.mark.parametrize("timeout", ["0S", "1m", "1000u", "99999999n"])
def test_a_grpc_timeout_in_small_units_expires(client: RawClient, timeout: str) -> None:
    answer = client.call("hang", frame(put()), ("grpc-timeout", timeout))
    assert answer.code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", ["", "5", "S", "5x", "123456789S", "-1S", "1.5S", "٣S"])
def test_a_malformed_grpc_timeout_is_refused(client: RawClient, timeout: str) -> None:
    answer = client.call("echo", frame(put()), ("grpc-timeout", timeout.encode()))
    assert answer.code == Code.INTERNAL
    assert answer.message.startswith("malformed grpc-timeout: ")


# Clients that leave.


def test_a_reset_cancels_what_the_handler_waits_for(server: Running, client: RawClient) -> None:
    stream = client.open("hang")
    client.data(stream, frame(put()), end=True)
    server.await_seen("started")
    client.reset(stream)
    server.await_seen("cancelled")


def test_a_cancelled_call_of_a_grpc_client_cancels_the_handler(
    server: Running, channel: grpc.Channel
) -> None:
    pending = channel.unary_unary(SERVICE + "hang").future(put())
    server.await_seen("started")
    pending.cancel()
    server.await_seen("cancelled")


def test_a_lost_connection_cancels_what_the_handler_waits_for(server: Running) -> None:
    client = RawClient(server.port)
    client.data(client.open("hang"), frame(put()), end=True)
    server.await_seen("started")
    client.close()
    server.await_seen("cancelled")


def test_a_connection_torn_down_with_rst_cancels_too(server: Running) -> None:
    client = RawClient(server.port)
    client.data(client.open("hang"), frame(put()), end=True)
    server.await_seen("started")
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    server.await_seen("cancelled")


def test_a_call_is_marked_cancelled_and_counted_when_its_client_left(
    server: Running, client: RawClient
) -> None:
    method = server.router.methods[SERVICE + "hang"]
    before = method.handled[Code.CANCELLED]
    stream = client.open("hang")
    client.data(stream, frame(put()), end=True)
    server.await_seen("started")
    client.reset(stream)
    server.await_seen("cancelled")
    client.call("echo", frame(put()))  # the loop has gone on since
    assert method.handled[Code.CANCELLED] == before + 1


# Metadata.


def test_a_handler_sees_metadata_peer_and_path(server: Running, client: RawClient) -> None:
    answer = client.call(
        "inspect",
        frame(put()),
        ("hasleader", "true"),
        ("token", "user.1"),
        ("authorization", "Bearer abc"),
        ("source", "cache"),
        ("trace-bin", "3q2+7w"),
    )
    host, port = client.socket.getsockname()
    assert json.loads(answer.messages[0]) == {
        "path": SERVICE + "inspect",
        "hasleader": True,
        "token": "user.1",
        "authorization": "Bearer abc",
        "source": "cache",
        "missing": None,
        "trace": "deadbeef",
        "peer": f"{host}:{port}",
        "seconds left": None,
    }


def test_hasleader_is_only_the_value_true(client: RawClient) -> None:
    answer = client.call("inspect", frame(put()), ("hasleader", "1"))
    assert json.loads(answer.messages[0])["hasleader"] is False


def test_binary_metadata_that_is_not_base64_is_refused_when_read(client: RawClient) -> None:
    answer = client.call("inspect", frame(put()), ("trace-bin", "!!"))
    assert answer.status == (Code.INTERNAL, 'malformed binary metadata in header "trace-bin"')


def test_a_client_api_version_that_is_not_utf8_is_refused(client: RawClient) -> None:
    answer = client.call("echo", frame(put()), ("client-api-version", b"\xff\xfe"))
    expected = INVALID_CLIENT_API_VERSION
    assert answer.status == (expected.code, expected.message)


def test_any_other_client_api_version_is_accepted(client: RawClient) -> None:
    answer = client.call("echo", frame(put(b"x")), ("client-api-version", "3.6-ü".encode()))
    assert answer.messages == [b"x"]
