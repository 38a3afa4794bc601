"""The Lock service with several clients on three members: order, waiting, giving up, bad input.

The same tests run against etcd (``E2E_PROGRAM=etcd``); each uses locks of its own name.
"""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import pytest

from tests.e2e.client import Client, put_op
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.locks import WAIT_SECONDS, Locks, line, status_of, wait_for_line

UNKNOWN = grpc.StatusCode.UNKNOWN
LONG_TTL = 600


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return cluster.client(0)


@pytest.fixture
def members(cluster: Cluster) -> list[Locks]:
    """The services of each member."""
    return [Locks(cluster.client(i)) for i in range(3)]


@pytest.fixture
def lease(client: Client) -> Iterator[int]:
    granted = client.grant(LONG_TTL).ID
    yield granted
    if client.time_to_live(granted).TTL > 0:
        client.revoke(granted)


def leases(client: Client, count: int) -> list[int]:
    return [client.grant(LONG_TTL).ID for _ in range(count)]


def hold(client: Client, member: Locks, name: bytes) -> Any:
    """Take the lock with a lease that outlives any test."""
    return member.lock(name, client.grant(LONG_TTL).ID).result()


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lease_id", [0xABCDEF0123, 1, 0x7FFFFFFFFFFFFFFF, -1, -0x1F, -(2**63)])
def test_the_key_is_the_name_and_the_lease_in_hex(
    client: Client, members: list[Locks], lease_id: int
) -> None:
    """CON-01, CON-02: an ordinary key, empty and attached to the lease."""
    client.grant(LONG_TTL, lease_id)
    answer = members[1].lock(b"form", lease_id).result()
    assert answer.key == b"form/" + f"{lease_id:x}".encode()
    (kv,) = client.get(answer.key).kvs
    assert (kv.value, kv.lease, kv.create_revision) == (b"", lease_id, answer.header.revision)
    assert list(client.time_to_live(lease_id, keys=True).keys) == [answer.key]
    client.revoke(lease_id)
    assert client.get(answer.key).count == 0


def test_a_lock_without_a_lease_gets_one_of_60_seconds(
    client: Client, members: list[Locks]
) -> None:
    """CON-03, CON-15: its id is in the key, so that the holder may renew it."""
    key = members[0].lock(b"session").result().key
    lease_id = int(key.removeprefix(b"session/"), 16)
    answer = client.time_to_live(lease_id, keys=True)
    assert (answer.grantedTTL, list(answer.keys)) == (60, [key])
    client.revoke(lease_id)


@pytest.mark.parametrize("name", [b"", b"\0", b"nul\0in it\0", b"\xff\xfe", b"a/b/", b"/"])
def test_any_name_is_a_name(client: Client, members: list[Locks], lease: int, name: bytes) -> None:
    """CON-02: names are bytes, and may be empty."""
    answer = members[2].lock(name, lease).result()
    assert answer.key == name + b"/" + f"{lease:x}".encode()
    members[0].unlock(answer.key).result()
    assert client.get(answer.key).count == 0


def test_locks_of_the_library_and_of_the_service_wait_for_each_other(
    client: Client, members: list[Locks], lease: int
) -> None:
    """CON-01: a key that a client writes itself is a holder like any other."""
    client.put(b"mixed/by-hand", b"held")
    call = members[1].lock(b"mixed", lease)
    wait_for_line(client, b"mixed", 2)
    assert not call.done()
    client.delete(b"mixed/by-hand")
    assert call.result().key == b"mixed/" + f"{lease:x}".encode()


# -- order -----------------------------------------------------------------------------------------


def test_the_lock_goes_round_in_the_order_of_the_waiters_revisions(
    client: Client, members: list[Locks]
) -> None:
    """CON-04, CON-05, CON-06: whichever members they wait on; revisions order the owners."""
    calls = []
    for number, owner in enumerate(leases(client, 9)):
        calls.append((owner, members[number % 3].lock(b"order", owner)))
        wait_for_line(client, b"order", number + 1)
    revisions = []
    for number, (owner, call) in enumerate(calls):
        answer = call.result()
        assert answer.key == b"order/" + f"{owner:x}".encode()
        assert [later.done() for _, later in calls[number + 1 :]] == [False] * (8 - number)
        revisions.append(answer.header.revision)
        members[number % 2].unlock(answer.key).result()
    assert revisions == sorted(set(revisions))
    assert line(client, b"order") == []


