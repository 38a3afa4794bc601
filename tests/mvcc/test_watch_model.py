"""Watches under random writes, compactions, slow clients and snapshots, against the full history.

The test keeps every event ever written and checks of each watch that what arrived is exactly the
matching events from its start on, in order, whole revisions at a time, up to where it got; that
progress never claims more; and that when all is read nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvstore.mvcc.watch import MESSAGE_OVERHEAD_BYTES
from kvstore.mvcc.watch_index import interval
from kvstore.pb.kv_pb2 import Event as EventMessage
from kvstore.pb.rpc_pb2 import WatchResponse
from tests.mvcc.watch_world import NODELETE, NOPUT, TERM, Client, World

KEYS = [b"a", b"aa", b"ab", b"b", b"ba"]
RANGES = [
    (b"a", b""),
    (b"a", b"b"),
    (b"aa", b""),
    (b"ab", b"b"),
    (b"aa", b"bb"),
    (b"b", b"\x00"),
    (b"", b"\x00"),
]
BIG = b"x" * (MESSAGE_OVERHEAD_BYTES // 2)


@dataclass
class Expectation:
    """One watch, as its client knows it."""

    range: tuple[bytes, bytes | None]
    first_revision: int
    filters: list[int]
    prev_kv: bool
    received: list[EventMessage] = field(default_factory=list)
    fragments: list[EventMessage] = field(default_factory=list)
    compacted: bool = False

    def wants(self, event: EventMessage) -> bool:
        start, end = self.range
        key, revision = event.kv.key, event.kv.mod_revision
        in_range = start <= key and (end is None or key < end)
        return in_range and revision >= self.first_revision and event.type not in self.filters


class WatchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_request_bytes=1000, queue_limit=3)
        self.clients = [Client(self.world) for _ in range(3)]
        self.watches: list[dict[int, Expectation]] = [{} for _ in self.clients]
        self.pending: list[list[Expectation]] = [[] for _ in self.clients]
        self.history: list[EventMessage] = []
        self.live: dict[bytes, EventMessage] = {}
        self.world.store.on_events = self.publish

    def publish(self, revision, events) -> None:
        self.remember(events)
        self.world.publish(revision, events)

    def remember(self, events: Iterable[tuple[int, bytes, bytes, int, int]]) -> None:
        for kind, key, kv, _, _ in events:
            event = EventMessage(type=kind)
            event.kv.ParseFromString(kv)
            previous = self.live.pop(key, None)
            if previous is not None:
                event.prev_kv.CopyFrom(previous.kv)
            if kind == 0:
                self.live[key] = event
            self.history.append(event)

    def write(self, keys: list[bytes], value: bytes) -> None:
        """Put each key, or delete it if it is there and `value` is empty; one transaction."""
        txn = self.world.store.begin()
        for key in keys:
            if key in self.live and not value:
                txn.delete(key)
            else:
                txn.put(key, value, 0)
        txn.commit()

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True),
        value=st.sampled_from([b"", b"", b"small", b"small", BIG]),
    )
    def transaction(self, keys: list[bytes], value: bytes) -> None:
        self.write(keys, value)

    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 6))
    def writes_to_one_key(self, key: bytes, times: int) -> None:
        for _ in range(times):
            self.write([key], b"v")

    @rule(
        who=st.integers(0, 2),
        watched=st.sampled_from(RANGES),
        back=st.none() | st.integers(-2, 8),
        filters=st.sampled_from([[], [], [NOPUT], [NODELETE]]),
        prev_kv=st.booleans(),
        fragment=st.booleans(),
    )
    def create(self, who, watched, back, filters, prev_kv, fragment) -> None:
        """Watch from `back` revisions ago on; None asks for whatever comes next."""
        revision = self.world.store.revision
        start = 0 if back is None else max(revision - back, 1)
        first = start or revision + 1
        self.pending[who].append(Expectation(interval(*watched), first, filters, prev_kv))
        self.clients[who].create(
            *watched, start_revision=start, filters=filters, prev_kv=prev_kv, fragment=fragment
        )

    @rule(who=st.integers(0, 2))
    def request_progress(self, who: int) -> None:
        self.clients[who].stream.progress(TERM)

    @rule(who=st.integers(0, 2), index=st.integers(0, 5))
    def cancel(self, who: int, index: int) -> None:
        ids = list(self.watches[who])
        assume(index < len(ids))
        self.clients[who].stream.cancel(ids[index])

    @rule(who=st.integers(0, 2), max_bytes=st.sampled_from([1, 300, 1 << 30]))
    def read(self, who: int, max_bytes: int) -> None:
        for response in self.clients[who].take(max_bytes):
            self.receive(who, response)

    @rule()
    def catch_up(self) -> None:
        self.world.hub.catch_up()

    @rule(back=st.integers(0, 5))
    def compact(self, back: int) -> None:
        store = self.world.store
        revision = store.revision - back
        assume(revision > max(store.compact_revision, 0))
        self.world.compact(revision)

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=4))
    def install_snapshot(self, keys: list[bytes]) -> None:
        """The cluster goes on without this member, which then gets it all at once."""
        world = self.world
        world.store.on_events = lambda _, events: self.remember(events)
        for key in keys:
            self.write([key], b"behind its back")
        world.store.on_events = self.publish
        world.install_snapshot()

    def teardown(self) -> None:
        self.settle()

    @rule()
    def settle(self) -> None:
        """Read everything: nothing may be missing then, and progress can be had."""
        more = True
        while more:
            more = self.world.hub.catch_up()
            for who, client in enumerate(self.clients):
                for response in client.take():
                    more = True
                    self.receive(who, response)
        for watches in self.watches:
            for watch in watches.values():
                expected = [event for event in self.history if watch.wants(event)]
                assert len(watch.received) == len(expected)
        for who, client in enumerate(self.clients):
            client.stream.progress(TERM)
            for response in client.take():
                assert response.header.revision == self.world.store.revision
                self.receive(who, response)

    def receive(self, who: int, response: WatchResponse) -> None:
        watches = self.watches[who]
        if response.created:
            assert not response.canceled
            watches[response.watch_id] = self.pending[who].pop(0)
        elif response.canceled:
            watch = watches.pop(response.watch_id)
            assert not watch.fragments
            if response.compact_revision:
                self.check_compacted(watch, response.compact_revision)
        elif response.events:
            self.receive_events(watches[response.watch_id], response)
        else:
            assert response.watch_id == -1
            for watch in watches.values():
                self.check_progress(watch, response.header.revision)

    def receive_events(self, watch: Expectation, response: WatchResponse) -> None:
        watch.fragments += response.events
        if response.fragment:
            return
        events, watch.fragments = watch.fragments, []
        expected = [event for event in self.history if watch.wants(event)]
        at = len(watch.received)
        following = expected[at : at + len(events)]
        assert [event.kv for event in events] == [event.kv for event in following]
        rest = expected[at + len(events) :]
        assert not rest or rest[0].kv.mod_revision > events[-1].kv.mod_revision
        assert response.header.revision >= events[-1].kv.mod_revision
        for got, full in zip(events, following, strict=True):
            self.check_prev_kv(watch, got, full)
        watch.received += events

    def check_prev_kv(self, watch: Expectation, got: EventMessage, full: EventMessage) -> None:
        if got.HasField("prev_kv"):
            assert watch.prev_kv
            assert got.prev_kv == full.prev_kv
        elif watch.prev_kv and full.HasField("prev_kv"):
            assert got.kv.mod_revision - 1 < self.world.store.compact_revision

    def check_compacted(self, watch: Expectation, compact_revision: int) -> None:
        """Cancelled only if something, matching or not, was compacted before it was looked at."""
        reached = watch.received[-1].kv.mod_revision + 1 if watch.received else 0
        assert compact_revision > max(reached, watch.first_revision)

    def check_progress(self, watch: Expectation, revision: int) -> None:
        assert revision >= (watch.first_revision - 1)
        due = [e for e in self.history if watch.wants(e) and e.kv.mod_revision <= revision]
        assert len(watch.received) >= len(due)

    @invariant()
    def queues_stay_within_their_bounds(self) -> None:
        for client in self.clients:
            queue = client.stream.queue
            assert client.stream.queued_bytes == sum(response[2] for response in queue)
            for parts, id_field, size, events in queue:
                assert size == sum(map(len, parts))
                response = WatchResponse.FromString(b"".join((*parts, id_field)))
                assert events == len(response.events)


WatchMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestWatchAgainstHistory = WatchMachine.TestCase
