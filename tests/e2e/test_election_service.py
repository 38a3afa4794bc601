"""The Election service with several clients on three members: seats, proclamations, observers.

The same tests run against etcd (``E2E_PROGRAM=etcd``); each uses an election of its own name.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
import pytest

from kvstore.pb import election_pb2
from tests.e2e.client import Client
from tests.e2e.cluster import Cluster, reference_under_test
from tests.e2e.locks import WAIT_SECONDS, Locks, line, status_of, wait_for_line

UNKNOWN = grpc.StatusCode.UNKNOWN
NOT_LEADER = (UNKNOWN, "election: not leader")
NO_LEADER = (UNKNOWN, "election: no leader")
MISSING = (UNKNOWN, '"leader" field must be provided')
LONG_TTL = 600


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return cluster.client(0)


@pytest.fixture
def members(cluster: Cluster) -> list[Locks]:
    """The services of each member."""
    return [Locks(cluster.client(i)) for i in range(3)]


def seated(client: Client, member: Locks, name: bytes, value: bytes) -> Any:
    """The LeaderKey of a leader whose lease outlives any test."""
    return member.campaign(name, value, client.grant(LONG_TTL).ID).result().leader


class Observer:
    """Collects what Observe says, in a thread of its own; ended when the context is left."""

    def __init__(self, member: Locks, name: bytes) -> None:
        self._call = member.observe(name)
        self._said: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._said.put(answer)
        except grpc.RpcError as error:
            self._said.put(error)

    def next(self) -> tuple[bytes, bytes]:
        """Key and value of the next answer."""
        answer = self._said.get(timeout=WAIT_SECONDS)
        assert not isinstance(answer, grpc.RpcError), answer
        assert answer.header.revision >= answer.kv.mod_revision
        return answer.kv.key, answer.kv.value

    def until(self, value: bytes) -> list[bytes]:
        """All values up to `value`."""
        said = [self.next()[1]]
        while said[-1] != value:
            said.append(self.next()[1])
        return said

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


# -- campaign --------------------------------------------------------------------------------------


def test_the_first_candidate_leads_and_says_so(client: Client, members: list[Locks]) -> None:
    """CON-02, CON-09, CON-12: key as of a lock, value stored, attached to the lease."""
    lease = client.grant(LONG_TTL).ID
    answer = members[1].campaign(b"first", b"me", lease).result()
    key = b"first/" + f"{lease:x}".encode()
    (kv,) = client.get(key).kvs
    assert answer.leader == election_pb2.LeaderKey(
        name=b"first", key=key, rev=kv.create_revision, lease=lease
    )
    assert (kv.value, kv.lease) == (b"me", lease)
    assert answer.header.revision == kv.create_revision
    for member in members:
        found = member.leader(b"first").result()
        assert found.kv == kv
        assert found.header.revision >= kv.mod_revision
    client.revoke(lease)
    assert status_of(members[0].leader(b"first")) == NO_LEADER


def test_a_candidate_without_a_lease_gets_one_of_60_seconds(
    client: Client, members: list[Locks]
) -> None:
    """CON-03, CON-09: LeaderKey names it."""
    leader = members[0].campaign(b"session", b"").result().leader
    assert leader.key == b"session/" + f"{leader.lease:x}".encode()
    assert client.time_to_live(leader.lease).grantedTTL == 60
    client.revoke(leader.lease)


def test_candidates_are_elected_in_the_order_of_their_candidacies(
    client: Client, members: list[Locks]
) -> None:
    """CON-09: each when all before it are gone; its header is that of the candidacy."""
    calls = []
    for number in range(6):
        lease = client.grant(LONG_TTL).ID
        calls.append(members[number % 3].campaign(b"order", b"%d" % number, lease))
        wait_for_line(client, b"order", number + 1)
    for number, call in enumerate(calls):
        answer = call.result()
        assert not any(later.done() for later in calls[number + 1 :])
        assert answer.header.revision == answer.leader.rev
        assert members[0].leader(b"order").result().kv.value == b"%d" % number
        members[number % 2].resign(answer.leader).result()
    assert line(client, b"order") == []


def test_campaigning_again_proclaims(client: Client, members: list[Locks]) -> None:
    """CON-10: same key and revision, another value; the same value writes nothing."""
    lease = client.grant(LONG_TTL).ID
    first = members[0].campaign(b"again", b"one", lease).result()
    second = members[1].campaign(b"again", b"two", lease).result()
    (kv,) = client.get(first.leader.key).kvs
    assert second.leader == first.leader
    assert (kv.value, kv.version, kv.create_revision) == (b"two", 2, first.leader.rev)
    members[2].campaign(b"again", b"two", lease).result()
    assert client.get(first.leader.key).kvs[0].version == 2


def test_a_candidate_that_gives_up_leaves_no_key(client: Client, members: list[Locks]) -> None:
    """CON-06: for candidates as for waiters."""
    leader = seated(client, members[0], b"leave", b"")
    call = members[1].campaign(b"leave", b"", client.grant(LONG_TTL).ID)
    wait_for_line(client, b"leave", 2)
    call.cancel()
    assert [kv.key for kv in wait_for_line(client, b"leave", 1)] == [leader.key]
    late = members[2].campaign(b"leave", b"", client.grant(LONG_TTL).ID, timeout=0.5)
    assert status_of(late)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [kv.key for kv in wait_for_line(client, b"leave", 1)] == [leader.key]


@pytest.mark.skipif(reference_under_test(), reason="etcd elects a candidate whose key is gone")
def test_a_candidate_whose_lease_ended_is_not_elected(client: Client, members: list[Locks]) -> None:
    """CON-05, CON-09: two who believe that they lead would be worse than an error."""
    leader = seated(client, members[0], b"ended", b"")
    lease = client.grant(LONG_TTL).ID
    call = members[1].campaign(b"ended", b"", lease)
    wait_for_line(client, b"ended", 2)
    client.revoke(lease)
    assert status_of(call) == NOT_LEADER
    assert [kv.key for kv in line(client, b"ended")] == [leader.key]


def test_an_unknown_lease_is_refused_with_code_unknown(members: list[Locks]) -> None:
    """CON-08."""
    status = status_of(members[0].campaign(b"unknown", b"", 12345))
    assert status == (UNKNOWN, "etcdserver: requested lease not found")


def test_an_expired_leader_is_followed_by_the_next(client: Client, members: list[Locks]) -> None:
    """CON-14: the seat is free when the key is deleted, and the old leader cannot proclaim."""
    short = client.grant(2).ID
    old = members[0].campaign(b"expiry", b"old", short).result().leader
    new = members[1].campaign(b"expiry", b"new", client.grant(LONG_TTL).ID).result().leader
    assert members[2].leader(b"expiry").result().kv.key == new.key
    assert status_of(members[0].proclaim(b"still here", old))[1] in (
        "election: not leader",
        "etcdserver: requested lease not found",
    )


# -- proclaim and resign ---------------------------------------------------------------------------


def test_proclaim_writes_while_the_seat_is_held(client: Client, members: list[Locks]) -> None:
    """CON-11: any member, a new value each time; lost with the key."""
    leader = seated(client, members[0], b"proclaim", b"0")
    for number, member in enumerate(members, start=1):
        answer = member.proclaim(b"%d" % number, leader).result()
        (kv,) = client.get(leader.key).kvs
        assert (kv.value, kv.mod_revision) == (b"%d" % number, answer.header.revision)
        assert (kv.create_revision, kv.lease) == (leader.rev, leader.lease)
    client.delete(leader.key)
    assert status_of(members[1].proclaim(b"lost", leader)) == NOT_LEADER
    assert client.get(leader.key).count == 0


def test_a_seat_is_its_revision_not_its_key(client: Client, members: list[Locks]) -> None:
    """CON-11: who was elected anew with the same lease holds another seat."""
    old = seated(client, members[0], b"seat", b"")
    members[0].resign(old).result()
    new = members[0].campaign(b"seat", b"new", old.lease).result().leader
    assert (new.key, new.rev > old.rev) == (old.key, True)
    assert status_of(members[1].proclaim(b"old", old)) == NOT_LEADER
    members[1].resign(old).result()
    assert client.get(new.key).kvs[0].value == b"new"


def test_resign_frees_the_seat_once(client: Client, members: list[Locks]) -> None:
    """CON-11: a lost seat is no error; the header is that of the deletion or later."""
    leader = seated(client, members[0], b"resign", b"")
    first = members[1].resign(leader).result()
    assert first.header.revision == client.get(leader.key).header.revision
    assert members[2].resign(leader).result().header.revision == first.header.revision
    assert status_of(members[0].leader(b"resign")) == NO_LEADER


def test_leader_is_a_required_field(members: list[Locks]) -> None:
    """CON-11: absent is refused by name; empty is a key that is not provided."""
    assert status_of(members[0].proclaim(b"x")) == MISSING
    assert status_of(members[0].resign()) == MISSING
    empty = election_pb2.LeaderKey()
    not_provided = (UNKNOWN, "etcdserver: key is not provided")
    assert status_of(members[0].proclaim(b"x", empty)) == not_provided
    assert status_of(members[0].resign(empty)) == not_provided


def test_wrong_leader_keys_change_nothing(client: Client, members: list[Locks]) -> None:
    """CON-11: every part of the key that matters is compared."""
    leader = seated(client, members[0], b"wrong", b"kept")
    for wrong in (
        {"key": leader.key + b"x", "rev": leader.rev, "lease": leader.lease},
        {"key": leader.key, "rev": leader.rev - 1, "lease": leader.lease},
        {"key": leader.key, "rev": -1, "lease": leader.lease},
        {"key": leader.key, "rev": 2**63 - 1, "lease": leader.lease},
    ):
        other = election_pb2.LeaderKey(name=b"wrong", **wrong)
        assert status_of(members[0].proclaim(b"x", other)) == NOT_LEADER
        members[0].resign(other).result()
    no_lease = election_pb2.LeaderKey(
        name=b"wrong", key=leader.key, rev=leader.rev, lease=leader.lease + 1
    )
    status = status_of(members[0].proclaim(b"x", no_lease))
    assert status == (UNKNOWN, "etcdserver: requested lease not found")
    assert [(kv.key, kv.value) for kv in line(client, b"wrong")] == [(leader.key, b"kept")]


@pytest.mark.parametrize("name", [b"", b"\0", b"\xff", b"a/b/"])
def test_any_name_is_a_name(client: Client, members: list[Locks], name: bytes) -> None:
    """CON-02, CON-12."""
    client.delete(name + b"/", range_end=name + b"0")
    assert status_of(members[0].leader(name)) == NO_LEADER
    leader = seated(client, members[0], name, b"v")
    assert members[1].leader(name).result().kv.key == leader.key
    members[1].resign(leader).result()


def test_a_value_that_no_request_can_hold_is_refused(client: Client, members: list[Locks]) -> None:
    """CON-08, GEN-16."""
    too_large = (UNKNOWN, "etcdserver: request is too large")
    huge = b"v" * 1_572_864
    assert status_of(members[0].campaign(b"huge", huge, client.grant(LONG_TTL).ID)) == too_large
    leader = seated(client, members[0], b"huge", b"kept")
    assert status_of(members[0].proclaim(huge, leader)) == too_large
    assert members[1].leader(b"huge").result().kv.value == b"kept"


# -- observe ---------------------------------------------------------------------------------------


def test_an_observer_sees_the_leader_then_every_proclamation_and_leader(
    client: Client, members: list[Locks]
) -> None:
    """CON-13: in order; also one that waited while others proclaimed."""
    first = seated(client, members[0], b"observe", b"a0")
    with Observer(members[2], b"observe") as observer:
        assert observer.next() == (first.key, b"a0")
        lease = client.grant(LONG_TTL).ID
        waiting = members[1].campaign(b"observe", b"b0", lease)
        wait_for_line(client, b"observe", 2)
        for number in range(1, 30):
            members[number % 3].proclaim(b"a%d" % number, first).result()
        assert observer.until(b"a29") == [b"a%d" % number for number in range(1, 30)]
        members[0].resign(first).result()
        second = waiting.result().leader
        assert observer.next() == (second.key, b"b0")
        members[0].proclaim(b"b1", second).result()
        assert observer.next() == (second.key, b"b1")


def test_an_observer_that_is_early_sees_the_first_leader(
    client: Client, members: list[Locks]
) -> None:
    """CON-13: and the next one after a time without."""
    with Observer(members[1], b"early") as observer:
        client.put(b"earl", b"not in this election")
        first = seated(client, members[0], b"early", b"one")
        assert observer.next() == (first.key, b"one")
        members[0].resign(first).result()
        second = seated(client, members[2], b"early", b"two")
        assert observer.next() == (second.key, b"two")


def test_an_observer_outlives_a_compaction(client: Client, members: list[Locks]) -> None:
    """CON-13: of everything that it has not seen yet; never back to an older value."""
    leader = seated(client, members[0], b"compact", b"0")
    with Observer(members[1], b"compact") as observer:
        assert observer.next() == (leader.key, b"0")
        for number in range(1, 50):
            answer = members[0].proclaim(b"%d" % number, leader).result()
            client.compact(answer.header.revision)
        said = [int(value) for value in observer.until(b"49")]
        assert said == sorted(set(said))
