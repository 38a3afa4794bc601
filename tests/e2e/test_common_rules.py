"""What holds for every call: headers, error texts, metadata, and what one port serves.

All but the leaderless tests share one cluster. The same tests run against etcd.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.client import Client, prefix_end, put_op
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.locks import Locks, status_of

pb = rpc_pb2
SECONDS = 60.0
CODE = grpc.StatusCode
LEADER = (("hasleader", "true"),)


def ask(client: Client, path: str, request: Any, answer: Any, **more: Any) -> Any:
    """Call any unary method, with metadata if wanted."""
    call = client.channel.unary_unary(
        path,
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    return call(request, timeout=SECONDS, **more)


def watch_answer(client: Client) -> Any:
    """The reply that says that a watch was created."""
    create = pb.WatchCreateRequest(key=b"rules/watch")
    call = client._watch(iter([pb.WatchRequest(create_request=create)]))
    answer = next(call)
    call.cancel()
    return answer


# -- headers ---------------------------------------------------------------------------------------


def with_headers(client: Client) -> dict[str, Any]:
    """One answer of each method that has a header, by method."""
    lease = client.grant(60).ID
    revision = client.put(b"rules/key", b"x").header.revision
    service = "/etcdserverpb."
    hash_answer = ask(client, service + "Maintenance/Hash", pb.HashRequest(), pb.HashResponse)
    answers = {
        "Range": client.get(b"rules/key"),
        "Range, serializable": client.get(b"rules/key", serializable=True),
        "Put": client.put(b"rules/key", b"x"),
        "DeleteRange": client.delete(b"rules/nothing"),
        "Txn": client.txn([], [put_op(b"rules/txn", b"x")]),
        "Txn, read-only": client.txn([], []),
        "Compact": client.compact(revision),
        "LeaseGrant": client.grant(60),
        "LeaseKeepAlive": client.keep_alive_once(lease),
        "LeaseTimeToLive": client.time_to_live(lease),
        "LeaseLeases": client.call("Lease/LeaseLeases", pb.LeaseLeasesRequest()),
        "LeaseRevoke": client.revoke(lease),
        "Watch": watch_answer(client),
        "MemberList": client.member_list(),
        "Status": client.status(),
        "Alarm": client.call("Maintenance/Alarm", pb.AlarmRequest()),
        "Hash": hash_answer,
        "HashKV": client.hash_kv(),
        "AuthStatus": ask(
            client, service + "Auth/AuthStatus", pb.AuthStatusRequest(), pb.AuthStatusResponse
        ),
    }
    locks = Locks(client)
    held = locks.lock(b"rules/lock").result()
    seat = locks.campaign(b"rules/election", b"x").result()
    answers["Lock"], answers["Campaign"] = held, seat
    answers["Leader"] = locks.leader(b"rules/election").result()
    answers["Proclaim"] = locks.proclaim(b"y", seat.leader).result()
    answers["Resign"] = locks.resign(seat.leader).result()
    answers["Unlock"] = locks.unlock(held.key).result()
    return answers


def test_every_header_names_the_cluster_and_the_member_that_answers(cluster: Cluster) -> None:
    """GEN-01, GEN-02: constant, not zero; and the term that the cluster has applied."""
    members = {m.name: m.ID for m in cluster.client(0).member_list().members}
    seen = set()
    for i in range(3):
        for method, answer in with_headers(cluster.client(i)).items():
            assert answer.header.member_id == members[f"m{i}"], method
            assert answer.header.raft_term > 0, method
            seen.add((answer.header.cluster_id, answer.header.raft_term))
    assert len(seen) == 1
    assert all(cluster_id for cluster_id, _ in seen)


def test_the_revision_in_the_header_is_that_of_the_call(cluster: Cluster) -> None:
    """GEN-04, GEN-06: what changed nothing shows the current one, and it is never a later one."""
    client = cluster.client(0)
    before = client.put(b"rules/rev", b"1").header.revision
    assert client.get(b"rules/rev", revision=before).header.revision == before
    put = client.put(b"rules/rev", b"2")
    assert put.header.revision == client.get(b"rules/rev").kvs[0].mod_revision == before + 1
    assert client.get(b"rules/rev", revision=before).header.revision == before + 1
    lease = client.grant(60)
    client.put(b"rules/leased", b"", lease=lease.ID)
    unchanged = [
        client.delete(b"rules/nothing"),
        client.txn([], []),
        client.txn([], [rpc_pb2.RequestOp(request_range=pb.RangeRequest(key=b"a"))]),
        client.compact(before),
        client.grant(60),
        client.status(),
        client.hash_kv(),
        client.call("Maintenance/Alarm", pb.AlarmRequest()),
    ]
    assert {answer.header.revision for answer in unchanged} == {before + 2}
    assert client.revoke(lease.ID).header.revision == before + 3
    assert client.delete(b"rules/rev").header.revision == before + 4


def test_cluster_replies_show_no_revision(cluster: Cluster) -> None:
    """GEN-05: refused changes of members have none either."""
    for i in range(3):
        answer = cluster.client(i).member_list()
        assert (answer.header.revision, answer.header.member_id > 0) == (0, True)


def test_replies_without_a_header(cluster: Cluster) -> None:
    """GEN-05: MoveLeader (here to the leader itself) has no field at all."""
    leader = cluster.client(cluster.leader())
    target = leader.status().header.member_id
    request = pb.MoveLeaderRequest(targetID=target)
    body = leader.raw_unary("/etcdserverpb.Maintenance/MoveLeader", request.SerializeToString())
    assert pb.MoveLeaderResponse.FromString(body).HasField("header") is False


def test_a_header_never_claims_more_than_the_answer_shows(cluster: Cluster) -> None:
    """GEN-06: reading again at the header's revision gives the same, whatever was written since."""
    stop = threading.Event()

    def write(i: int) -> None:
        client = Client(cluster.endpoints[i])
        n = 0
        while not stop.is_set():
            n += 1
            client.put(b"claims/%d/%d" % (i, n % 50), b"%d" % n)
        client.close()

    writers = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for writer in writers:
        writer.start()
    try:
        for number in range(60):
            client = cluster.client(number % 3)
            fields: dict[str, Any] = {"range_end": prefix_end(b"claims/")}
            answer = client.get(b"claims/", serializable=number % 2 == 0, **fields)
            again = client.get(b"claims/", revision=answer.header.revision, **fields)
            assert again.kvs == answer.kvs
    finally:
        stop.set()
        for writer in writers:
            writer.join()


