"""Locks and elections while members are killed, stopped, paused and brought back by a snapshot.

Each test has a cluster of its own. What must hold: no waiter is forgotten, and none is granted
while an older one holds.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.client import Client
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import EtcdctlStream
from tests.e2e.locks import WAIT_SECONDS, Locks, line, status_of, wait_for_line

LONG_TTL = 600


@contextmanager
def three_members(tmp_path: Path, *flags: str) -> Iterator[Cluster]:
    with Cluster(3, tmp_path, extra_flags=flags) as running:
        running.start_all()
        yield running


def persistently(call: Callable[[], Any], what: str) -> Any:
    """Repeat a call until the cluster answers it."""

    def attempt() -> Any:
        try:
            return [call()]
        except grpc.RpcError:
            return None

    return wait_until(attempt, WAIT_SECONDS, what)[0]


def test_waiters_on_the_others_outlive_the_leader(tmp_path: Path) -> None:
    """CON-05, CON-13: whoever waits or observes through a living member sees nothing of it."""
    with three_members(tmp_path) as cluster:
        leader = cluster.leader()
        others = cluster.followers()
        client = cluster.client(others[0])
        services = [Locks(cluster.client(i)) for i in others]
        leases = [client.grant(LONG_TTL).ID for _ in range(6)]
        held = services[0].lock(b"l", leases[0]).result()
        waiting = []
        for number, lease in enumerate(leases[1:], start=2):
            waiting.append(services[number % 2].lock(b"l", lease))
            wait_for_line(client, b"l", number)
        candidate = services[0].campaign(b"e", b"one", client.grant(LONG_TTL).ID).result()
        seen: queue.Queue[bytes] = queue.Queue()
        observed = services[1].observe(b"e")
        reader = threading.Thread(target=_collect, args=(observed, seen))
        reader.start()
        assert seen.get(timeout=WAIT_SECONDS) == b"one"

        cluster.kill(leader)
        persistently(lambda: client.put(b"after", b""), "a new leader")
        services[0].proclaim(b"two", candidate.leader).result()
        assert seen.get(timeout=WAIT_SECONDS) == b"two"
        holder = held
        for number, call in enumerate(waiting):
            assert not any(later.done() for later in waiting[number:])
            services[number % 2].unlock(holder.key).result()
            holder = call.result()
            assert holder.key == b"l/" + f"{leases[number + 1]:x}".encode()
        observed.cancel()
        reader.join(WAIT_SECONDS)


def _collect(observed: Any, into: queue.Queue[bytes]) -> None:
    with contextlib.suppress(grpc.RpcError):
        for answer in observed:
            into.put(answer.kv.value)


def printed_key(stream: EtcdctlStream) -> bytes:
    """The first line that is no message of etcdctl's own log."""
    while True:
        (text,) = stream.read(1, WAIT_SECONDS)
        if text.startswith("l/"):
            return text.encode()


def test_etcdctl_waiters_outlive_the_leader(tmp_path: Path) -> None:
    """CON-05, CON-14: with all endpoints; the holder is killed while there is no leader."""
    with three_members(tmp_path) as cluster:
        leader = cluster.leader()
        client = cluster.client(cluster.followers()[0])
        with contextlib.ExitStack() as stack:
            held = stack.enter_context(cluster.etcdctl_stream("lock", "l", "--ttl=5"))
            held.read(1, WAIT_SECONDS)
            waiting = []
            for number in range(2):
                waiting.append(stack.enter_context(cluster.etcdctl_stream("lock", "l")))
                keys = [kv.key for kv in wait_for_line(client, b"l", number + 2)]
            cluster.kill(leader)
            held.process.kill()
            assert printed_key(waiting[0]) == keys[1]
            assert [kv.key for kv in line(client, b"l")] == keys[1:]
            waiting[0].process.send_signal(signal.SIGTERM)
            assert printed_key(waiting[1]) == keys[2]


def test_a_waiter_keeps_its_place_when_its_member_stops(tmp_path: Path) -> None:
    """CON-04, CON-06: the stopping member says so; with the same lease the place is there again."""
    with three_members(tmp_path) as cluster:
        stopping, other = cluster.followers()
        client = cluster.client(other)
        held = Locks(client).lock(b"l", client.grant(LONG_TTL).ID).result()
        lease = client.grant(LONG_TTL).ID
        call = Locks(cluster.client(stopping)).lock(b"l", lease)
        place = wait_for_line(client, b"l", 2)[1]
        behind = Locks(client).lock(b"l", client.grant(LONG_TTL).ID)
        wait_for_line(client, b"l", 3)

        cluster.terminate(stopping)

        assert status_of(call)[0] is grpc.StatusCode.UNAVAILABLE
        if not reference_under_test():
            assert status_of(call)[1] == "etcdserver: server stopped"
            assert line(client, b"l")[1] == place
        again = Locks(client).lock(b"l", lease)
        Locks(client).unlock(held.key).result()
        if not reference_under_test():  # etcd may have removed the key
            assert again.result().key == place.key
            assert not behind.done()


