"""etcd's client recipes as the requests that they send: transactions in software, queues, barriers.

Nothing here is served by code of its own; what must hold are guarded transactions, ranges in order
of revisions, and watches. Everything runs in threads, through all three members at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from kvstore.pb import kv_pb2, rpc_pb2
from tests.e2e.client import Client, delete_op, prefix_end, put_op
from tests.e2e.cluster import Cluster

Compare, Range = rpc_pb2.Compare, rpc_pb2.RangeRequest
SECONDS = 60.0


@pytest.fixture(scope="module")
def clients(cluster: Cluster) -> list[Client]:
    return [cluster.client(i) for i in range(3)]


def all_of(works: list[Callable[[], Any]]) -> list[Any]:
    """Run everything at once; the results in order."""
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
        return [future.result(SECONDS) for future in futures]


def unchanged(key: bytes, mod_revision: int) -> Any:
    return Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=mod_revision)


def absent(key: bytes) -> Any:
    return Compare(key=key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=0)


def first(client: Client, prefix: bytes, target: int, order: int = Range.ASCEND) -> Any:
    """The first key under a prefix by a target, or None."""
    found = client.prefix(prefix, sort_target=target, sort_order=order, limit=1).kvs
    return found[0] if found else None


def put_unique(client: Client, prefix: bytes, value: bytes = b"", lease: int = 0) -> Any:
    """Create ``<prefix>/<nanoseconds>``; its key and the revision that made it."""
    while True:
        key = prefix + b"/%d" % time.time_ns()
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))
        answer = client.txn([absent(key)], [put])
        if answer.succeeded:
            return key, answer.header.revision


@contextmanager
def watching(client: Client, key: bytes, revision: int, **fields: Any) -> Iterator[Iterator[Any]]:
    """The events of a watch from a revision on."""
    create = rpc_pb2.WatchCreateRequest(key=key, start_revision=revision, **fields)
    call = client._watch(iter([rpc_pb2.WatchRequest(create_request=create)]), timeout=SECONDS)
    yield (event for answer in call for event in answer.events)
    call.cancel()


def wait_deleted(client: Client, key: bytes, revision: int) -> None:
    """Return when the key is deleted at the revision or later."""
    with watching(client, key, revision) as events:
        next(event for event in events if event.type == kv_pb2.Event.DELETE)


# -- software transactional memory -----------------------------------------------------------------

ACCOUNTS = [b"stm/account/%d" % i for i in range(4)]
TRANSFERS = 15
WRITERS = 6


class Stm:
    """One attempt: values read are guarded by their mod_revision, 0 where nothing was there."""

    def __init__(self, client: Client, snapshot: bool) -> None:
        self.client = client
        self.snapshot = snapshot
        self.revision = 0
        self.reads: dict[bytes, int] = {}
        self.writes: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> int:
        # In a snapshot all reads are of the revision of the first, from local state.
        pinned = {"revision": self.revision, "serializable": True} if self.revision else {}
        answer = self.client.get(key, **pinned)
        if self.snapshot and not self.revision:
            self.revision = answer.header.revision
        self.reads[key] = answer.kvs[0].mod_revision if answer.kvs else 0
        return int(answer.kvs[0].value) if answer.kvs else 0

    def put(self, key: bytes, value: int) -> None:
        self.writes[key] = b"%d" % value

    def commit(self) -> bool:
        guards = [unchanged(key, revision) for key, revision in self.reads.items()]
        if self.snapshot:
            guards += [
                Compare(
                    key=key,
                    target=Compare.MOD,
                    result=Compare.LESS,
                    mod_revision=self.revision + 1,
                )
                for key in self.writes
            ]
        puts = [put_op(key, value) for key, value in self.writes.items()]
        return bool(self.client.txn(guards, puts).succeeded)


@pytest.mark.parametrize("snapshot", [False, True], ids=["serializable", "snapshot"])
def test_transactions_that_conflict_are_tried_again(clients: list[Client], snapshot: bool) -> None:
    """CON-16: money is moved, never made, and no transfer is lost."""
    clients[0].delete(b"stm/", range_end=prefix_end(b"stm/"))
    conflicts = []

    def transfer(client: Client, number: int) -> None:
        source, target = ACCOUNTS[number % 4], ACCOUNTS[(number * 3 + 1) % 4]
        while True:
            stm = Stm(client, snapshot)
            try:
                count = stm.get(b"stm/count")
                balance = stm.get(source)
                if source != target:
                    stm.put(target, stm.get(target) + 1)
                    stm.put(source, balance - 1)
            except grpc.RpcError as error:
                # A snapshot's revision may not have reached this member yet (RNG-27).
                assert error.code() is grpc.StatusCode.OUT_OF_RANGE
                continue
            stm.put(b"stm/count", count + 1)
            if stm.commit():
                return
            conflicts.append(number)

    def work(i: int) -> None:
        for number in range(TRANSFERS):
            transfer(clients[i % 3], i + number)

    all_of([lambda i=i: work(i) for i in range(WRITERS)])  # type: ignore[misc]
    assert int(clients[0].get(b"stm/count").kvs[0].value) == WRITERS * TRANSFERS
    assert sum(int(kv.value) for kv in clients[1].prefix(b"stm/account/").kvs) == 0
    assert conflicts, "they did meet"


# -- queues ----------------------------------------------------------------------------------------

ITEMS = 20


def claim(client: Client, kv: Any) -> bool:
    """Take a key for oneself: delete it if it is still the one that was seen."""
    return bool(client.txn([unchanged(kv.key, kv.mod_revision)], [delete_op(kv.key)]).succeeded)


def dequeue(client: Client, prefix: bytes, target: int) -> bytes:
    """Take the first item, waiting for one if need be."""
    while True:
        kv = first(client, prefix, target)
        if kv is None:
            revision = client.get(prefix).header.revision
            if first(client, prefix, target) is None:
                with watching(client, prefix, revision + 1, range_end=prefix_end(prefix)) as events:
                    next(event for event in events if event.type == kv_pb2.Event.PUT)
        elif claim(client, kv):
            return bytes(kv.value)


def test_a_queue_hands_each_item_to_one_taker_in_order(clients: list[Client]) -> None:
    """CON-17: by revision, whatever the clocks say; an empty queue is waited for."""
    taken: list[bytes] = []
    order = threading.Lock()

    def produce(i: int) -> None:
        for n in range(ITEMS):
            put_unique(clients[i], b"queue", b"%d-%03d" % (i, n))

    def consume(i: int) -> None:
        for _ in range(ITEMS):
            with order:  # so that the list shows the order of taking
                taken.append(dequeue(clients[i], b"queue/", Range.MOD))

    works = [lambda i=i: consume(i) for i in range(3)]  # type: ignore[misc]
    works += [lambda i=i: produce(i) for i in range(3)]  # type: ignore[misc]
    all_of(works)
    assert len(set(taken)) == len(taken) == 3 * ITEMS
    for i in range(3):
        mine = [item for item in taken if item.startswith(b"%d-" % i)]
        assert mine == sorted(mine)


def test_takers_that_meet_never_share_an_item(clients: list[Client]) -> None:
    """CON-17: the guarded deletion decides."""
    for n in range(2 * ITEMS):
        put_unique(clients[0], b"race", b"%d" % n)
    takers = [
        lambda i=i: [dequeue(clients[i % 3], b"race/", Range.MOD) for _ in range(ITEMS // 2)]  # type: ignore[misc]
        for i in range(4)
    ]
    taken = [item for items in all_of(takers) for item in items]
    assert sorted(map(int, taken)) == list(range(2 * ITEMS))


def put_sequential(client: Client, prefix: bytes, value: bytes) -> bytes:
    """Create ``<prefix>/<next number>``, guarded by the revision of a base key."""
    base = b"__" + prefix
    while True:
        answer = client.prefix(prefix, sort_target=Range.KEY, sort_order=Range.DESCEND, limit=1)
        number = int(answer.kvs[0].key.rpartition(b"/")[2]) + 1 if answer.kvs else 0
        key = prefix + b"/%016d" % number
        unseen = Compare(
            key=base,
            target=Compare.MOD,
            result=Compare.LESS,
            mod_revision=answer.header.revision + 1,
        )
        if client.txn([unseen], [put_op(base, b""), put_op(key, value)]).succeeded:
            return key


def test_a_priority_queue_is_ordered_by_priority_then_arrival(clients: list[Client]) -> None:
    """CON-17: numbers are given out once, though many ask at the same time."""
    makers = [
        lambda i=i: [  # type: ignore[misc]
            put_sequential(clients[i], b"priority/%05d" % (n % 3), b"%d" % (n % 3))
            for n in range(9)
        ]
        for i in range(3)
    ]
    keys = [key for made in all_of(makers) for key in made]
    assert len(set(keys)) == 27
    taken = [dequeue(clients[n % 3], b"priority/", Range.KEY) for n in range(27)]
    assert taken == sorted(taken)


# -- barriers and locks ----------------------------------------------------------------------------


def test_a_barrier_holds_back_until_it_is_released(clients: list[Client]) -> None:
    """CON-17: a key that is there, and everybody waits for its deletion."""
    held = clients[0].txn([absent(b"barrier")], [put_op(b"barrier", b"")])
    assert held.succeeded
    assert not clients[1].txn([absent(b"barrier")], [put_op(b"barrier", b"")]).succeeded
    passed: list[int] = []

    def wait(i: int) -> None:
        wait_deleted(clients[i % 3], b"barrier", held.header.revision)
        passed.append(i)

    def release() -> None:
        assert passed == []
        clients[2].delete(b"barrier")

    all_of([*(lambda i=i: wait(i) for i in range(5)), release])  # type: ignore[misc]
    assert sorted(passed) == list(range(5))


SIZE = 5


def test_a_double_barrier_lets_all_in_and_out_together(clients: list[Client]) -> None:
    """CON-17: waiters under a prefix, the last one says ready; the first key leaves last."""
    arrived: list[int] = []
    prefix = b"double/waiters"
    inside = threading.Barrier(SIZE)

    def visit(i: int) -> None:
        client = clients[i % 3]
        lease = client.grant(600).ID
        arrived.append(i)
        mine, revision = put_unique(client, prefix, lease=lease)
        if client.prefix(prefix + b"/", count_only=True).count == SIZE:
            client.put(b"double/ready", b"")
        else:
            with watching(client, b"double/ready", revision) as events:
                next(events)
        assert len(arrived) == SIZE
        inside.wait(SECONDS)
        leave(client, mine)

    def leave(client: Client, mine: bytes) -> None:
        while True:
            answer = client.prefix(prefix + b"/", sort_target=Range.CREATE)
            lowest, highest = answer.kvs[0], answer.kvs[-1]
            if len(answer.kvs) == 1:
                client.delete(b"double/ready")
                client.delete(mine)
                return
            if lowest.key == mine:
                wait_deleted(client, highest.key, answer.header.revision)
                continue
            client.delete(mine)
            wait_deleted(client, lowest.key, answer.header.revision)
            return

    all_of([lambda i=i: visit(i) for i in range(SIZE)])  # type: ignore[misc]
    assert clients[0].prefix(b"double/", count_only=True).count == 0


def wait_for_older(client: Client, prefix: bytes, revision: int) -> None:
    """Wait until no key under the prefix was written before the revision."""
    while True:
        answer = client.prefix(
            prefix,
            sort_target=Range.MOD,
            sort_order=Range.DESCEND,
            limit=1,
            max_mod_revision=revision - 1,
        )
        if not answer.kvs:
            return
        wait_deleted(client, answer.kvs[0].key, answer.header.revision)


def test_a_read_write_lock_admits_readers_together_and_writers_alone(
    clients: list[Client],
) -> None:
    """CON-17: readers wait for older writers, writers for everybody older."""
    lock, readers, writers = threading.Lock(), set[int](), set[int]()
    most_readers = 0

    def read(i: int) -> None:
        nonlocal most_readers
        client = clients[i % 3]
        mine, revision = put_unique(client, b"rw/read")
        wait_for_older(client, b"rw/write", revision)
        with lock:
            assert not writers
            readers.add(i)
            most_readers = max(most_readers, len(readers))
        client.get(b"rw/value")
        with lock:
            readers.discard(i)
        client.delete(mine)

    def write(i: int) -> None:
        client = clients[i % 3]
        mine, revision = put_unique(client, b"rw/write")
        wait_for_older(client, b"rw/", revision)
        with lock:
            assert not writers
            assert not readers
            writers.add(i)
        client.put(b"rw-value", b"%d" % i)
        with lock:
            writers.discard(i)
        client.delete(mine)

    works = [lambda i=i: (write if i % 4 == 0 else read)(i) for i in range(16)]  # type: ignore[misc]
    all_of(works)
    assert most_readers >= 1
    assert clients[0].prefix(b"rw/", count_only=True).count == 0
