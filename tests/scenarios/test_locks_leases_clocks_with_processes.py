"""Locks, leases and clocks on real members: scenarios 1, 2, 3, 4, 7 and 8."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from jepsen.hunts.processes import PATIENCE_S, Processes, until_answered
from kvstore.pb import rpc_pb2
from kvstore.testing.processes import wait_until
from tests.e2e.client import Client, put_op
from tests.e2e.locks import Locks, status_of

SHORT_TTL = 2
"""The shortest there is with an election time-out of 1 s."""
TTL = 8
DAY_S = 86_400


def guarded_put(client: Client, lock: tuple[bytes, int], key: bytes, value: bytes) -> bool:
    """Put if the lock's key is still the one that was granted; whether it is."""
    name, created = lock
    guard = rpc_pb2.Compare(key=name, target=rpc_pb2.Compare.CREATE, create_revision=created)
    return bool(client.txn([guard], [put_op(key, value)]).succeeded)


def granted(client: Client, name: bytes, ttl: int) -> tuple[bytes, int]:
    """Wait for a lock; return its key and that key's create revision."""
    key = Locks(client).lock(name, client.grant(ttl).ID).result().key
    return key, client.get(key).kvs[0].create_revision


def test_scenario_11457_a_holder_that_paused_overwrites_nothing(three: Processes) -> None:
    """Scenario 1: it still thinks that it holds the lock; its lease has ended, and others work."""
    first, second = three.client(0), three.client(1)
    held = granted(first, b"paused", SHORT_TTL)
    assert guarded_put(first, held, b"counter", b"1")
    theirs = granted(second, b"paused", 60)  # nobody renewed the first lease
    assert guarded_put(second, theirs, b"counter", b"2")
    for number in range(3):
        assert not guarded_put(three.client(number), held, b"counter", b"late")
    assert first.get(b"counter").kvs[0].value == b"2"


def test_scenario_11456_a_lease_that_ends_in_the_line_gets_no_lock(three: Processes) -> None:
    """Scenario 2: an error, and the line goes on without it."""
    client = three.client(0)
    held = Locks(client).lock(b"line", client.grant(60).ID).result()
    ending = Locks(three.client(1)).lock(b"line", client.grant(SHORT_TTL).ID)
    code, text = status_of(ending)
    assert (code, text) == (grpc.StatusCode.UNKNOWN, "mutex: session is expired")
    third = Locks(three.client(2)).lock(b"line", client.grant(60).ID)
    Locks(client).unlock(held.key).result()
    assert third.result().key


def test_scenario_15247_a_leader_that_stood_still_ends_no_lease(three: Processes) -> None:
    """Scenario 3 (15247, 12528): it wakes with a lease that is over by its clock and was renewed
    through its successor all the time."""
    old = three.leader()
    client = three.client(next(i for i in range(3) if i != old))
    lease = client.grant(TTL).ID
    client.put(b"stalled", b"", lease=lease)

    def renew() -> None:
        assert until_answered(lambda: client.keep_alive_once(lease)).TTL == TTL

    paused = time.monotonic()
    with three.paused(old):
        while time.monotonic() < paused + TTL + 1.0:
            renew()
    wait_until(
        lambda: three.status(old).leader == three.status(three.leader()).leader,
        PATIENCE_S,
        "the old leader follows",
    )
    renew()
    assert client.get(b"stalled").kvs[0].lease == lease
    client.revoke(lease)


def test_scenario_15247_a_leader_cut_off_answers_no_keep_alive(three: Processes) -> None:
    """Scenario 4: not while it still calls itself leader, nor later."""
    old = three.leader()
    client = three.client(old)
    lease = client.grant(60).ID
    with three.partitioned([old]), ThreadPoolExecutor() as pool:
        early = pool.submit(client.keep_alive_once, lease)
        wait_until(lambda: three.leader() != old, PATIENCE_S, "another leads")
        late = pool.submit(client.keep_alive_once, lease)
        for answer in (early, late):
            assert isinstance(answer.exception(), grpc.RpcError)
    assert until_answered(lambda: client.keep_alive_once(lease)).TTL == 60


def test_scenario_14239_members_agree_on_leases_with_negative_ids(three: Processes) -> None:
    """Scenario 7 (PR 14239, 13932): renewed during the grant, and after a restart of a member."""
    client, leases = three.client(0), [-1, -(2**63), 2**63 - 1]
    for lease in leases:
        assert client.keep_alive_once(lease).TTL == 0
        assert lease == client.grant(600, lease).ID
        assert three.client(1).keep_alive_once(lease).TTL == 600
        client.put(b"negative/%d" % lease, b"", lease=lease)
    client.revoke(-1)
    three.restart(three.followers()[0])
    for number in range(3):
        there = three.client(number).call("Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest())
        assert set(leases[1:]) <= {lease.ID for lease in there.leases}
        assert -1 not in {lease.ID for lease in there.leases}
        keys = three.client(number).time_to_live(leases[1], keys=True).keys
        assert list(keys) == [b"negative/%d" % leases[1]]
    assert three.same_hash()


def test_scenario_8_a_wall_clock_that_jumps_by_a_day_changes_nothing(tmp_path: Path) -> None:
    """Scenario 8: forwards on all, backwards on all, and back again over a restart."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    program = (sys.executable, "-m", "tests.scenarios.skewed_server", str(offset))
    patient = ("--heartbeat-interval=300", "--election-timeout=3000")
    with Processes(3, tmp_path / "members", program=program, flags=patient, links=False) as cluster:
        cluster.start()
        client = cluster.client(0)
        term = cluster.status(0).raftTerm
        long = client.grant(600).ID
        client.put(b"long", b"", lease=long)
        for days in (1, -1):
            offset.write_text(str(days * DAY_S))
            since = time.monotonic()
            short = client.grant(1)
            client.put(b"short", b"", lease=short.ID)
            assert 600 - 120 < client.time_to_live(long).TTL <= 600
            # Time passes as ever: by as much as this lease lasts.
            wait_until(lambda: not client.get(b"short").kvs, PATIENCE_S, "the lease has ended")
            assert time.monotonic() - since >= short.TTL
        assert cluster.status(0).raftTerm == term
        restarted = cluster.followers()[0]
        cluster.restart(restarted)  # a day before its last start, by its clock
        for number in range(20):
            cluster.client(restarted).put(b"after/%d" % number)
        assert cluster.same_hash()
        assert client.get(b"long").kvs[0].lease == long
        assert 600 - 120 < client.time_to_live(long).TTL <= 600
