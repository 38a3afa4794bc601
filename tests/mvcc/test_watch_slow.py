"""Slow clients, compaction overtaking them, snapshots, and the bounds on memory and work."""

from __future__ import annotations

import pytest

from kvstore.mvcc import watch_history
from kvstore.mvcc.watch_history import CATCH_UP_COHORTS, CATCH_UP_REVISIONS
from kvstore.mvcc.watch_stream import QUEUE_RESPONSES
from tests.mvcc.watch_world import TERM, World, revisions


def test_a_slow_client_falls_back_to_history_and_loses_nothing() -> None:
    """WCH-22, WCH-47."""
    world = World()
    client = world.client()
    client.watch(b"a")
    for _ in range(QUEUE_RESPONSES + 50):
        world.put(b"a")
    assert len(client.stream.queue) == QUEUE_RESPONSES
    assert not world.hub.catch_up()
    received = client.take()
    world.catch_up()
    received += client.take()
    world.put(b"a")
    received += client.take()
    assert revisions(received) == list(range(2, QUEUE_RESPONSES + 50 + 3))


def test_it_is_told_when_a_watcher_needs_history_and_not_else() -> None:
    """Else an idle server would have to look for such watchers all the time."""
    world, told = World(queue_limit=2), list[int]()
    world.put(b"a")
    world.hub.on_behind = lambda: told.append(world.hub.slow_watchers)
    client = world.client()
    client.watch(b"a")
    client.take()
    world.put(b"a")
    assert told == [], "a watcher that is up to date needs none"
    client.watch(b"a", start_revision=1)
    assert told == [1], "one that begins in the past does"
    world.catch_up()
    for _ in range(3):
        world.put(b"a")
    assert told == [1, 1, 2], "and so do all of a stream that is full"


def test_transactions_do_not_overfill_the_queue_either() -> None:
    """WCH-21, WCH-47."""
    world = World(queue_limit=2)
    client = world.client()
    client.watch(b"a", b"b")
    for _ in range(5):
        world.txn([(b"a1", b""), (b"a2", b"")])
    assert len(client.stream.queue) == 2
    received = client.take()
    world.catch_up()
    received += client.take()
    assert revisions(received) == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_the_queue_is_bounded_in_bytes() -> None:
    """WCH-47: the last response let in may go beyond the bound."""
    world = World(queue_bytes=10_000)
    client = world.client()
    client.watch(b"a")
    for _ in range(10):
        world.put(b"a", b"x" * 4000)
    assert len(client.stream.queue) == 3
    assert 10_000 <= client.stream.queued_bytes < 14_100
    assert client.stream.full
    received = client.take()
    assert client.stream.queued_bytes == 0
    assert not client.stream.full
    while world.hub.catch_up() or client.stream.queue:
        received += client.take()
    assert revisions(received) == list(range(2, 12))


def test_other_streams_do_not_notice_a_slow_one() -> None:
    """WCH-47."""
    world = World(queue_limit=3)
    slow, quick = world.client(), world.client()
    slow.watch(b"a")
    quick.watch(b"a")
    received = []
    for _ in range(10):
        world.put(b"a")
        received += quick.take()
    assert revisions(received) == list(range(2, 12))
    assert len(slow.stream.queue) == 3


def test_one_watch_of_a_full_stream_may_fall_behind_alone() -> None:
    """WCH-20, WCH-47: order holds for each watch."""
    world = World(queue_limit=3)
    client = world.client()
    client.watch(b"a")
    client.watch(b"b")
    for key in (b"a", b"a", b"a", b"a"):
        world.put(key)
    received = client.take()
    world.put(b"b")
    world.put(b"a")
    received += client.take()
    world.catch_up()
    received += client.take()
    assert revisions([r for r in received if r.watch_id == 0]) == [2, 3, 4, 5, 7]
    assert revisions([r for r in received if r.watch_id == 1]) == [6]


def test_replies_to_requests_are_queued_even_when_the_queue_is_full() -> None:
    """WCH-01: the reader of requests pauses while the stream is full."""
    world = World(queue_limit=1)
    client = world.client()
    client.watch(b"a")
    world.put(b"a")
    assert client.stream.full
    client.create(b"b")
    client.stream.cancel(0)
    _, created, canceled = client.take()
    assert created.created
    assert canceled.canceled


def test_compaction_overtaking_a_slow_watch_cancels_it_after_what_is_queued() -> None:
    """WCH-48."""
    world = World(queue_limit=2)
    client = world.client()
    client.watch(b"a")
    for _ in range(6):
        world.put(b"a")
    world.compact(6)
    world.catch_up()
    first, second, canceled = client.take()
    assert revisions([first, second]) == [2, 3]
    assert canceled.canceled
    assert canceled.compact_revision == 6
    assert canceled.header.revision == 0
    world.put(b"a")
    world.catch_up()
    assert client.take() == []