# -- errors ----------------------------------------------------------------------------------------


def errors(client: Client) -> Iterator[tuple[Callable[[], Any], grpc.StatusCode, str]]:
    """Calls that fail, with the code and the text that Go clients compare."""
    get, put = client.get, client.put
    future, huge = 2**62, 9_000_000_001
    yield lambda: get(b""), CODE.INVALID_ARGUMENT, "key is not provided"
    if not reference_under_test():  # etcd 3.5 takes it for no order
        yield lambda: get(b"a", sort_order=9), CODE.INVALID_ARGUMENT, "invalid sort option"
    text = "mvcc: required revision is a future revision"
    yield lambda: get(b"a", revision=future), CODE.OUT_OF_RANGE, text
    yield lambda: client.compact(future), CODE.OUT_OF_RANGE, text
    text = "mvcc: required revision has been compacted"
    yield lambda: get(b"a", revision=1), CODE.OUT_OF_RANGE, text
    yield lambda: client.compact(1), CODE.OUT_OF_RANGE, text
    text = "value is provided"
    yield lambda: put(b"a", b"x", ignore_value=True), CODE.INVALID_ARGUMENT, text
    text = "lease is provided"
    yield lambda: put(b"a", lease=1, ignore_lease=True), CODE.INVALID_ARGUMENT, text
    text = "key not found"
    yield lambda: put(b"no", ignore_value=True), CODE.INVALID_ARGUMENT, text
    yield lambda: client.txn([], [pb.RequestOp()]), CODE.INVALID_ARGUMENT, text
    text = "requested lease not found"
    yield lambda: put(b"a", lease=404), CODE.NOT_FOUND, text
    yield lambda: client.revoke(404), CODE.NOT_FOUND, text
    yield lambda: client.grant(huge), CODE.OUT_OF_RANGE, "too large lease TTL"
    yield lambda: client.grant(60, 77), CODE.FAILED_PRECONDITION, "lease already exists"
    twice = [put_op(b"a", b""), put_op(b"a", b"")]
    text = "duplicate key given in txn request"
    yield lambda: client.txn([], twice), CODE.INVALID_ARGUMENT, text
    many = [put_op(b"%d" % n, b"") for n in range(129)]
    text = "too many operations in txn request"
    yield lambda: client.txn([], many), CODE.INVALID_ARGUMENT, text
    yield lambda: put(b"a", b"x" * 1_572_864), CODE.INVALID_ARGUMENT, "request is too large"


