"""What a scrape says about calls: go-grpc-middleware's names, from the router's own counters."""

from __future__ import annotations

import pytest

from kvstore.errors import Code
from kvstore.rpc.grpc import HANDLING_S, MAX_CLIENT_VERSIONS, Timing
from kvstore.rpc.metrics import CODE_NAMES
from tests.rpc.harness import SERVICE, RawClient, Running, frame, put
from tests.rpc.test_rpc_exposition import samples

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def of_method(found: Samples, name: str, kind: str, method: str, **more: str) -> float:
    return value(
        found, name, grpc_type=kind, grpc_service=SERVICE.strip("/"), grpc_method=method, **more
    )


def test_code_names_are_gos_in_the_order_of_the_codes() -> None:
    assert len(CODE_NAMES) == len(Code)
    for code, name in zip(Code, CODE_NAMES, strict=True):
        expected = code.name.replace("_", "").lower().replace("cancelled", "canceled")
        assert name.lower() == expected


def test_every_method_and_code_exists_before_the_first_call() -> None:
    with Running() as server:
        found = samples(server.exposition().decode())
    assert of_method(found, "grpc_server_started_total", "unary", "echo") == 0
    for name in CODE_NAMES:
        assert of_method(found, "grpc_server_handled_total", "unary", "echo", grpc_code=name) == 0


def test_calls_are_counted_by_method_and_code() -> None:
    with Running() as server:
        client = RawClient(server.port)
        for _ in range(3):
            client.call("echo", frame(put(b"x")))
        client.call("fail", frame(put(b"gone", key=b"5")))
        client.call("stream_echo", frame(put(b"a")) + frame(put(b"b")))
        client.close()
        found = samples(server.exposition().decode())
    assert of_method(found, "grpc_server_started_total", "unary", "echo") == 3
    assert of_method(found, "grpc_server_handled_total", "unary", "echo", grpc_code="OK") == 3
    assert of_method(found, "grpc_server_msg_sent_total", "unary", "echo") == 3
    assert of_method(found, "grpc_server_handled_total", "unary", "fail", grpc_code="NotFound") == 1
    assert of_method(found, "grpc_server_msg_sent_total", "unary", "fail") == 0
    assert of_method(found, "grpc_server_msg_received_total", "bidi_stream", "stream_echo") == 2
    assert of_method(found, "grpc_server_msg_sent_total", "bidi_stream", "stream_echo") == 2


def test_the_router_counts_the_bytes_of_its_clients() -> None:
    request = frame(put(b"12345"))
    with Running() as server:
        client = RawClient(server.port)
        client.call("echo", request)
        client.call("stream_echo", request)
        client.close()
        assert server.router.received_bytes == 2 * len(request)
        assert server.router.sent_bytes == 2 * len(frame(b"12345"))


def test_times_of_calls_that_succeed_fail_and_stream_are_counted_where_asked_for() -> None:
    with Running() as server:
        for name in ("echo", "fail", "stream_echo"):
            server.router.methods[SERVICE + name].timing = Timing()
        client = RawClient(server.port)
        client.call("echo", frame(put(b"x")))
        client.call("later", frame(put(b"x")))
        client.call("fail", frame(put(b"gone", key=b"5")))
        client.call("stream_echo", frame(put(b"a")))
        client.close()
        found = samples(server.exposition().decode())
    name = "grpc_server_handling_seconds_count"
    assert of_method(found, name, "unary", "echo") == 1
    assert of_method(found, name, "unary", "fail") == 1
    assert of_method(found, name, "bidi_stream", "stream_echo") == 1
    with pytest.raises(KeyError):
        of_method(found, name, "unary", "later")
    timing = server.router.methods[SERVICE + "fail"].timing
    assert timing is not None
    assert (timing.ok.count, timing.failed.count) == (0, 1)
    bounds = [dict(labels)["le"] for name, labels in found if name.endswith("seconds_bucket")]
    assert len(set(bounds)) == len(HANDLING_S) + 1


def test_a_call_that_takes_longer_than_the_threshold_is_told_with_its_messages() -> None:
    told: list[tuple[str, bytes | None, bytes | None]] = []
    with Running() as server:
        server.router.on_notable = lambda call, request, response, seconds: told.append(
            (call.path.rpartition("/")[2], request and request.value, response)
        )
        client = RawClient(server.port)
        client.call("echo", frame(put(b"below the threshold")))
        server.router.notable_s = -1.0
        client.call("echo", frame(put(b"x")))
        client.call("fail", frame(put(b"gone", key=b"5")))
        client.call("echo", frame(b"\xff"))
        client.close()
    assert told == [("echo", b"x", b"x"), ("fail", b"gone", None), ("echo", None, None)]


def test_calls_are_counted_by_the_clients_version() -> None:
    with Running() as server:
        client = RawClient(server.port)
        client.call("echo", frame(put()))
        client.call("echo", frame(put()), ("client-api-version", "3.5"))
        client.call("echo", frame(put()), ("client-api-version", "3.5"))
        client.call("stream_echo", frame(put()), ("client-api-version", "3.6"))
        client.close()
        found = samples(server.exposition().decode())
    name = "etcd_server_client_requests_total"
    assert value(found, name, type="unary", client_api_version="unknown") == 1
    assert value(found, name, type="unary", client_api_version="3.5") == 2
    assert value(found, name, type="stream", client_api_version="3.6") == 1


def test_a_client_that_invents_versions_makes_no_series_without_end() -> None:
    """GEN-14: any text is accepted, and the count of different ones stays bounded."""
    with Running() as server:
        client = RawClient(server.port)
        for i in range(MAX_CLIENT_VERSIONS + 10):
            client.call("echo", frame(put()), ("client-api-version", f"v{i}"))
        client.close()
        counts = server.router.unary_clients
    assert len(counts) == MAX_CLIENT_VERSIONS + 1
    assert counts[b"other"] == 10


def test_a_version_that_is_not_utf_8_is_refused_and_not_counted() -> None:
    """GEN-14: client-api-version may be anything, but UTF-8."""
    with Running() as server:
        client = RawClient(server.port)
        answer = client.call("echo", frame(put()), ("client-api-version", b"\xff"))
        client.close()
        assert answer.code == Code.INVALID_ARGUMENT
        assert server.router.unary_clients == {}


def test_a_stream_that_sends_garbage_counts_as_a_receive_failure() -> None:
    with Running() as server:
        client = RawClient(server.port)
        client.call("stream_echo", frame(put(b"good")) + frame(b"\xff\xff"))
        client.close()
        method = server.router.methods[SERVICE + "stream_echo"]
        assert (method.receive_failures, method.send_failures) == (1, 0)