def test_a_slow_watch_at_the_compact_revision_goes_on() -> None:
    """WCH-48: only what it still needs counts."""
    world = World(queue_limit=2)
    client = world.client()
    client.watch(b"a", prev_kv=True)
    for _ in range(4):
        world.put(b"a")
    world.compact(4)
    received = client.take()
    world.catch_up()
    received += client.take()
    assert revisions(received) == [2, 3, 4, 5]
    assert not received[2].events[0].HasField("prev_kv")
    assert received[2].events[1].prev_kv.mod_revision == 4


def test_a_compaction_does_not_touch_a_caught_up_watch() -> None:
    """WCH-48."""
    world = World()
    client = world.client()
    client.watch(b"a")
    world.put(b"a")
    world.put(b"b")
    world.compact(3)
    world.catch_up()
    world.put(b"a")
    assert revisions(client.take()) == [2, 4]


def test_after_a_snapshot_every_watch_continues_where_it_was() -> None:
    """WCH-22."""
    world = World()
    client = world.client()
    client.watch(b"a", prev_kv=True)
    world.put(b"a", b"1")
    world.install_snapshot((b"a", b"2"), (b"b", b""), (b"a", b"3"))
    client.stream.progress(TERM)
    world.catch_up()
    world.put(b"a", b"4")
    received = client.take()
    assert revisions(received) == [2, 3, 5, 6]
    assert [event.prev_kv.value for r in received for event in r.events] == [b"", b"1", b"2", b"3"]
    client.stream.progress(TERM)
    assert client.take_one().header.revision == 6


def test_a_snapshot_that_brings_nothing_new_sends_nothing_twice() -> None:
    """WCH-22."""
    world = World()
    client = world.client()
    client.watch(b"a")
    client.watch(b"a", start_revision=9)
    world.put(b"a")
    world.install_snapshot()
    world.catch_up()
    world.put(b"a")
    assert revisions(client.take()) == [2, 3]


def test_one_scan_serves_all_watches_positioned_in_it() -> None:
    """WCH-49: a slice is bounded, and shared."""
    world = World()
    for _ in range(CATCH_UP_REVISIONS):
        world.put(b"a")
    clients = [world.client() for _ in range(300)]
    for number, client in enumerate(clients):
        client.watch(b"a", start_revision=2 + number % 20)
    assert not world.hub.catch_up()
    for number, client in enumerate(clients):
        assert revisions(client.take()) == list(range(2 + number % 20, CATCH_UP_REVISIONS + 2))


def test_watches_beyond_the_bound_of_a_slice_are_served_by_the_next() -> None:
    """WCH-49."""
    world = World()
    for number in range(CATCH_UP_COHORTS + 1):
        world.put(b"%d" % number)
    clients = [world.client() for _ in range(CATCH_UP_COHORTS + 1)]
    for number, client in enumerate(clients):
        client.watch(b"%d" % number, start_revision=1)
    assert world.hub.catch_up()
    world.catch_up()
    assert [revisions(client.take()) for client in clients] == [
        [number + 2] for number in range(CATCH_UP_COHORTS + 1)
    ]


def test_a_slice_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """WCH-49."""
    monkeypatch.setattr(watch_history, "CATCH_UP_BYTES", 10_000)
    world = World()
    for _ in range(10):
        world.put(b"a", b"x" * 5000)
    client = world.client()
    client.watch(b"a", start_revision=1)
    assert world.hub.catch_up()
    assert revisions(client.take()) == [2, 3]
    world.catch_up()
    assert revisions(client.take()) == list(range(4, 12))


def test_new_watches_at_the_beginning_do_not_starve_one_further_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """WCH-49: slices sweep upwards."""
    monkeypatch.setattr(watch_history, "CATCH_UP_REVISIONS", 5)
    world = World()
    for _ in range(40):
        world.put(b"a")
    patient = world.client()
    patient.watch(b"a", start_revision=20)
    for _ in range(12):
        world.client().watch(b"a", start_revision=1)
        world.hub.catch_up()
    assert revisions(patient.take()) == list(range(20, 42))


def test_wake_is_called_when_the_queue_turns_non_empty() -> None:
    world = World()
    client = world.client()
    client.create(b"a")
    assert client.wakes == 1
    world.put(b"a")
    assert client.wakes == 1
    client.take()
    world.put(b"a")
    assert client.wakes == 2


def test_take_stops_at_the_byte_limit_but_always_makes_progress() -> None:
    world = World()
    client = world.client()
    client.watch(b"a")
    for _ in range(4):
        world.put(b"a", b"x" * 1000)
    assert revisions(client.take(max_bytes=1)) == [2]
    assert revisions(client.take(max_bytes=1500)) == [3, 4]
    assert revisions(client.take(max_bytes=1500)) == [5]
    assert client.take(max_bytes=1) == []
