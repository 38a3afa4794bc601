"""The HTTP side of real servers: the JSON gateway, health, version, and the flags about them."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import OUR_PROGRAM, Cluster, free_ports, reference_under_test, wait_until
from tests.e2e.http_client import Answer, LineStream, ask
from tests.rpc.harness import RawClient

OURS_ONLY = pytest.mark.skipif(
    reference_under_test(), reason="etcd 3.5.1 does not have this, or has another form of it"
)
CORS = "access-control-allow-origin"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One member with a metrics port."""
    port = free_ports(1)[0]
    flags = [f"--listen-metrics-urls=http://127.0.0.1:{port}"]
    with Cluster(1, tmp_path_factory.mktemp("gateway"), extra_flags=flags) as running:
        running.start_all()
        yield running


@pytest.fixture(scope="module")
def port(cluster: Cluster) -> int:
    return cluster.members[0].client_port


@pytest.fixture(scope="module")
def metrics_port(cluster: Cluster) -> int:
    return int(cluster.extra_flags[0].rpartition(":")[2])


@pytest.fixture
def alarms(port: int) -> Iterator[Any]:
    """Raises alarms; disarms all of them at the end."""

    def act(action: str, alarm: str) -> Answer:
        member = ask(port, "/v3/maintenance/status", {}).json["header"]["member_id"]
        body = {"action": action, "memberID": member, "alarm": alarm}
        answer = ask(port, "/v3/maintenance/alarm", body)
        assert answer.status == 200, answer
        return answer

    yield act
    for name in ("NOSPACE", "CORRUPT"):
        act("DEACTIVATE", name)


# -- the gateway --------------------------------------------------------------------------------


def test_keys_are_written_read_and_deleted(port: int) -> None:
    """HTP-09, HTP-10: kv/put, kv/range, kv/deleterange, kv/txn and kv/compaction."""
    key = b64("kv/a")
    put = ask(port, "/v3/kv/put", {"key": key, "value": b64("1")})
    assert (put.status, put.headers["content-type"]) == (200, "application/json")
    revision = put.json["header"]["revision"]
    assert put.json["header"].keys() == {"cluster_id", "member_id", "revision", "raft_term"}
    found = ask(port, "/v3/kv/range", {"key": key}).json
    assert found["kvs"] == [
        {"key": key, "create_revision": revision, "mod_revision": revision, "version": "1",
         "value": b64("1")}
    ]  # fmt: skip
    assert found["count"] == "1"
    deleted = ask(port, "/v3/kv/deleterange", {"key": key, "prev_kv": True}).json
    assert (deleted["deleted"], deleted["prev_kvs"][0]["value"]) == ("1", b64("1"))
    assert ask(port, "/v3/kv/range", {"key": key}).json.keys() == {"header"}
    compacted = ask(port, "/v3/kv/compaction", {"revision": revision, "physical": True})
    assert compacted.json.keys() == {"header"}
    old = ask(port, "/v3/kv/range", {"key": key, "revision": int(revision) - 1})
    assert (old.status, old.json["code"]) == (400, 11)
    assert old.json["message"] == "etcdserver: mvcc: required revision has been compacted"


def test_transactions_compare_and_nest(port: int) -> None:
    """OTH-17: what Patroni sends: CREATE, MOD and VALUE compares without result, a nested txn."""
    key = b64("txn/leader")
    compare = {"key": key, "target": "CREATE", "create_revision": "0"}
    txn = {"compare": [compare], "success": [{"request_put": {"key": key, "value": b64("me")}}]}
    first = ask(port, "/v3/kv/txn", txn).json
    assert first["succeeded"] is True
    assert first["responses"] == [
        {"response_put": {"header": {"revision": first["header"]["revision"]}}}
    ]
    assert "succeeded" not in ask(port, "/v3/kv/txn", txn).json
    revision = first["header"]["revision"]
    nested = {
        "compare": [{"key": key, "target": "VALUE", "value": b64("other")}],
        "success": [],
        "failure": [
            {
                "request_txn": {
                    "compare": [{"key": key, "target": "MOD", "mod_revision": revision}],
                    "success": [{"request_delete_range": {"key": key}}],
                }
            }
        ],
    }
    inner = ask(port, "/v3/kv/txn", nested).json["responses"][0]["response_txn"]
    assert inner["succeeded"] is True
    assert inner["responses"][0]["response_delete_range"]["deleted"] == "1"


