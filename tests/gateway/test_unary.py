"""One request, one answer: status, headers and bodies of the gateway over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import base64
import http.client
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from kvstore.errors import Code
from kvstore.gateway.app import JSON_PER_BYTE
from kvstore.gateway.streams import THREAD_BYTES
from tests.gateway.server import MAX_RECV_BYTES, WAIT_S, Running, raw
from tests.rpc.harness import RawClient

HEADER = '{"cluster_id":"18446744073709551615","member_id":"1","revision":"2","raft_term":"3"}'


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running() as running:
        yield running


def ask(
    server: Running, path: str, body: Any, method: str = "POST", **headers: str
) -> tuple[int, str, dict[str, str]]:
    """One request on a connection of its own."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    connection.request(
        method, path, data, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    answer = response.status, response.read().decode(), found
    connection.close()
    return answer


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize("path", ["/v3/kv/put", "/v3beta/kv/put"])
def test_a_call_is_a_post_of_json(server: Running, path: str) -> None:
    """HTP-09, HTP-10: the answer is the message as JSON, /v3beta/ is the same as /v3/."""
    status, body, headers = ask(server, path, {"key": "YQ==", "value": "Yg=="})
    assert status == 200
    assert body == f'{{"header":{HEADER},"prev_kv":{{"key":"YQ==","value":"Yg=="}}}}'
    assert headers["content-type"] == "application/json"
    assert headers["grpc-metadata-content-type"] == "application/grpc"


def test_http2_gets_the_same_answer(server: Running) -> None:
    """GEN-21: the port speaks HTTP/1.1 and HTTP/2, gRPC and JSON."""
    client = RawClient(server.port)
    answer = client.call("/v3/kv/put", b'{"key":"YQ=="}', content_type="application/json", te=None)
    client.close()
    assert (answer.http_status, answer.headers[b"content-type"]) == (200, b"application/json")
    assert answer.body.decode() == f'{{"header":{HEADER},"prev_kv":{{"key":"YQ=="}}}}'


def test_a_call_counts_as_the_rpc_it_is(server: Running) -> None:
    """HTP-09: behaviour, limits and metrics are those of gRPC."""
    method = server.router.methods["/etcdserverpb.KV/Put"]
    started, handled, failed = method.started, method.handled[Code.OK], method.handled[Code.ABORTED]
    ask(server, "/v3/kv/put", {})
    ask(server, "/v3/kv/put", {"lease": int(Code.ABORTED)})
    assert (method.started, method.handled[Code.OK]) == (started + 2, handled + 1)
    assert method.handled[Code.ABORTED] == failed + 1


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.CANCELLED, 499),
        (Code.UNKNOWN, 500),
        (Code.INVALID_ARGUMENT, 400),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.PERMISSION_DENIED, 403),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.FAILED_PRECONDITION, 400),
        (Code.ABORTED, 409),
        (Code.OUT_OF_RANGE, 400),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
        (Code.UNAVAILABLE, 503),
        (Code.DATA_LOSS, 500),
        (Code.UNAUTHENTICATED, 401),
    ],
)
def test_an_error_has_the_status_of_its_code(server: Running, code: Code, status: int) -> None:
    """HTP-12: and a body with code and message, and the error of older servers."""
    text = 'etcdserver: "müde" <&>\n'
    found, body, headers = ask(server, "/v3/kv/put", {"key": b64(text.encode()), "lease": code})
    assert found == status
    assert body.startswith('{"error":"etcdserver: \\"müde')
    assert json.loads(body) == {"error": text, "code": int(code), "message": text}
    assert headers["content-type"] == "application/json"


def test_unauthorized_comes_with_the_challenge(server: Running) -> None:
    """HTP-12: WWW-Authenticate carries the text."""
    body = {"key": b64(b"etcdserver: invalid auth token"), "lease": 16}
    status, _, headers = ask(server, "/v3/kv/put", body)
    assert (status, headers["www-authenticate"]) == (401, "etcdserver: invalid auth token")


@pytest.mark.parametrize(
    "path",
    ["/v3/", "/v3/kv", "/v3/kv/range/", "/v3/kv/Range", "/v3//kv/range", "/v3/v3/kv/range",
     "/v3beta/v3/kv/range", "/v3/kv/rangestream", "/v3/%ff"],
)  # fmt: skip
def test_an_unknown_path_is_not_found(server: Running, path: str) -> None:
    """HTP-09, HTP-12: 404 as JSON; a trailing slash makes another path."""
    for method in ("POST", "GET"):
        status, body, _ = ask(server, path, {}, method)
        assert (status, json.loads(body)["code"]) == (404, Code.NOT_FOUND)
        assert json.loads(body)["message"] == "Not Found"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_anything_but_post_is_unimplemented(server: Running, method: str) -> None:
    """HTP-12: 501, code 12, as the newer gateway says it."""
    status, body, _ = ask(server, "/v3/kv/range", b"", method)
    assert status == 501
    if method == "HEAD":
        assert body == ""
    else:
        assert json.loads(body)["message"] == "Method Not Allowed"
        assert json.loads(body)["code"] == Code.UNIMPLEMENTED


