"""The HTTP answers of a client port, byte for byte as etcd gives them."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
from collections.abc import Iterator

import pytest

from tests.rpc.harness import WAIT_S, RawClient, Running

Reply = tuple[int, bytes, dict[str, str]]


def fetch(server: Running, method: str, path: str, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    reply = response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
    connection.close()
    return reply


@pytest.fixture(autouse=True)
def _healthy(server: Running) -> Iterator[None]:
    server.service.healthy = (True, "")
    server.health_arguments.clear()
    server.service.check_failures.clear()
    yield
    server.values = {}


def test_a_healthy_member_says_so(server: Running) -> None:
    """HTP-01: the values are strings."""
    status, body, headers = fetch(server, "GET", "/health")
    assert (status, body) == (200, b'{"health":"true","reason":""}')
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["content-length"] == str(len(body))


def test_an_unhealthy_member_gives_its_reason(server: Running) -> None:
    """HTP-01: 503, health "false" and the reason."""
    server.service.healthy = (False, "ALARM NOSPACE")
    status, body, headers = fetch(server, "GET", "/health")
    assert (status, body) == (503, b'{"health":"false","reason":"ALARM NOSPACE"}\n')
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_reason_is_escaped_as_go_escapes_it(server: Running) -> None:
    server.service.healthy = (False, 'RANGE ERROR:<"a" & b>')
    _, body, _ = fetch(server, "GET", "/health")
    expected = rb'{"health":"false","reason":"RANGE ERROR:\u003c\"a\" \u0026 b\u003e"}'
    assert body == expected + b"\n"


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("", (frozenset(), False)),
        ("?exclude=NOSPACE", (frozenset({"NOSPACE"}), False)),
        ("?exclude=NOSPACE&exclude=CORRUPT", (frozenset({"NOSPACE", "CORRUPT"}), False)),
        ("?serializable=true", (frozenset(), True)),
        ("?serializable=1", (frozenset(), False)),
        ("?serializable=false&serializable=true", (frozenset(), False)),
    ],
)
def test_health_is_asked_with_the_query(
    server: Running, query: str, arguments: tuple[frozenset[str], bool]
) -> None:
    """HTP-02: ``exclude`` may come several times; ``serializable`` is exactly "true"."""
    fetch(server, "GET", "/health" + query)
    assert server.health_arguments == [arguments]


def test_version_is_json_in_etcds_order(server: Running) -> None:
    """HTP-06: etcdserver, etcdcluster, storage, all strings."""
    status, body, headers = fetch(server, "GET", "/version")
    expected = b'{"etcdserver":"3.6.0","etcdcluster":"3.6.0","storage":"3.6.0"}'
    assert (status, body, headers["content-type"]) == (200, expected, "application/json")


@pytest.mark.parametrize("path", ["/health", "/version", "/debug/vars", "/readyz", "/readyz/first"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_other_methods_are_refused_naming_the_one_allowed(
    server: Running, method: str, path: str
) -> None:
    """HTP-01: other methods get 405, HEAD included."""
    status, body, headers = fetch(server, method, path)
    assert (status, headers["allow"]) == (405, "GET")
    assert body == (b"" if method == "HEAD" else b"Method Not Allowed\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/", "/v2/keys", "/health/", "/readyz/third", "/etcdserverpb.KV/Range", "/%ff", "//"]
)
def test_any_other_path_is_not_found(server: Running, path: str) -> None:
    status, body, headers = fetch(server, "GET", path)
    assert (status, body) == (404, b"404 page not found\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"


def test_variables_are_json(server: Running) -> None:
    status, body, headers = fetch(server, "GET", "/debug/vars")
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(body) == {"raft.status": {}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/readyz", "ok\n"),
        ("/readyz?verbose", "[+]first ok\n[+]second ok\nok\n"),
        ("/readyz?verbose&exclude=first", "[+]second ok\nok\n"),
        ("/readyz?verbose&exclude=first&exclude=second", "ok\n"),
        ("/readyz?verbose&exclude=nonsense&exclude=", "[+]first ok\n[+]second ok\nok\n"),
        ("/readyz/second", "ok\n"),
        ("/readyz/second?verbose", "[+]second ok\nok\n"),
        ("/readyz/second?verbose&exclude=second", "[+]second ok\nok\n"),
    ],
)
def test_a_probe_that_holds_is_ok(server: Running, path: str, body: str) -> None:
    """HTP-03, HTP-04: ``verbose`` shows the checks, ``exclude`` skips those there are."""
    status, text, headers = fetch(server, "GET", path)
    assert (status, text.decode()) == (200, body)
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/readyz", 503, "[+]first ok\n[-]second failed: no luck\n\n"),
        ("/readyz?exclude=first", 503, "[-]second failed: no luck\n\n"),
        ("/readyz?exclude=second", 200, "ok\n"),
        ("/readyz/first", 200, "ok\n"),
        ("/readyz/second", 503, "[-]second failed: no luck\n\n"),
    ],
)
def test_a_probe_that_fails_says_which_check(
    server: Running, path: str, status: int, body: str
) -> None:
    """HTP-03, HTP-04: the checks are shown without being asked for."""
    server.service.check_failures["second"] = "no luck"
    found, text, headers = fetch(server, "GET", path)
    assert (found, text.decode()) == (status, body)
    assert headers["x-content-type-options"] == "nosniff"


def test_results_of_probes_are_counted(server: Running) -> None:
    before = dict(server.probe_counts.results)
    server.service.check_failures["second"] = "no luck"
    fetch(server, "GET", "/readyz")
    after = server.probe_counts.results
    changed = {key for key in after if after[key] != before.get(key, 0)}
    assert changed == {("readyz", "first", "success"), ("readyz", "second", "error")}
    assert server.probe_counts.last["readyz", "first"] == 1
    assert server.probe_counts.last["readyz", "second"] == 0


def test_a_grpc_path_over_http1_is_not_found(server: Running) -> None:
    reply = fetch(server, "POST", "/test.Service/echo", content_type="application/grpc")
    assert reply[:2] == (404, b"404 page not found\n")


def test_metrics_are_text_0_0_4(server: Running) -> None:
    server.values = {"test_value": 1}
    status, body, headers = fetch(server, "GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"\ntest_value 1\n" in body


def test_metrics_are_compressed_for_a_scraper_that_asks(server: Running) -> None:
    server.values = {"test_value": 1}
    _, body, headers = fetch(server, "GET", "/metrics", accept_encoding="br, gzip;q=0.5")
    assert headers["content-encoding"] == "gzip"
    assert b"\ntest_value 1\n" in gzip.decompress(body)


def test_metrics_are_not_compressed_for_a_scraper_that_refuses_it(server: Running) -> None:
    _, body, headers = fetch(server, "GET", "/metrics", accept_encoding="gzip;q=0")
    assert "content-encoding" not in headers
    assert b"# TYPE" in body


def test_a_bug_in_a_route_is_a_500_and_logged(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, body, _ = fetch(server, "GET", "/broken")
    assert (status, body) == (500, b"Internal Server Error\n")
    assert "a bug in a route" in caplog.text


def test_http2_clients_get_the_same_answers(server: Running, client: RawClient) -> None:
    answer = client.call("/health", b"", method="GET", content_type=None, te=None)
    assert answer.http_status == 200
    assert answer.body == b'{"health":"true","reason":""}'
    answer = client.call("/nowhere", b"", method="GET", content_type=None, te=None)
    assert (answer.http_status, answer.body) == (404, b"404 page not found\n")
    assert server.health_arguments == [(frozenset(), False)]


def test_a_websocket_is_refused(server: Running) -> None:
    status, _, _ = fetch(
        server,
        "GET",
        "/health",
        connection="Upgrade",
        upgrade="websocket",
        sec_websocket_version="13",
        sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert status == 403