def test_the_same_lease_holds_the_lock_again_at_once(
    client: Client, members: list[Locks], lease: int
) -> None:
    """CON-04: on any member, and with the key that it has already."""
    first = members[0].lock(b"again", lease).result()
    created = line(client, b"again")[0].create_revision
    client.put(b"elsewhere", b"")
    for member in members:
        assert member.lock(b"again", lease).result().key == first.key
    assert [kv.create_revision for kv in line(client, b"again")] == [created]


def test_other_names_do_not_wait(client: Client, members: list[Locks]) -> None:
    """CON-04: the line is the prefix with its slash; ``near`` is not ``nearby``."""
    owners = leases(client, 2)
    members[0].lock(b"near", owners[0]).result()
    assert members[1].lock(b"nearby", owners[1]).result().key.startswith(b"nearby/")


def test_a_waiter_in_the_middle_that_leaves_lets_nobody_past(
    client: Client, members: list[Locks]
) -> None:
    """CON-05, CON-06: the one behind it waits for the holder then."""
    owners = leases(client, 3)
    held = members[0].lock(b"middle", owners[0]).result()
    middle = members[1].lock(b"middle", owners[1])
    wait_for_line(client, b"middle", 2)
    last = members[2].lock(b"middle", owners[2])
    wait_for_line(client, b"middle", 3)
    middle.cancel()
    wait_for_line(client, b"middle", 2)
    client.put(b"elsewhere", b"")
    assert not last.done()
    members[0].unlock(held.key).result()
    assert last.result().key == b"middle/" + f"{owners[2]:x}".encode()


@pytest.mark.skipif(reference_under_test(), reason="etcd ends the wait with 'compacted'")
def test_a_waiter_outlives_the_compaction_of_all_that_it_waited_through(
    client: Client, members: list[Locks], lease: int
) -> None:
    """CON-05: removed from disk as well."""
    held = hold(client, members[0], b"compact")
    call = members[1].lock(b"compact", lease)
    wait_for_line(client, b"compact", 2)
    for _ in range(5):
        client.compact(client.put(b"elsewhere", b"").header.revision, physical=True)
    assert not call.done()
    members[0].unlock(held.key).result()
    assert call.result().key == b"compact/" + f"{lease:x}".encode()


# -- giving up -------------------------------------------------------------------------------------


def test_a_cancelled_waiter_leaves_no_key(client: Client, members: list[Locks], lease: int) -> None:
    """CON-06."""
    held = hold(client, members[0], b"cancel")
    call = members[1].lock(b"cancel", lease)
    wait_for_line(client, b"cancel", 2)
    call.cancel()
    assert [kv.key for kv in wait_for_line(client, b"cancel", 1)] == [held.key]
    assert client.time_to_live(lease).TTL > 0, "the client's lease is the client's"


def test_a_waiter_past_its_deadline_leaves_no_key(
    client: Client, members: list[Locks], lease: int
) -> None:
    """CON-06, GEN-10: the deadline is the client's, so is the code."""
    held = hold(client, members[0], b"deadline")
    code, _ = status_of(members[1].lock(b"deadline", lease, timeout=0.5))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [kv.key for kv in wait_for_line(client, b"deadline", 1)] == [held.key]


LOCK_IN_A_PROCESS = """
import sys
from tests.e2e.client import Client
from tests.e2e.locks import Locks
Locks(Client(sys.argv[1])).lock(sys.argv[2].encode(), int(sys.argv[3])).result()
"""


def test_a_killed_client_leaves_no_waiting_key(
    cluster: Cluster, client: Client, members: list[Locks], lease: int
) -> None:
    """CON-06: nobody says goodbye; the connection is gone, that is all."""
    held = hold(client, members[0], b"killed")
    command = [sys.executable, "-c", LOCK_IN_A_PROCESS, cluster.endpoints[2], "killed", str(lease)]
    waiter = subprocess.Popen(command)
    try:
        wait_for_line(client, b"killed", 2)
    finally:
        waiter.kill()
        waiter.wait()
    assert [kv.key for kv in wait_for_line(client, b"killed", 1)] == [held.key]


