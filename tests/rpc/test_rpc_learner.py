"""The router of a learner: it serves what is allowed, request by request, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from kvstore.errors import NOT_SUPPORTED_FOR_LEARNER
from tests.rpc.harness import SERVICE, WAIT_S, Running, put


@pytest.fixture
def learner(server: Running) -> Iterator[Running]:
    """The test server as a learner that serves `echo`, if the value says so, and `chat`."""
    router = server.router
    router.methods[SERVICE + "echo"].on_learner = lambda request: request.value == b"allowed"
    router.learner = True
    try:
        yield server
    finally:
        router.learner = False


def call(channel: grpc.Channel, name: str, body: bytes) -> bytes:
    return bytes(channel.unary_unary(SERVICE + name)(body, timeout=WAIT_S))


def refused(error: grpc.RpcError) -> bool:
    return (int(error.code().value[0]), error.details()) == (
        NOT_SUPPORTED_FOR_LEARNER.code,
        NOT_SUPPORTED_FOR_LEARNER.message,
    )


@pytest.mark.usefixtures("learner")
def test_allowed_requests_are_served_and_others_refused(channel: grpc.Channel) -> None:
    """GEN-15."""
    assert call(channel, "echo", put(b"allowed")) == b"allowed"
    for name, body in (("echo", put(b"other")), ("later", put(b"allowed"))):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, name, body)
        assert refused(caught.value)


def test_streams_are_refused_and_nothing_is_once_it_votes(
    learner: Running, channel: grpc.Channel
) -> None:
    """GEN-15."""
    stream = next(
        path for path, method in learner.router.methods.items() if method.kind == "bidi_stream"
    )
    with pytest.raises(grpc.RpcError) as caught:
        next(channel.stream_stream(stream)(iter([put(b"x")]), timeout=WAIT_S))
    assert refused(caught.value)
    learner.router.learner = False
    assert call(channel, "later", put(b"allowed")) == b"allowed"
