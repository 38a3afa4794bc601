"""What a server must make of requests that no well-behaved gRPC library would send."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import Code
from tests.rpc.harness import RawClient, Running, frame, put

LIMIT = 100_000
"""max_recv_bytes of the test server."""


def test_a_message_split_over_many_frames_is_joined(client: RawClient) -> None:
    stream = client.open("echo")
    for byte in frame(put(b"piecemeal")):
        client.data(stream, bytes([byte]))
    client.data(stream, b"", end=True)
    assert client.answer(stream).messages == [b"piecemeal"]


def test_a_call_without_a_message_is_refused(client: RawClient) -> None:
    answer = client.call("echo", b"")
    assert answer.code == Code.INTERNAL
    assert "received no request message" in answer.message


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\0", frame(b"abc")[:-1], frame(b"abc")[:5]])
def test_a_truncated_message_is_refused(client: RawClient, body: bytes) -> None:
    assert client.call("echo", body).status == (Code.INTERNAL, "unexpected EOF")


@pytest.mark.parametrize("second", [frame(put(b"two")), b"x"])
def test_more_than_one_message_is_refused(client: RawClient, second: bytes) -> None:
    answer = client.call("echo", frame(put(b"one")) + second)
    assert answer.code == Code.INTERNAL
    assert "received multiple request messages" in answer.message


def test_a_second_message_in_a_later_frame_is_refused(client: RawClient) -> None:
    stream = client.open("echo")
    client.data(stream, frame(put(b"one")))
    client.data(stream, frame(put(b"two")), end=True)
    assert "received multiple request messages" in client.answer(stream).message


def test_bytes_that_are_no_message_are_refused(client: RawClient) -> None:
    answer = client.call("echo", frame(b"\xff\xff\xff"))
    assert answer.code == Code.INTERNAL
    assert answer.message.startswith("grpc: error unmarshalling request: ")


# Size (GEN-17).


def test_a_message_of_exactly_the_limit_is_served(client: RawClient) -> None:
    value = bytes(LIMIT - len(put(bytes(LIMIT - 10))) + LIMIT - 10)
    assert len(put(value)) == LIMIT
    assert client.call("echo", frame(put(value))).messages == [value]


def test_a_message_over_the_limit_is_refused_with_both_numbers(client: RawClient) -> None:
    answer = client.call("echo", frame(bytes(LIMIT + 1)))
    expected = f"grpc: received message larger than max ({LIMIT + 1} vs. {LIMIT})"
    assert answer.status == (Code.RESOURCE_EXHAUSTED, expected)


def test_a_message_over_the_limit_is_refused_before_it_is_sent(client: RawClient) -> None:
    stream = client.open("echo")
    client.data(stream, b"\0\xff\xff\xff\xff")
    client.data(stream, bytes(1000))
    answer = client.answer(stream)
    expected = f"grpc: received message larger than max ({2**32 - 1} vs. {LIMIT})"
    assert answer.status == (Code.RESOURCE_EXHAUSTED, expected)


# Compression.


def deflated(data: bytes) -> bytes:
    return zlib.compress(data)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", deflated)])
def test_compressed_requests_are_understood_and_answered_uncompressed(
    client: RawClient, encoding: str, pack: object
) -> None:
    body = frame(pack(put(b"packed" * 100)), flag=1)  # type: ignore[operator]
    answer = client.call("echo", body, ("grpc-encoding", encoding))
    assert answer.messages == [b"packed" * 100]


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_uncompressed_message_is_fine_under_any_encoding(
    client: RawClient, encoding: str
) -> None:
    answer = client.call("echo", frame(put(b"plain")), ("grpc-encoding", encoding))
    assert answer.messages == [b"plain"]


@pytest.mark.parametrize("headers", [[], [("grpc-encoding", "identity")]])
def test_a_compressed_flag_without_an_encoding_is_refused(
    client: RawClient, headers: list[tuple[str, str]]
) -> None:
    answer = client.call("echo", frame(gzip.compress(put(b"x")), flag=1), *headers)
    expected = "grpc: compressed flag set with identity or empty encoding"
    assert answer.status == (Code.INTERNAL, expected)


def test_an_encoding_the_server_lacks_is_unimplemented(client: RawClient) -> None:
    answer = client.call("echo", frame(put(b"x")), ("grpc-encoding", "snappy"))
    expected = 'grpc: Decompressor is not installed for grpc-encoding "snappy"'
    assert answer.status == (Code.UNIMPLEMENTED, expected)


def test_a_flag_that_is_neither_0_nor_1_is_refused(client: RawClient) -> None:
    answer = client.call("echo", frame(put(b"x"), flag=2))
    assert answer.status == (Code.INTERNAL, "grpc: received unexpected payload format 2")


def test_a_bomb_is_refused_once_it_has_grown_to_the_limit(client: RawClient) -> None:
    bomb = gzip.compress(put(bytes(50_000_000)))
    assert len(bomb) < LIMIT
    answer = client.call("echo", frame(bomb, flag=1), ("grpc-encoding", "gzip"))
    assert answer.code == Code.RESOURCE_EXHAUSTED
    assert "after decompression larger than max" in answer.message


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: d + b"x", lambda d: b"no" + d])
def test_a_damaged_compressed_message_is_refused(client: RawClient, damage: object) -> None:
    body = damage(gzip.compress(put(b"x" * 100)))  # type: ignore[operator]
    answer = client.call("echo", frame(body, flag=1), ("grpc-encoding", "gzip"))
    assert answer.code == Code.INTERNAL
    assert answer.message.startswith("grpc: failed to decompress the received message: ")


# Headers.


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8",
     "Application/GRPC"],
)  # fmt: skip
def test_grpc_content_types_are_served(client: RawClient, content_type: str) -> None:
    answer = client.call("echo", frame(put(b"x")), content_type=content_type)
    assert answer.messages == [b"x"]


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc+json", None])
def test_another_content_type_on_a_grpc_path_gets_415(
    client: RawClient, content_type: str | None
) -> None:
    answer = client.call("echo", frame(put(b"x")), content_type=content_type)
    assert answer.http_status == 415


def test_a_method_other_than_post_gets_405(client: RawClient) -> None:
    assert client.call("echo", frame(put(b"x")), method="PUT").http_status == 405


def test_a_client_that_cannot_take_trailers_is_told_so(client: RawClient) -> None:
    answer = client.call("echo", frame(put(b"x")), te=None)
    expected = "gRPC requests must carry the header te: trailers"
    assert answer.status == (Code.INTERNAL, expected)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=40), encoding=st.sampled_from(["identity", "gzip", "deflate"]))
def test_no_body_makes_the_server_fail_otherwise_than_by_a_status(
    module_server: Running, body: bytes, encoding: str
) -> None:
    client = RawClient(module_server.port)
    answer = client.call("echo", body, ("grpc-encoding", encoding))
    client.close()
    assert answer.http_status == 200
    assert answer.code in (Code.OK, Code.INTERNAL, Code.RESOURCE_EXHAUSTED)
    assert "internal error" not in answer.message