@pytest.mark.skipif(reference_under_test(), reason="etcd removes the key from under the new call")
def test_who_gives_up_and_comes_back_at_once_keeps_a_key(
    client: Client, members: list[Locks], lease: int
) -> None:
    """CON-06: the removal for the first call never takes the second call's key."""
    held = hold(client, members[0], b"return")
    for _ in range(20):
        waiting = members[1].lock(b"return", lease)
        wait_for_line(client, b"return", 2)
        waiting.cancel()
    back = members[1].lock(b"return", lease)
    members[0].unlock(held.key).result()
    assert client.get(back.result().key).count == 1


# -- leases that end -------------------------------------------------------------------------------


def test_a_lease_revoked_while_waiting_ends_the_wait(client: Client, members: list[Locks]) -> None:
    """CON-05: etcd's client says it when the turn comes; here it is said no later than that."""
    held = hold(client, members[0], b"revoked")
    (owner,) = leases(client, 1)
    call = members[1].lock(b"revoked", owner)
    wait_for_line(client, b"revoked", 2)
    client.revoke(owner)
    members[0].unlock(held.key).result()
    assert status_of(call) == (UNKNOWN, "mutex: session is expired")
    assert line(client, b"revoked") == []


@pytest.mark.skipif(reference_under_test(), reason="etcd compares the key, not its revision")
def test_a_key_created_anew_is_another_place(client: Client, members: list[Locks]) -> None:
    """CON-05: whose key was deleted is out, even if the same key is there again, behind another."""
    held = hold(client, members[0], b"anew")
    (owner,) = leases(client, 1)
    call = members[1].lock(b"anew", owner)
    waiting = wait_for_line(client, b"anew", 2)[1].key
    client.delete(waiting)
    assert status_of(call) == (UNKNOWN, "mutex: session is expired")
    second = members[2].lock(b"anew")
    wait_for_line(client, b"anew", 2)
    again = members[1].lock(b"anew", owner)
    wait_for_line(client, b"anew", 3)
    members[0].unlock(held.key).result()
    assert second.result().key != waiting
    assert not again.done()
    members[0].unlock(second.result().key).result()
    assert again.result().key == waiting


def test_a_waiter_on_a_paused_member_is_not_granted_what_it_lost(
    cluster: Cluster, client: Client, members: list[Locks], lease: int
) -> None:
    """CON-05, CON-14: the lock went to another while its member stood still."""
    away = next(i for i in cluster.followers() if i != 0)
    held = hold(client, members[0], b"paused")
    call = members[away].lock(b"paused", lease)
    wait_for_line(client, b"paused", 2)
    cluster.pause(away)
    try:
        members[0].unlock(held.key).result()
        client.revoke(lease)
        third = hold(client, members[0], b"paused")
    finally:
        cluster.resume(away)
    assert status_of(call) == (UNKNOWN, "mutex: session is expired")
    assert [kv.key for kv in line(client, b"paused")] == [third.key]


def test_a_holder_whose_lease_expires_loses_the_lock(client: Client, members: list[Locks]) -> None:
    """CON-14: by the deletion of its key, as seen by anybody."""
    short = client.grant(2).ID
    held = members[0].lock(b"expiry", short).result()
    waiting = members[1].lock(b"expiry")
    assert waiting.result().header.revision > held.header.revision
    assert client.get(held.key).count == 0


def test_an_unknown_lease_is_refused_with_code_unknown(members: list[Locks]) -> None:
    """CON-08: etcd's text, without its code."""
    for unknown in (12345, -1, -(2**63), 2**63 - 1):
        status = status_of(members[0].lock(b"unknown", unknown))
        assert status == (UNKNOWN, "etcdserver: requested lease not found")


# -- unlock and bad input --------------------------------------------------------------------------


