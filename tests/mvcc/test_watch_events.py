"""What events look like, and who gets them."""

from __future__ import annotations

import pytest

from kvstore.mvcc.watch import (
    MESSAGE_OVERHEAD_BYTES,
)
from kvstore.mvcc.watch_history import CATCH_UP_RESPONSE_BYTES, CATCH_UP_REVISIONS
from kvstore.pb.kv_pb2 import KeyValue
from tests.mvcc.watch_world import MAX_REQUEST_BYTES, NODELETE, NOPUT, World, revisions, summary

LIVE_OR_HISTORY = pytest.mark.parametrize("live", [True, False], ids=["live", "history"])


def observe(world: World, live: bool, write, key=b"a", end=b"", **options):
    """The responses that a watch sees of what `write` does, as it happens or afterwards."""
    client = world.client()
    start = world.store.revision + 1
    if live:
        client.watch(key, end, **options)
        write()
    else:
        write()
        client.watch(key, end, start_revision=start, **options)
        world.catch_up()
    return client.take()


@LIVE_OR_HISTORY
def test_a_put_carries_the_full_key_value(live: bool) -> None:
    """WCH-17, WCH-18."""
    world = World()
    world.put(b"a", b"old")
    (response,) = observe(world, live, lambda: world.put(b"a", b"new", lease=9))
    (event,) = response.events
    assert event.type == event.PUT
    assert event.kv == KeyValue(
        key=b"a", value=b"new", create_revision=2, mod_revision=3, version=2, lease=9
    )
    assert not event.HasField("prev_kv")


@LIVE_OR_HISTORY
def test_a_delete_carries_only_key_and_revision(live: bool) -> None:
    """WCH-17, WCH-19."""
    world = World()
    world.put(b"a", b"old", lease=9)
    (response,) = observe(world, live, lambda: world.delete(b"a"))
    (event,) = response.events
    assert event.type == event.DELETE
    assert event.kv == KeyValue(key=b"a", mod_revision=3)


@LIVE_OR_HISTORY
def test_a_create_has_equal_create_and_mod_revision(live: bool) -> None:
    """WCH-18."""
    world = World()
    (response,) = observe(world, live, lambda: world.put(b"a"))
    assert response.events[0].kv.create_revision == response.events[0].kv.mod_revision == 2


@LIVE_OR_HISTORY
def test_all_matching_events_of_a_transaction_come_in_one_response_in_order(live: bool) -> None:
    """WCH-20, WCH-21."""
    world = World()
    world.put(b"a2", b"old")

    def write() -> None:
        world.txn([(b"a1", b""), (b"z", b""), (b"a0", b"")], deletes=[b"a2"])

    (response,) = observe(world, live, write, b"a", b"b")
    assert summary(response) == [("PUT", b"a1", 3), ("PUT", b"a0", 3), ("DELETE", b"a2", 3)]


def test_live_headers_carry_the_revision_of_the_event() -> None:
    """WCH-24."""
    world = World()
    client = world.client()
    client.watch(b"a")
    world.put(b"a")
    world.put(b"b")
    world.txn([(b"a", b""), (b"b", b"")])
    assert [response.header.revision for response in client.take()] == [2, 4]


def test_historical_headers_carry_the_store_revision_when_read() -> None:
    """WCH-24."""
    world = World()
    world.put(b"a")
    world.put(b"b")
    client = world.client()
    client.watch(b"a", start_revision=1)
    world.catch_up()
    assert client.take_one().header.revision == 3


def test_the_revision_is_readable_before_its_event_leaves() -> None:
    """WCH-25."""
    world = World()
    seen = []
    stream = world.hub.stream(lambda: seen.append(world.store.get(b"a")))
    client = world.client()
    client.stream = stream
    client.watch(b"a")
    world.put(b"a", b"v")
    kv = KeyValue.FromString(seen[-1])
    assert (kv.value, world.store.revision) == (b"v", 2)