def test_error_texts_are_etcds_to_the_letter(cluster: Cluster) -> None:
    """GEN-07, GEN-16: on every member; clients tell errors by the whole text and the code."""
    cluster.client(0).grant(60, 77)
    cluster.client(0).compact(cluster.client(0).put(b"a", b"").header.revision)
    for i in range(3):
        cluster.client(i).get(b"a")
        for call, code, text in errors(cluster.client(i)):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: Any = caught.value
            assert (error.code(), error.details()) == (code, "etcdserver: " + text)
    cluster.client(0).revoke(77)


# -- metadata and services -------------------------------------------------------------------------


def test_metadata_that_is_not_known_is_ignored(cluster: Cluster) -> None:
    """GEN-14: kube-apiserver sends ``source: cache``; any client-api-version will do."""
    metadata = (("source", "cache"), ("client-api-version", "99.x"), ("x-bin", b"\xff\0"), *LEADER)
    for i in range(3):
        answer = ask(
            cluster.client(i),
            "/etcdserverpb.KV/Range",
            pb.RangeRequest(key=b"a"),
            pb.RangeResponse,
            metadata=metadata,
        )
        assert answer.header.revision > 0


SERVICES = {
    "etcdserverpb.KV": ["Range", "Put", "DeleteRange", "Txn", "Compact"],
    "etcdserverpb.Watch": ["Watch"],
    "etcdserverpb.Lease": [
        "LeaseGrant",
        "LeaseRevoke",
        "LeaseKeepAlive",
        "LeaseTimeToLive",
        "LeaseLeases",
    ],
    "etcdserverpb.Cluster": ["MemberList"],
    "etcdserverpb.Maintenance": [
        "Alarm",
        "Status",
        "Defragment",
        "Hash",
        "HashKV",
        "Snapshot",
        "MoveLeader",
        "Downgrade",
    ],
    "etcdserverpb.Auth": ["AuthStatus"],
    "v3electionpb.Election": ["Campaign", "Proclaim", "Leader", "Observe", "Resign"],
    "v3lockpb.Lock": ["Lock", "Unlock"],
    "grpc.health.v1.Health": ["Check", "Watch"],
}


def test_one_port_serves_every_service_and_http(cluster: Cluster) -> None:
    """GEN-21: each method is there (it refuses a message that is none), HTTP/1.1 beside it."""
    client = cluster.client(0)
    for service, methods in SERVICES.items():
        for method in methods:
            call = client.channel.unary_unary(f"/{service}/{method}")
            code, text = status_of(call.future(b"\x0a\x7fx", timeout=SECONDS))
            assert code is CODE.INTERNAL, (service, method, text)
    for path in ("/version", "/health"):
        with urllib.request.urlopen(f"http://{cluster.endpoints[0]}{path}", timeout=SECONDS) as got:
            assert json.loads(got.read())
    with urllib.request.urlopen(f"http://{cluster.endpoints[0]}/metrics", timeout=SECONDS) as got:
        assert b"etcd_server_has_leader 1" in got.read()