def test_unlock_deletes_whatever_key_is_named(client: Client, members: list[Locks]) -> None:
    """CON-07: by anyone; a missing key is no error; the header is the deletion's."""
    held = hold(client, members[0], b"unlock")
    gone = members[2].unlock(held.key).result()
    assert gone.header.revision == client.get(held.key).header.revision
    assert members[1].unlock(held.key).result().header.revision == gone.header.revision
    client.put(b"no lock at all", b"")
    members[0].unlock(b"no lock at all").result()
    assert client.get(b"no lock at all").count == 0


def test_unlock_without_a_key_is_refused(members: list[Locks]) -> None:
    assert status_of(members[0].unlock(b"")) == (UNKNOWN, "etcdserver: key is not provided")


def test_a_name_that_no_request_can_hold_is_refused(client: Client, members: list[Locks]) -> None:
    """CON-08, GEN-16: a name of 1 MB makes a transaction beyond the limit."""
    status = status_of(members[0].lock(b"n" * 1_000_000))
    assert status == (UNKNOWN, "etcdserver: request is too large")
    assert line(client, b"n" * 1000) == []


def test_unknown_fields_and_broken_messages(client: Client) -> None:
    """GEN-22."""
    unknown_field = b"\xfa\x3f\x03abc"
    client.raw_unary("/v3lockpb.Lock/Unlock", b"\n\x01k" + unknown_field)
    with pytest.raises(grpc.RpcError) as caught:
        client.raw_unary("/v3lockpb.Lock/Lock", b"\x0a\x7fabc")
    assert caught.value.code() is grpc.StatusCode.INTERNAL


WAITERS = 200 if reference_under_test() else 2000
"""etcd 3.5 does not get rid of the keys of 2,000 waiters in less than the TTL of their leases."""
SERVED = 25


def test_two_thousand_waiters(cluster: Cluster, client: Client, members: list[Locks]) -> None:
    """CON-05, CON-06, GEN-20: on one connection; served in order, and gone with the connection."""
    held = hold(client, members[0], b"crowd")
    crowd = Client(cluster.endpoints[1])
    locks = Locks(crowd)
    with ThreadPoolExecutor(16) as pool:
        owners = list(pool.map(lambda _: client.grant(LONG_TTL).ID, range(WAITERS)))
    calls = [locks.lock(b"crowd", owner, timeout=LONG_TTL) for owner in owners]

    def everyone() -> bool:
        return bool(client.prefix(b"crowd/", count_only=True).count == WAITERS + 1)

    wait_until(everyone, LONG_TTL / 2, "all wait")
    expected = [kv.key for kv in line(client, b"crowd")]
    assert expected[0] == held.key
    granted: queue.Queue[bytes] = queue.Queue()
    for call in calls:
        call.add_done_callback(lambda done: granted.put(_key_of(done)))
    for holder, successor in pairwise(expected[: SERVED + 1]):
        assert granted.empty()
        members[2].unlock(holder).result()
        assert granted.get(timeout=WAIT_SECONDS) == successor
    crowd.close()
    left = wait_for_line(client, b"crowd", 1)
    assert [kv.key for kv in left] == [expected[SERVED]], "a holder's key stays"


def _key_of(done: Any) -> bytes:
    """The key of a call that was answered."""
    ended = done.cancelled() or done.exception() is not None
    return b"" if ended else bytes(done.result().key)


FOREIGN = 1250


def test_a_lock_in_a_line_of_foreign_keys(client: Client, members: list[Locks], lease: int) -> None:
    """CON-05: more keys than one slice of the search looks at, created before and after."""
    older = [put_op(b"foreign/%05d" % i, b"") for i in range(FOREIGN)]
    for first in range(0, FOREIGN, 125):
        client.txn([], older[first : first + 125])
    call = members[1].lock(b"foreign", lease)
    wait_for_line(client, b"foreign", FOREIGN + 1)
    for i in range(100):
        client.put(b"foreign/later-%d" % i, b"")
    last = b"foreign/%05d" % (FOREIGN - 1)
    client.delete(b"foreign/0", range_end=last)
    assert not call.done()
    client.delete(last)
    assert call.result().key == b"foreign/" + f"{lease:x}".encode()
