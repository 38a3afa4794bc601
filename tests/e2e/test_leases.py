"""The Lease service over the wire, through a follower as well as the leader."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.client import Client, prefix_end, put_op
from tests.e2e.cluster import Cluster, wait_until

PATIENCE_S = 60
MIN_TTL_S = 2
MAX_TTL_S = 9_000_000_000


@pytest.fixture(params=["leader", "follower"])
def client(cluster: Cluster, request: pytest.FixtureRequest) -> Client:
    """A client of the leader, and of a member that has to ask it."""
    i = cluster.leader() if request.param == "leader" else cluster.followers()[0]
    return cluster.client(i)


def refused(code: grpc.StatusCode, text: str, call: object) -> None:
    assert callable(call)
    with pytest.raises(grpc.RpcError, match=text) as raised:
        call()
    assert raised.value.code() == code


def test_ids_are_picked_or_used_as_given(client: Client) -> None:
    """LSE-01, LSE-02: positive ones are picked, any other but 0 is taken, none twice."""
    picked = client.grant(100).ID
    assert 0 < picked < 1 << 63
    given = -(picked // 3)
    assert given == client.grant(100, given).ID
    refused(
        grpc.StatusCode.FAILED_PRECONDITION, "lease already exists", lambda: client.grant(9, given)
    )
    for lease_id in (picked, given):
        client.revoke(lease_id)


def test_short_ttls_are_raised_and_the_longest_is_the_longest(client: Client) -> None:
    """LSE-02, LSE-03: the answer tells the effective TTL."""
    for asked in (1, 0, -5):
        granted = client.grant(asked)
        assert (granted.TTL, granted.error) == (MIN_TTL_S, "")
        client.revoke(granted.ID)
    longest = client.grant(MAX_TTL_S)
    assert longest.TTL == MAX_TTL_S
    client.revoke(longest.ID)
    refused(
        grpc.StatusCode.OUT_OF_RANGE, "too large lease TTL", lambda: client.grant(MAX_TTL_S + 1)
    )


def test_only_a_revocation_with_keys_makes_a_revision(client: Client) -> None:
    """LSE-04, LSE-12: grants, renewals and questions change nothing."""
    before = client.get(b"x").header.revision
    lease = client.grant(100).ID
    assert client.keep_alive_once(lease).header.revision == before
    assert client.time_to_live(lease).header.revision == before
    assert client.revoke(lease).header.revision == before
    lease = client.grant(100).ID
    client.put(b"rev/key", b"", lease=lease)
    assert client.revoke(lease).header.revision == before + 2


def test_each_request_of_a_stream_is_answered_in_order_and_its_end_is_ok(client: Client) -> None:
    """LSE-05, LSE-06, LSE-15: a lease that is gone is TTL 0, and the stream goes on."""
    leases = [client.grant(100 + i).ID for i in range(3)]
    asked = [leases[0], 987654321, leases[2], leases[1], leases[0]]
    call = client._keep_alive(
        iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease) for lease in asked]), timeout=30
    )
    answers = [(answer.ID, answer.TTL) for answer in call]
    assert answers == list(zip(asked, [100, 0, 102, 101, 100], strict=True))
    assert call.code() == grpc.StatusCode.OK
    for lease in leases:
        client.revoke(lease)


def test_a_renewal_never_shows_a_revision_at_which_the_lease_was_gone(client: Client) -> None:
    """LSE-07: renewals race with the revocation; those that succeed are from before it."""
    for _ in range(5):
        lease = client.grant(100).ID
        client.put(b"raced", b"", lease=lease)
        answers: list[tuple[int, int]] = []
        started = threading.Event()

        def renew(
            lease: int = lease,
            answers: list[tuple[int, int]] = answers,
            started: threading.Event = started,
        ) -> None:
            ttl = 1
            while ttl > 0:
                answer = client.keep_alive_once(lease)
                ttl = answer.TTL
                answers.append((ttl, answer.header.revision))
                started.set()

        renewing = threading.Thread(target=renew)
        renewing.start()
        assert started.wait(PATIENCE_S)
        gone = client.revoke(lease).header.revision
        renewing.join(PATIENCE_S)
        assert not renewing.is_alive()
        assert len(answers) > 1
        assert all(revision < gone for ttl, revision in answers if ttl > 0)


def test_a_lease_is_renewed_and_asked_about_through_any_member(cluster: Cluster) -> None:
    """LSE-08, LSE-16: the leader answers, whoever is asked."""
    lease = cluster.client(0).grant(100).ID
    for i in range(3):
        assert cluster.client(i).keep_alive_once(lease).TTL == 100
        asked = cluster.client(i).time_to_live(lease)
        assert (asked.ID, asked.grantedTTL) == (lease, 100)
        assert 90 < asked.TTL <= 100
    cluster.client(0).revoke(lease)


def test_questions_tell_keys_only_if_asked_and_minus_one_if_there_is_no_lease(
    client: Client,
) -> None:
    """LSE-16, LSE-17."""
    lease = client.grant(100).ID
    for key in (b"asked/1", b"asked/2"):
        client.put(key, b"", lease=lease)
    assert list(client.time_to_live(lease).keys) == []
    assert sorted(client.time_to_live(lease, keys=True).keys) == [b"asked/1", b"asked/2"]
    client.revoke(lease)
    gone = client.time_to_live(lease, keys=True)
    assert (gone.ID, gone.TTL, gone.grantedTTL, list(gone.keys)) == (lease, -1, 0, [])


def test_a_question_outlives_a_change_of_leader(cluster: Cluster) -> None:
    """LSE-18: it is asked again of the new leader, or ends Unavailable; it never lies."""
    asker = cluster.client(cluster.followers()[0])
    lease = asker.grant(1000).ID
    done = threading.Event()
    failures: list[str] = []

    def ask() -> None:
        while not done.is_set():
            try:
                answer = asker.time_to_live(lease)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    failures.append(str(error))
                continue
            if answer.grantedTTL != 1000 or not 900 < answer.TTL <= 1001:
                failures.append(str(answer))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            leader = cluster.leader()
            target = cluster.client((leader + 1) % 3).status().header.member_id
            cluster.client(leader).move_leader(target)
    finally:
        done.set()
        asking.join(PATIENCE_S)
    assert failures == []
    asker.revoke(lease)


def test_leases_are_listed_by_id_and_on_the_leader_soonest_first(cluster: Cluster) -> None:
    """LSE-19: from local state."""
    leader = cluster.client(cluster.leader())
    ids = [leader.grant(ttl).ID for ttl in (3000, 1000, 2000)]
    request = rpc_pb2.LeaseLeasesRequest()

    def listed(client: Client) -> list[int]:
        answer = client.call("Lease/LeaseLeases", request)
        return [lease.ID for lease in answer.leases if lease.ID in ids]

    assert listed(leader) == [ids[1], ids[2], ids[0]]
    follower = cluster.client(cluster.followers()[0])
    wait_until(lambda: sorted(listed(follower)) == sorted(ids), PATIENCE_S, "the grants are there")
    for lease in ids:
        leader.revoke(lease)


def test_a_revocation_takes_its_keys_and_no_others_in_one_revision(client: Client) -> None:
    """LSE-12, LSE-13, LSE-14: in ascending order; keys that moved on stay."""
    lease, other = client.grant(100).ID, client.grant(100).ID
    for name in (b"c", b"a", b"moved", b"freed", b"b"):
        client.put(b"bound/" + name, b"", lease=lease)
    client.put(b"bound/moved", b"", lease=other)
    client.put(b"bound/freed", b"")
    revision = client.revoke(lease).header.revision
    create = rpc_pb2.WatchCreateRequest(
        key=b"bound/", range_end=prefix_end(b"bound/"), start_revision=revision
    )
    call = client._watch(iter([rpc_pb2.WatchRequest(create_request=create)]))
    assert next(call).created
    events = next(call).events
    call.cancel()
    assert [event.kv.key for event in events] == [b"bound/a", b"bound/b", b"bound/c"]
    assert {event.kv.mod_revision for event in events} == {revision}
    assert [kv.key for kv in client.prefix(b"bound/").kvs] == [b"bound/freed", b"bound/moved"]
    refused(grpc.StatusCode.NOT_FOUND, "lease not found", lambda: client.revoke(lease))
    client.revoke(other)


def test_writes_with_a_lease_that_is_not_there_fail_and_change_nothing(client: Client) -> None:
    """LSE-25: in a transaction only on the path taken, and then all of it."""
    before = client.get(b"x").header.revision
    missing = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"with", lease=4242))
    not_found, text = grpc.StatusCode.NOT_FOUND, "lease not found"
    refused(not_found, text, lambda: client.put(b"with", b"", lease=4242))
    refused(not_found, text, lambda: client.txn(success=[put_op(b"other", b""), missing]))
    assert client.get(b"other").header.revision == before
    assert client.txn(success=[put_op(b"other", b"")], failure=[missing]).succeeded


def test_a_lease_that_nobody_renews_takes_its_keys_with_it_and_not_early(client: Client) -> None:
    """LSE-20, LSE-06, KUB-26: renewed once it lives its TTL from then on."""
    lease = client.grant(MIN_TTL_S).ID
    client.put(b"expiring", b"", lease=lease)
    asked_at = time.monotonic()
    assert client.keep_alive_once(lease).TTL == MIN_TTL_S
    wait_until(lambda: not client.get(b"expiring").kvs, PATIENCE_S, "the key goes with the lease")
    assert time.monotonic() - asked_at >= MIN_TTL_S
    assert client.keep_alive_once(lease).TTL == 0
    refused(
        grpc.StatusCode.NOT_FOUND, "lease not found", lambda: client.put(b"late", b"", lease=lease)
    )


def test_leases_and_their_keys_survive_a_restart_of_all(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """LSE-01, LSE-21, LSE-23: ids, TTLs and attachments are there, with a full TTL at least."""
    with Cluster(3, tmp_path_factory.mktemp("leases")) as cluster:
        cluster.start_all()
        client = cluster.client(0)
        client.grant(100, -77)
        client.put(b"kept", b"", lease=-77)
        cluster.kill_all()
        cluster.start_all()
        asked = wait_until(lambda: _asked(client, -77), PATIENCE_S, "a leader answers")
        assert asked.grantedTTL == 100
        assert list(asked.keys) == [b"kept"]
        assert asked.TTL > 90
        client.revoke(-77)
        assert not client.get(b"kept").kvs


def _asked(client: Client, lease: int) -> rpc_pb2.LeaseTimeToLiveResponse | None:
    try:
        answer: rpc_pb2.LeaseTimeToLiveResponse = client.time_to_live(lease, keys=True)
    except grpc.RpcError:
        return None
    return answer