def test_leases_live_and_end(port: int) -> None:
    """HTP-09, HTP-11, OTH-17: grant, keepalive (TTL absent once lost), timetolive, both paths."""
    lease = ask(port, "/v3/lease/grant", {"TTL": 60, "ID": "0"}).json
    assert lease["TTL"] == "60"
    alive = ask(port, "/v3/lease/keepalive", {"ID": lease["ID"]})
    assert alive.json["result"]["TTL"] == "60"
    assert alive.body.endswith("}}\n")
    ask(port, "/v3/kv/put", {"key": b64("leased"), "lease": lease["ID"]})
    for path in ("/v3/lease/timetolive", "/v3/kv/lease/timetolive"):
        left = ask(port, path, {"ID": lease["ID"], "keys": True}).json
        assert (left["grantedTTL"], left["keys"]) == ("60", [b64("leased")])
    listed = ask(port, "/v3/kv/lease/leases", {}).json["leases"]
    assert {"ID": lease["ID"]} in listed
    assert ask(port, "/v3/kv/lease/revoke", {"ID": lease["ID"]}).status == 200
    assert "TTL" not in ask(port, "/v3/lease/keepalive", {"ID": lease["ID"]}).json["result"]
    gone = ask(port, "/v3/lease/revoke", {"ID": lease["ID"]})
    assert (gone.status, gone.json["code"]) == (404, 5)
    assert gone.json["message"] == "etcdserver: requested lease not found"


def test_a_watch_is_a_stream_of_lines(port: int) -> None:
    """HTP-11, OTH-18: created, then events from the start revision, DELETE by name, PUT by none."""
    key = b64("watched")
    put = ask(port, "/v3/kv/put", {"key": key, "value": b64("0")}).json
    revision = int(put["header"]["revision"])
    request = {"key": key, "start_revision": revision, "prev_kv": True}
    with LineStream(port, "/v3/watch", {"create_request": request}) as stream:
        assert stream.status == 200
        assert stream.result()["created"] is True
        (event,) = stream.result()["events"]
        assert event["kv"]["mod_revision"] == str(revision)
        assert "type" not in event
        ask(port, "/v3/kv/deleterange", {"key": key})
        (event,) = stream.result()["events"]
        assert event["type"] == "DELETE"
        assert event["kv"] == {"key": key, "mod_revision": str(revision + 1)}
        assert event["prev_kv"]["value"] == b64("0")


def test_one_body_creates_several_watches_and_cancels_one(port: int) -> None:
    """HTP-11: concatenated requests; a cancelled watch has its own line."""
    requests = [
        {"create_request": {"key": b64("many/1"), "watch_id": 1}},
        {"create_request": {"key": b64("many/2"), "watch_id": "2"}},
        {"cancel_request": {"watch_id": 1}},
    ]
    with LineStream(port, "/v3/watch", *requests) as stream:
        assert [stream.result()["watch_id"] for _ in range(2)] == ["1", "2"]
        assert stream.result()["canceled"] is True
        ask(port, "/v3/kv/put", {"key": b64("many/1")})
        ask(port, "/v3/kv/put", {"key": b64("many/2")})
        found = stream.result()
        assert (found["watch_id"], found["events"][0]["kv"]["key"]) == ("2", b64("many/2"))


def test_a_compacted_watch_ends_with_its_revision(port: int) -> None:
    """HTP-11: canceled, with the compaction's revision as a string."""
    for _ in range(3):
        put = ask(port, "/v3/kv/put", {"key": b64("compacted")}).json
    revision = put["header"]["revision"]
    ask(port, "/v3/kv/compaction", {"revision": revision})
    request = {"key": b64("compacted"), "start_revision": int(revision) - 1}
    with LineStream(port, "/v3/watch", {"create_request": request}) as stream:
        assert stream.result()["created"] is True
        found = stream.result()
    assert (found["canceled"], found["compact_revision"]) == (True, revision)


def _watch_streams(port: int) -> float:
    """How many watch calls are in flight."""
    metrics = ask(port, "/metrics").body
    started, ended = (
        sum(map(float, re.findall(rf"{name}{{[^}}]*Watch\"[^}}]*}} ([0-9.e+]+)", metrics)))
        for name in ("grpc_server_started_total", "grpc_server_handled_total")
    )
    return started - ended