@LIVE_OR_HISTORY
@pytest.mark.parametrize(
    ("filters", "expected"),
    [([NOPUT], [3]), ([NODELETE], [2, 4]), ([NOPUT, NODELETE], []), ([NOPUT, NOPUT], [3])],
)
def test_filters_leave_out_events_and_empty_responses(
    live: bool, filters: list[int], expected: list[int]
) -> None:
    """WCH-26."""
    world = World()

    def write() -> None:
        world.put(b"a")
        world.delete(b"a")
        world.txn([(b"a", b""), (b"b", b"")])

    responses = observe(world, live, write, filters=filters)
    assert revisions(responses) == expected
    assert all(response.events for response in responses)


@LIVE_OR_HISTORY
def test_prev_kv_is_the_state_before_and_absent_on_create(live: bool) -> None:
    """WCH-27, KUB-16."""
    world = World()

    def write() -> None:
        world.put(b"a", b"1")
        world.txn([(b"a", b"2"), (b"b", b"")])
        world.delete(b"a")
        world.put(b"a", b"3")

    responses = observe(world, live, write, prev_kv=True)
    events = [event for response in responses for event in response.events]
    first = KeyValue(key=b"a", value=b"1", create_revision=2, mod_revision=2, version=1)
    second = KeyValue(key=b"a", value=b"2", create_revision=2, mod_revision=3, version=2)
    assert [event.HasField("prev_kv") for event in events] == [False, True, True, False]
    assert [events[1].prev_kv, events[2].prev_kv] == [first, second]


def test_prev_kv_is_absent_only_where_its_revision_is_compacted() -> None:
    """WCH-28: the event at the compact revision has none, the next one has."""
    world = World()
    world.put(b"b", b"old")
    for value in (b"1", b"2", b"3"):
        world.put(b"a", value)
    world.put(b"b", b"new")
    world.compact(4)
    client = world.client()
    client.watch(b"", b"\x00", start_revision=4, prev_kv=True)
    world.catch_up()
    (response,) = client.take()
    assert revisions([response]) == [4, 5, 6]
    assert [event.prev_kv.value for event in response.events] == [b"", b"2", b"old"]
    assert not response.events[0].HasField("prev_kv")


@LIVE_OR_HISTORY
def test_watchers_with_and_without_prev_kv_do_not_influence_each_other(live: bool) -> None:
    """WCH-29."""
    world = World()
    world.put(b"a", b"1")
    clients = [(world.client(), prev_kv) for prev_kv in (True, False, True)]
    if live:
        for client, prev_kv in clients:
            client.watch(b"a", prev_kv=prev_kv)
    world.put(b"a", b"2")
    world.txn([(b"a", b"3"), (b"b", b"")])
    for client, prev_kv in clients:
        if not live:
            client.watch(b"a", start_revision=3, prev_kv=prev_kv)
            world.catch_up()
        events = [event for response in client.take() for event in response.events]
        assert [event.kv.value for event in events] == [b"2", b"3"]
        assert [event.HasField("prev_kv") for event in events] == [prev_kv, prev_kv]


def test_a_historical_response_holds_a_bounded_number_of_revisions() -> None:
    """WCH-23."""
    world = World()
    for _ in range(CATCH_UP_REVISIONS + 1):
        world.put(b"a")
    client = world.client()
    client.watch(b"a", start_revision=2)
    world.catch_up()
    responses = client.take()
    assert [len(response.events) for response in responses] == [CATCH_UP_REVISIONS, 1]
    assert revisions(responses) == list(range(2, CATCH_UP_REVISIONS + 3))