def test_what_is_not_known_is_ignored_or_unimplemented(cluster: Cluster) -> None:
    """GEN-22: fields of later versions do no harm; methods are probed for by this code."""
    later = b"\xfa\x3f\x03abc"  # field 1023
    range_request = pb.RangeRequest(key=b"a").SerializeToString() + later
    body = cluster.client(0).raw_unary("/etcdserverpb.KV/Range", range_request)
    assert pb.RangeResponse.FromString(body).header.revision > 0
    for path in ("/etcdserverpb.KV/NoSuchMethod", "/etcdserverpb.NoSuchService/Range"):
        call = cluster.client(0).channel.unary_unary(path)
        assert status_of(call.future(b"", timeout=SECONDS))[0] is CODE.UNIMPLEMENTED


# -- without a leader ------------------------------------------------------------------------------


def test_without_a_leader_who_asks_for_one_is_told(tmp_path: Path) -> None:
    """GEN-02, GEN-12, GEN-13: at once for new calls, soon for open streams; others stay open. The
    term in headers is the applied one, whatever the candidate's is."""
    flags = ["--pre-vote=false"]
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        alone, *others = range(3)
        client = cluster.client(alone)
        client.put(b"k", b"v")
        create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k"))
        demanding = client._watch(iter([create]), metadata=LEADER)
        patient = client._watch(iter([create]))
        assert next(demanding).created
        assert next(patient).created
        before = client.status()
        for i in others:
            cluster.kill(i)

        refused = (CODE.UNAVAILABLE, "etcdserver: no leader")
        with pytest.raises(grpc.RpcError) as ended:
            next(demanding)
        error: Any = ended.value
        assert (error.code(), error.details()) == refused
        for path, request in {
            "KV/Range": pb.RangeRequest(key=b"k", serializable=True),
            "KV/Put": pb.PutRequest(key=b"k"),
            "Lease/LeaseGrant": pb.LeaseGrantRequest(TTL=60),
            "Maintenance/Status": pb.StatusRequest(),
            "Cluster/MemberList": pb.MemberListRequest(),
        }.items():
            call = client.channel.unary_unary(f"/etcdserverpb.{path}")
            body = request.SerializeToString()
            assert status_of(call.future(body, timeout=SECONDS, metadata=LEADER)) == refused
        stream = client._watch(iter([create]), metadata=LEADER)
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        error = ended.value
        assert (error.code(), error.details()) == refused

        log = cluster.members[alone].log_path
        wait_until(lambda: _candidate_term(log) > before.raftTerm, SECONDS, "a campaign")
        local = client.get(b"k", serializable=True)
        assert local.header.raft_term == before.raftTerm
        assert client.status().raftTerm == client.status().header.raft_term == before.raftTerm
        assert client.status().leader == 0
        assert client.status().errors[0] == "etcdserver: no leader"

        terms = [before.raftTerm]
        cluster.start(others[0])
        wait_until(lambda: _leads(client, terms), SECONDS, "a leader")
        client.put(b"k", b"after", timeout=SECONDS)
        event = next(patient)
        assert event.events[0].kv.value == b"after", "the stream without the wish stayed open"
        terms.append(client.get(b"k").header.raft_term)
        assert terms == sorted(terms)
        assert terms[-1] > before.raftTerm
        patient.cancel()


def _leads(client: Client, terms: list[int]) -> bool:
    """Ask for the leader, and keep the terms that are shown on the way."""
    status = client.status()
    terms.append(status.header.raft_term)
    return bool(status.leader)


def _candidate_term(log: Path) -> int:
    """The highest term in which the member stood for election, as its log has it."""
    terms = [0]
    for line in log.read_text(errors="replace").splitlines():
        if "candidate" in line:
            terms += [int(term) for term in re.findall(r"term\D{1,3}(\d+)", line)]
    return max(terms)