def test_a_client_that_leaves_ends_its_watch(port: int) -> None:
    """HTP-11: without an event to send that would fail."""
    wait_until(lambda: _watch_streams(port) == 0, 20, "earlier tests' watches have ended")
    request = {"create_request": {"key": b64("silence")}}
    streams = [LineStream(port, "/v3/watch", request) for _ in range(20)]
    for stream in streams:
        stream.result()
    assert _watch_streams(port) == 20
    for stream in streams:
        stream.close()
    wait_until(lambda: _watch_streams(port) == 0, 20, "the watches have ended")


BINDINGS = (
    *("kv/range", "kv/put", "kv/deleterange", "kv/txn", "kv/compaction", "watch"),
    *("lease/grant", "lease/revoke", "lease/keepalive", "lease/timetolive", "lease/leases"),
    *("kv/lease/revoke", "kv/lease/timetolive", "kv/lease/leases"),
    *(f"cluster/member/{name}" for name in ("add", "remove", "update", "list", "promote")),
    *(f"maintenance/{name}" for name in ("alarm", "status", "defragment", "hash", "hashkv")),
    *(f"maintenance/{name}" for name in ("snapshot", "transfer-leadership", "downgrade")),
    *(f"auth/{name}" for name in ("enable", "disable", "status", "authenticate")),
    *(f"auth/user/{name}" for name in ("add", "get", "list", "delete", "changepw", "grant")),
    *(f"auth/role/{name}" for name in ("add", "get", "list", "delete", "grant", "revoke")),
    *("auth/user/revoke", "lock/lock", "lock/unlock"),
    *(f"election/{name}" for name in ("campaign", "proclaim", "leader", "observe", "resign")),
)


@OURS_ONLY
def test_every_binding_is_there_and_refuses_what_is_no_json(port: int) -> None:
    """HTP-09, HTP-12: 51 paths under both prefixes; none of them fails otherwise."""
    assert len(set(BINDINGS)) == 51
    for path in BINDINGS:
        for prefix in ("/v3", "/v3beta"):
            answer = ask(port, f"{prefix}/{path}", '{"x"')
            assert answer.status == 400, answer
            assert "message" in answer.body