@pytest.mark.skipif(reference_under_test(), reason="etcd leaves the key to its lease")
def test_who_gives_up_without_a_quorum_leaves_no_key(tmp_path: Path) -> None:
    """CON-06: a transaction that may still happen is undone when there is a leader again."""
    with three_members(tmp_path) as cluster:
        kept, *killed = range(3)
        client = cluster.client(kept)
        lease = client.grant(LONG_TTL).ID
        held = Locks(client).lock(b"l", client.grant(LONG_TTL).ID).result()
        for i in killed:
            cluster.kill(i)
        calls = [
            Locks(client).lock(b"l", lease, timeout=1.0),
            Locks(client).campaign(b"e", b"", lease, timeout=1.0),
        ]
        for call in calls:
            assert status_of(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        for i in killed:
            cluster.start(i)
        cluster.wait_healthy()
        wait_for_line(client, b"e", 0)
        assert [kv.key for kv in wait_for_line(client, b"l", 1)] == [held.key]


@pytest.mark.skipif(reference_under_test(), reason="etcd ends the wait with 'compacted'")
def test_a_waiter_on_a_member_brought_back_by_a_snapshot_gets_its_turn(tmp_path: Path) -> None:
    """CON-05, CON-13: the deletions that it waits for are compacted before its member sees them."""
    flags = ("--snapshot-count=100", "--snapshot-catchup-entries=10")
    with three_members(tmp_path, *flags) as cluster:
        away, other = cluster.followers()
        client = cluster.client(other)
        leases = [client.grant(LONG_TTL).ID for _ in range(3)]
        service = Locks(cluster.client(away))
        held = Locks(client).lock(b"l", leases[0]).result()
        second = service.lock(b"l", leases[1], timeout=LONG_TTL)
        wait_for_line(client, b"l", 2)
        third = service.lock(b"l", leases[2], timeout=LONG_TTL)
        wait_for_line(client, b"l", 3)
        leader = Locks(client).campaign(b"e", b"0", client.grant(LONG_TTL).ID).result().leader
        seen: queue.Queue[bytes] = queue.Queue()
        observed = service.observe(b"e")
        reader = threading.Thread(target=_collect, args=(observed, seen))
        reader.start()
        assert seen.get(timeout=WAIT_SECONDS) == b"0"

        cluster.pause(away)
        Locks(client).unlock(held.key).result()
        Locks(client).proclaim(b"1", leader).result()
        # More than is on its way to it already (256 messages), and than the log still holds.
        for i in range(1000):
            client.put(b"filler", b"%d" % i)
        client.compact(client.put(b"filler", b"").header.revision)
        assert not second.done()
        cluster.resume(away)

        first = second.result()
        assert first.key == b"l/" + f"{leases[1]:x}".encode()
        assert seen.get(timeout=WAIT_SECONDS) == b"1"
        assert not third.done()
        log = cluster.members[away].log_path
        wait_until(partial(_says, log, "installed a snapshot"), WAIT_SECONDS, "a snapshot")
        Locks(client).unlock(first.key).result()
        assert third.result().key == b"l/" + f"{leases[2]:x}".encode()
        observed.cancel()
        reader.join(WAIT_SECONDS)


def _says(log: Path, text: str) -> bool:
    return text in log.read_text(errors="replace")


WORKERS = 5
ROUNDS = 8


class Worker:
    """Adds to a counter under a lock, without any other guard, on whichever member answers."""

    def __init__(self, cluster: Cluster, number: int, lease: int) -> None:
        self.clients = [Client(endpoint) for endpoint in cluster.endpoints]
        self.turn = number
        self.lease = lease
        self.added = 0
        self.unclear = 0
        """Puts that may have happened: they had no answer."""

    @property
    def client(self) -> Client:
        return self.clients[self.turn % 3]

    def insist(self, call: Callable[[Client], Any]) -> Any:
        """Ask one member after another until one answers; for what may be repeated."""

        def attempt() -> Any:
            try:
                return [call(self.client)]
            except grpc.RpcError:
                self.turn += 1
                return None

        return wait_until(attempt, 2 * WAIT_SECONDS, "an answer")[0]

    def run(self) -> None:
        for _ in range(ROUNDS):
            held = self.insist(lambda client: Locks(client).lock(b"l", self.lease).result())
            value = self.insist(lambda client: client.get(b"counter")).kvs[0].value
            try:
                self.client.put(b"counter", b"%d" % (int(value) + 1))
                self.added += 1
            except grpc.RpcError:
                self.unclear += 1
                self.turn += 1
            self.insist(lambda client: Locks(client).unlock(held.key).result())  # noqa: B023
        for client in self.clients:
            client.close()


def test_no_update_is_lost_under_a_lock_while_leaders_die(tmp_path: Path) -> None:
    """CON-04..06: nobody works while another holds; who waited on a dead member waits elsewhere."""
    with three_members(tmp_path) as cluster:
        cluster.client(0).put(b"counter", b"0")
        leases = [cluster.client(0).grant(LONG_TTL).ID for _ in range(WORKERS)]
        workers = [Worker(cluster, number, lease) for number, lease in enumerate(leases)]
        threads = [threading.Thread(target=worker.run) for worker in workers]
        for thread in threads:
            thread.start()
        for done in (WORKERS * ROUNDS // 4, WORKERS * ROUNDS // 2):
            wait_until(partial(_added, workers, done), 2 * WAIT_SECONDS, f"{done} additions")
            leader = cluster.leader()
            cluster.kill(leader)
            cluster.start(leader)
        for thread in threads:
            thread.join(4 * WAIT_SECONDS)
            assert not thread.is_alive()
        cluster.wait_healthy()
        added = sum(worker.added for worker in workers)
        unclear = sum(worker.unclear for worker in workers)
        assert added + unclear == WORKERS * ROUNDS
        counter = int(cluster.client(0).get(b"counter").kvs[0].value)
        assert added <= counter <= added + unclear
        assert line(cluster.client(0), b"l") == []


def _added(workers: list[Worker], least: int) -> bool:
    return sum(worker.added + worker.unclear for worker in workers) >= least