def test_a_historical_response_is_bounded_in_bytes_but_never_splits_a_revision() -> None:
    """WCH-21, WCH-23."""
    world = World()
    half = b"x" * (CATCH_UP_RESPONSE_BYTES // 2)
    for _ in range(3):
        world.txn([(b"a1", half), (b"a2", half), (b"a3", half)])
    client = world.client()
    client.watch(b"a", b"b", start_revision=1)
    world.catch_up()
    assert [revisions([response]) for response in client.take()] == [[2] * 3, [3] * 3, [4] * 3]


FRAGMENT_LIMIT = 1000 + MESSAGE_OVERHEAD_BYTES


def big_txn(world: World, *sizes: int) -> None:
    world.txn([(b"a%d" % number, b"x" * size) for number, size in enumerate(sizes)])


@LIVE_OR_HISTORY
def test_a_big_response_is_split_between_events(live: bool) -> None:
    """WCH-41."""
    world = World(max_request_bytes=1000)
    quarter = FRAGMENT_LIMIT // 4
    responses = observe(
        world, live, lambda: big_txn(world, *[quarter] * 7), b"a", b"b", fragment=True
    )
    assert [response.fragment for response in responses] == [True, True, False]
    assert [len(response.events) for response in responses] == [3, 3, 1]
    assert all(response.ByteSize() < FRAGMENT_LIMIT for response in responses)
    assert {(r.watch_id, r.header.revision) for r in responses} == {(0, 2)}
    assert [key for r in responses for _, key, _ in summary(r)] == [b"a%d" % n for n in range(7)]


def test_an_event_is_never_cut() -> None:
    """WCH-41: one that is too big travels alone."""
    world = World(max_request_bytes=1000)
    sizes = (10, FRAGMENT_LIMIT * 2, 10, 10)
    responses = observe(world, True, lambda: big_txn(world, *sizes), b"a", b"b", fragment=True)
    assert [len(response.events) for response in responses] == [1, 1, 2]
    (single,) = observe(world, True, lambda: big_txn(world, FRAGMENT_LIMIT), b"a0", fragment=True)
    assert not single.fragment


def test_the_limit_for_fragments_is_exact() -> None:
    """WCH-41: at the limit it is split, one byte below it is not."""
    world = World(max_request_bytes=1000)
    (probe,) = observe(
        world, True, lambda: big_txn(world, 100_000, 100_000), b"a", b"b", watch_id=3
    )
    missing = FRAGMENT_LIMIT - probe.ByteSize()
    for short, expected in ((1, 1), (0, 2)):
        responses = observe(
            world,
            True,
            lambda short=short: big_txn(world, 100_000, 100_000 + missing - short),
            b"a",
            b"b",
            fragment=True,
            watch_id=3,
        )
        assert len(responses) == expected
        if expected == 1:
            assert responses[0].ByteSize() == FRAGMENT_LIMIT - 1


def test_without_fragment_a_response_has_any_size() -> None:
    """WCH-41."""
    world = World()
    big = MAX_REQUEST_BYTES + MESSAGE_OVERHEAD_BYTES
    (response,) = observe(world, True, lambda: big_txn(world, big, big), b"a", b"b")
    assert not response.fragment
    assert response.ByteSize() > 2 * big


def test_fragments_are_adjacent_on_the_stream() -> None:
    """WCH-42."""
    world = World(max_request_bytes=1000)
    client = world.client()
    for _ in range(3):
        client.watch(b"a", b"b", fragment=True)
    big_txn(world, *[FRAGMENT_LIMIT // 2] * 3)
    pieces = []
    while taken := client.take(max_bytes=1):
        pieces += [(response.watch_id, response.fragment) for response in taken]
    assert pieces == [(w, more) for w in range(3) for more in (True, True, False)]


def test_many_watchers_of_all_kinds_get_the_same_event() -> None:
    """WCH-20, KUB-33."""
    world = World()
    clients = [world.client() for _ in range(3)]
    ranges = [(b"a/b", b""), (b"a/", b"a0"), (b"a/b", b"a/c"), (b"a", b"z"), (b"", b"\x00")]
    for client in clients:
        for key, end in ranges:
            client.watch(key, end)
    world.put(b"a/b", b"v")
    for client in clients:
        responses = client.take()
        assert sorted(response.watch_id for response in responses) == [0, 1, 2, 3, 4]
        assert revisions(responses) == [2] * 5
    world.put(b"zz", b"v")
    assert [[r.watch_id for r in client.take()] for client in clients] == [[4]] * 3