@OURS_ONLY
def test_bodies_that_want_to_harm_are_refused_and_harm_nobody(port: int) -> None:
    """HTP-10, HTP-12: long, deep and huge; the next request is served."""
    mebibyte = 1 << 20
    for path in ("/v3/kv/txn", "/v3/watch"):
        for body, statuses in [
            (b"[" * mebibyte, {400}),
            (b'{"a":' * (mebibyte // 5), {400}),
            (b'{"compare":' + b"9" * mebibyte + b"}", {400}),
            (b'{"compare":[' + b"{}," * (mebibyte // 3), {400}),
            (b'{"success":"' + b"\\u0041" * (mebibyte // 6) + b'"]', {400}),
            (b'{"k":"' + b"A" * 5 * mebibyte + b'"}', {429}),
            (b'{"k":"' + b"A" * 16 * mebibyte + b'"}', {413, 429}),
            (bytes(mebibyte), {400}),
        ]:
            assert _posted(port, path, body) in statuses, body[:20]
            assert ask(port, "/v3/kv/put", {"key": b64("after")}).status == 200


def _posted(port: int, path: str, body: bytes) -> int:
    """Return the status of a request that need not be read to its end."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            plain.sendall(head.encode() + body)
        return int(plain.makefile("rb").readline().split()[1])


def test_the_cluster_is_listed_and_locked(port: int) -> None:
    """HTP-09: cluster, maintenance, lock and election."""
    members = ask(port, "/v3/cluster/member/list", {}).json["members"]
    assert [m["name"] for m in members] == ["m0"]
    status = ask(port, "/v3/maintenance/status", {}).json
    assert (status["leader"], int(status["dbSize"]) > 0) == (members[0]["ID"], True)
    lease = ask(port, "/v3/lease/grant", {"TTL": 60}).json["ID"]
    locked = ask(port, "/v3/lock/lock", {"name": b64("lock"), "lease": lease}).json
    assert base64.b64decode(locked["key"]).decode() == f"lock/{int(lease):x}"
    assert ask(port, "/v3/lock/unlock", {"key": locked["key"]}).status == 200
    campaign = {"name": b64("election"), "lease": lease, "value": b64("me")}
    leader = ask(port, "/v3/election/campaign", campaign).json["leader"]
    assert ask(port, "/v3/election/leader", {"name": b64("election")}).json["kv"]["lease"] == lease
    with LineStream(port, "/v3/election/observe", {"name": b64("election")}) as observed:
        assert observed.result()["kv"]["value"] == b64("me")
        ask(port, "/v3/election/proclaim", {"leader": leader, "value": b64("I")})
        assert observed.result()["kv"]["value"] == b64("I")
    assert ask(port, "/v3/election/resign", {"leader": leader}).status == 200
    ask(port, "/v3/lease/revoke", {"ID": lease})


def test_authentication_is_off(port: int) -> None:
    """AUT-03: status says so, disabling changes nothing, Authenticate tells the client to go on."""
    status = ask(port, "/v3/auth/status", {}).json
    assert (status.get("enabled"), status["authRevision"]) == (None, "1")
    assert ask(port, "/v3/auth/disable", {}).json.keys() == {"header"}
    answer = ask(port, "/v3/auth/authenticate", {"name": "root", "password": "x"})
    assert (answer.status, answer.json["code"]) == (400, 9)
    assert answer.json["message"] == "etcdserver: authentication is not enabled"
    if not reference_under_test():  # 3.5.1 looks at the token
        assert ask(port, "/v3/kv/put", {"key": b64("a")}, authorization="x").status == 200


@OURS_ONLY
@pytest.mark.parametrize("path", ["enable", "user/add", "user/list", "role/get", "role/grant"])
def test_what_needs_users_is_refused(port: int, path: str) -> None:
    """Nobody is left to think that the server is protected."""
    answer = ask(port, f"/v3/auth/{path}", {})
    assert (answer.status, answer.json["code"]) == (501, 12)
    assert "authentication is not implemented yet in this server" in answer.json["message"]


@OURS_ONLY
def test_etcdctl_sees_that_authentication_is_off(cluster: Cluster) -> None:
    """AUT-03: over gRPC too."""
    status = cluster.etcdctl("auth", "status")
    assert status.stdout.splitlines() == ["Authentication Status: false", "AuthRevision: 1"]
    assert cluster.etcdctl("auth", "disable").stdout == "Authentication Disabled\n"
    for command in (["user", "list"], ["role", "list"], ["user", "add", "a:b"], ["auth", "enable"]):
        refused = cluster.etcdctl(*command)
        assert refused.returncode != 0
        assert "authentication is not implemented yet in this server" in refused.stderr


def test_a_browser_may_read_every_answer(port: int) -> None:
    """HTP-14: CORS headers on all of them, and OPTIONS for every path."""
    for path, body in [("/v3/kv/range", {}), ("/health", None), ("/nowhere", None)]:
        assert ask(port, path, body).headers[CORS] == "*"
    answer = ask(port, "/v3/kv/range", method="OPTIONS", origin="http://page:80")
    assert (answer.status, answer.body, answer.headers[CORS]) == (200, "", "*")


# -- health, version, metrics -------------------------------------------------------------------


def test_a_healthy_member_is_healthy_on_both_ports(port: int, metrics_port: int) -> None:
    """HTP-01, HTP-05: client port and metrics port."""
    for where in (port, metrics_port):
        answer = ask(where, "/health")
        assert (answer.status, answer.body) == (200, '{"health":"true","reason":""}')
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert ask(where, "/health?serializable=true").status == 200
        assert ask(where, "/health", "").status == 405
        metrics = ask(where, "/metrics")
        assert (metrics.status, "etcd_server_has_leader 1" in metrics.body) == (200, True)


def test_an_alarm_makes_a_member_unhealthy(port: int, alarms: Any) -> None:
    """HTP-02: any alarm, unless it is excluded, also when asked for this member alone."""
    alarms("ACTIVATE", "NOSPACE")
    for path in ("/health", "/health?exclude=CORRUPT", "/health?serializable=true"):
        answer = ask(port, path)
        assert (answer.status, answer.body) == (
            503,
            '{"health":"false","reason":"ALARM NOSPACE"}\n',
        )
    assert ask(port, "/health?exclude=NOSPACE").status == 200
    if reference_under_test():
        return
    alarms("ACTIVATE", "CORRUPT")
    assert ask(port, "/health?exclude=NOSPACE").json["reason"] == "ALARM CORRUPT"
    assert ask(port, "/health?exclude=NOSPACE&exclude=CORRUPT").status == 200


@OURS_ONLY
def test_a_member_is_alive_and_ready(port: int, metrics_port: int) -> None:
    """HTP-03, HTP-04, HTP-05: the checks of each, on both ports."""
    for where in (port, metrics_port):
        assert ask(where, "/livez?verbose").body == "[+]serializable_read ok\nok\n"
        verbose = ask(where, "/readyz?verbose")
        assert (verbose.status, verbose.headers["x-content-type-options"]) == (200, "nosniff")
        names = ("data_corruption", "serializable_read", "linearizable_read", "non_learner")
        assert verbose.body == "".join(f"[+]{name} ok\n" for name in names) + "ok\n"
        for name in names:
            assert ask(where, f"/readyz/{name}").body == "ok\n"
        assert ask(where, "/livez/linearizable_read").status == 404


@OURS_ONLY
def test_corruption_makes_a_member_unready_and_no_space_does_not(port: int, alarms: Any) -> None:
    """HTP-03: the CORRUPT alarm fails one check; /livez does not look at it."""
    alarms("ACTIVATE", "NOSPACE")
    assert ask(port, "/readyz").body == "ok\n"
    alarms("ACTIVATE", "CORRUPT")
    answer = ask(port, "/readyz")
    assert answer.status == 503
    assert answer.body.startswith("[-]data_corruption failed: alarm activated: CORRUPT\n[+]")
    assert ask(port, "/readyz?exclude=data_corruption").status == 200
    assert ask(port, "/livez").status == 200


@OURS_ONLY
def test_checks_are_counted(port: int) -> None:
    """etcd's names, with probe, check and result as labels."""
    ask(port, "/readyz/non_learner")
    ask(port, "/health")
    metrics = ask(port, "/metrics").body
    labels = 'type="readyz",name="non_learner"'
    assert re.search(rf"^etcd_server_healthcheck{{{labels}}} 1", metrics, re.M)
    labels += ',status="success"'
    assert re.search(rf"^etcd_server_healthchecks_total{{{labels}}} [1-9]", metrics, re.M)
    assert re.search(r"^etcd_server_health_success [1-9]", metrics, re.M)


def test_the_version_is_numbers_with_dots(port: int, metrics_port: int) -> None:
    """HTP-06, OTH-20: Patroni parses them as integers; 3.6 adds the storage version."""
    answer = ask(port, "/version")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert list(answer.json)[:2] == ["etcdserver", "etcdcluster"]
    for version in answer.json.values():
        assert tuple(int(part) for part in version.split(".")) >= (3, 4)
    assert ask(port, "/version", "").headers["allow"] == "GET"
    assert ask(metrics_port, "/version").status == 404


def test_variables_say_where_raft_stands(port: int) -> None:
    """/debug/vars in the form of Go's expvar."""
    answer = ask(port, "/debug/vars")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    raft = answer.json["raft.status"]
    assert (raft["raftState"], raft["lead"]) == ("StateLeader", raft["id"])
    assert raft["progress"][raft["id"]]["match"] >= raft["applied"] > 0
    assert answer.json["file_descriptor_limit"] > 0
    assert answer.json["cmdline"]


@pytest.mark.parametrize("path", ["/", "/v2/keys/a", "/debug/pprof/", "/readyz/nothing", "/v4/kv"])
def test_other_paths_are_not_found(port: int, path: str) -> None:
    """HTP-04: plain text, as Go's server says it."""
    answer = ask(port, path)
    assert (answer.status, answer.body) == (404, "404 page not found\n")


# -- flags --------------------------------------------------------------------------------------


@OURS_ONLY
def test_a_member_that_has_no_leader_yet_can_be_probed(tmp_path: Path) -> None:
    """HTP-05, HTP-08: the metrics port answers from the start, the client port only later."""
    (metrics,) = free_ports(1)
    flags = [f"--listen-metrics-urls=http://127.0.0.1:{metrics}"]
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start(0)

        def probed() -> Answer | None:
            try:
                return ask(metrics, "/health")
            except OSError:
                return None

        answer = wait_until(probed, 30, "the metrics port answers")
        assert (answer.status, answer.json["reason"]) == (503, "RAFT NO LEADER")
        assert ask(metrics, "/health?serializable=true").status == 200
        assert ask(metrics, "/livez").status == 200
        assert ask(metrics, "/readyz?exclude=linearizable_read").status == 200
        with socket.create_connection(("127.0.0.1", cluster.members[0].client_port)) as early:
            early.settimeout(0.5)
            early.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises(TimeoutError):
                early.recv(1)


@OURS_ONLY
def test_http_can_have_ports_of_its_own(tmp_path: Path) -> None:
    """--listen-client-http-urls moves HTTP there; client URLs then serve gRPC alone."""
    (http_port,) = free_ports(1)
    flags = [
        f"--listen-client-http-urls=http://127.0.0.1:{http_port}",
        "--cors=http://page:80",
        "--host-whitelist=127.0.0.1,etcd.example",
    ]
    with Cluster(1, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        client_port = cluster.members[0].client_port
        put = ask(http_port, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        assert put.status == 200
        assert cluster.client(0).get(b"a").kvs[0].value == b"1"
        assert ask(http_port, "/health").status == 200
        with socket.create_connection(("127.0.0.1", client_port), timeout=10) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            received = b"".join(iter(lambda: plain.recv(4096), b""))
        assert b"HTTP/1.1 200" not in received
        client = RawClient(client_port)
        for path in ("/health", "/v3/kv/range"):
            assert client.call(path, b"{}", content_type=None, te=None).http_status == 415
        client.close()
        _check_access(http_port)


def _check_access(port: int) -> None:
    """HTP-14 on a port with ``--cors`` and ``--host-whitelist``."""
    assert ask(port, "/health", origin="http://page:80").headers[CORS] == "http://page:80"
    other = ask(port, "/health", origin="http://other:80")
    assert (other.status, CORS in other.headers) == (200, False)
    assert ask(port, "/health", host="etcd.example:1").status == 200
    refused = ask(port, "/v3/kv/range", {}, host="evil.example:1")
    assert refused.status == 421
    assert "evil.example" in refused.body
    assert "--host-whitelist" in refused.body


def test_the_gateway_can_be_switched_off(tmp_path: Path) -> None:
    """--enable-grpc-gateway=false: its paths are not found, the rest stays."""
    with Cluster(1, tmp_path, extra_flags=["--enable-grpc-gateway=false"]) as cluster:
        cluster.start_all()
        port = cluster.members[0].client_port
        answer = ask(port, "/v3/kv/range", {})
        assert (answer.status, answer.body) == (404, "404 page not found\n")
        assert ask(port, "/health").status == 200


@OURS_ONLY
@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--enable-pprof"], "flag --enable-pprof is refused"),
        (
            ["--listen-client-http-urls=http://127.0.0.1:2379",
             "--listen-client-urls=http://127.0.0.1:2379",
             "--advertise-client-urls=http://127.0.0.1:2379"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url",
        ),
        (["--listen-metrics-urls=https://127.0.0.1:1"], "-metrics-urls: cannot listen on TLS"),
        (["--listen-metrics-urls=http://nowhere:1"], "--listen-metrics-urls: expected IP"),
        (["--listen-client-http-urls=unix://"], "-http-urls: a unix socket needs a path"),
        (["--cors=page"], "URL scheme must be http"),
    ],
)  # fmt: skip
def test_bad_flags_are_named(tmp_path: Path, flags: list[str], why: str) -> None:
    """A member that cannot do what a flag says does not start."""
    done = subprocess.run(
        [*OUR_PROGRAM, f"--data-dir={tmp_path}/d", *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert why in done.stdout + done.stderr


def test_a_taken_metrics_port_is_named(tmp_path: Path) -> None:
    """The address stands in the error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [f"--listen-metrics-urls=http://127.0.0.1:{port}"]
        with Cluster(1, tmp_path, extra_flags=flags) as cluster:
            cluster.start(0)
            assert cluster.wait_exit(0) != 0
            assert str(port) in cluster.members[0].log_tail()