def test_a_path_whose_rpc_is_not_served_is_unimplemented(server: Running) -> None:
    """HTP-12: 501 with the router's text."""
    status, body, _ = ask(server, "/v3/election/leader", {})
    assert (status, json.loads(body)["code"]) == (501, Code.UNIMPLEMENTED)
    assert "v3electionpb.Election" in json.loads(body)["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"key":7}', b"\xff", b"[" * 15_000, b'{"lease":1e99}']
)
def test_a_bad_body_is_an_invalid_argument(server: Running, body: bytes) -> None:
    """HTP-10, HTP-12: 400 and a reason, never a traceback."""
    status, text, _ = ask(server, "/v3/kv/put", body)
    assert (status, json.loads(text)["code"]) == (400, Code.INVALID_ARGUMENT)
    assert json.loads(text)["message"]


def test_a_body_may_be_missing(server: Running) -> None:
    """HTP-10: an empty body is an empty message, whatever its content type."""
    for headers in ({}, {"content_type": "application/x-www-form-urlencoded"}):
        status, body, _ = ask(server, "/v3/kv/put", b"", **headers)
        assert (status, body) == (200, f'{{"header":{HEADER},"prev_kv":{{}}}}')


def test_a_body_has_a_limit(server: Running) -> None:
    """HTP-12: more JSON than a message can need is refused unread, up to there it is read."""
    limit = JSON_PER_BYTE * MAX_RECV_BYTES
    longest = b'{"key":"YQ=="}' + b" " * (limit - 14)
    assert ask(server, "/v3/kv/put", longest)[0] == 200
    for body in (longest + b" ", longest * 50):
        status, text, _ = ask(server, "/v3/kv/put", body)
        assert (status, json.loads(text)["code"]) == (429, Code.RESOURCE_EXHAUSTED)
        assert "larger than max" in json.loads(text)["message"]


def test_a_message_has_the_limit_of_grpc(server: Running) -> None:
    """GEN-17, HTP-12: the message that the JSON says, 429."""
    room = MAX_RECV_BYTES - 3
    assert ask(server, "/v3/kv/put", {"value": b64(bytes(room))})[0] == 200
    status, text, _ = ask(server, "/v3/kv/put", {"value": b64(bytes(room + 1))})
    assert (status, json.loads(text)["code"]) == (429, Code.RESOURCE_EXHAUSTED)
    assert json.loads(text)["message"].startswith("grpc: received message larger than max")


def test_a_long_answer_is_written_by_a_thread(server: Running) -> None:
    """HTP-10: it is the same JSON."""
    count = THREAD_BYTES // 100 + 1
    status, body, _ = ask(server, "/v3/kv/range", {"limit": count})
    response = json.loads(body)
    assert (status, response["count"], len(response["kvs"])) == (200, str(count), count)
    assert response["kvs"][-1] == {"key": b64(b"%d" % (count - 1)), "value": b64(bytes(100))}


def test_a_bug_in_a_handler_is_a_500_and_logged(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """HTP-12: the traceback stays here."""
    with caplog.at_level(logging.ERROR):
        status, body, _ = ask(server, "/v3/kv/txn", {})
    assert (status, json.loads(body)["code"]) == (500, Code.INTERNAL)
    assert "Traceback" not in body
    assert "a bug in a handler" in caplog.text


def test_metadata_comes_from_headers(server: Running) -> None:
    """HTP-13: the token as it was sent, and what Grpc-Metadata-... names."""
    ask(
        server, "/v3/kv/put", {}, authorization="abc", grpc_metadata_hasleader="true",
        grpc_metadata_token="t", grpc_metadata_grpc_encoding="gzip", x_other="1",
    )  # fmt: skip
    call = server.service.calls[-1]
    assert (call.authorization, call.token, call.hasleader) == ("abc", "t", True)
    assert call.metadata("x-other") is None
    assert call.peer.startswith("127.0.0.1:")


def test_a_timeout_ends_the_call(server: Running) -> None:
    """HTP-13: Grpc-Timeout is the call's deadline; 504 after it."""
    status, body, _ = ask(server, "/v3/kv/compaction", {}, grpc_timeout="20m")
    assert (status, json.loads(body)["message"]) == (504, "context deadline exceeded")
    server.await_seen("started")
    server.await_seen("cancelled")
    status, body, _ = ask(server, "/v3/kv/put", {}, grpc_timeout="soon")
    assert (status, json.loads(body)["message"]) == (400, "invalid grpc-timeout: soon")


def test_a_connection_serves_one_call_after_another(server: Running) -> None:
    """GEN-21: keep-alive, also after errors, and requests sent before the answers were read."""
    with raw(server.port) as connection:
        for path, status in [("/v3/kv/put", 200), ("/v3/nowhere", 404), ("/v3/kv/put", 200)] * 2:
            connection.post(path, b"{}")
            assert connection.answer()[0] == status
        for _ in range(5):
            connection.post("/v3/kv/put", b"{}")
        assert [connection.answer()[0] for _ in range(5)] == [200] * 5


def test_a_body_may_come_in_chunks(server: Running) -> None:
    """GEN-21: a chunked body is one body."""
    with raw(server.port) as connection:
        connection.start("/v3/kv/put", "Transfer-Encoding: chunked")
        for piece in (b'{"ke', b'y":"YQ', b'=="}', b""):
            connection.chunk(piece)
        status, body = connection.answer()
    assert (status, json.loads(body)["prev_kv"]) == (200, {"key": "YQ=="})


def test_a_client_that_asks_may_send_its_body(server: Running) -> None:
    """GEN-21: Expect: 100-continue, as curl sends it for long bodies."""
    with raw(server.port) as connection:
        body = b'{"key":"YQ=="}'
        connection.start("/v3/kv/put", f"Content-Length: {len(body)}", "Expect: 100-continue")
        assert connection.head()[0] == 100
        connection.socket.sendall(body)
        assert connection.answer()[0] == 200


def test_a_unary_call_that_waits_ends_with_its_client(server: Running) -> None:
    """HTP-11: a lock is not waited for by nobody; HTTP/1.1, where nothing is sent to notice by."""
    with raw(server.port) as connection:
        connection.post("/v3/lock/lock", b'{"name":"YQ=="}')
        server.await_seen("started")
    server.await_seen("cancelled")
