"""Creating and cancelling watches."""

from __future__ import annotations

from random import Random

import pytest

from kvstore import errors
from kvstore.mvcc.watch import WatchHub
from tests.mvcc.watch_world import CLUSTER_ID, MEMBER_ID, TERM, World, revisions, summary


def test_one_stream_answers_creates_in_request_order() -> None:
    """WCH-01, WCH-03: ids are assigned from 0 upwards."""
    client = World().client()
    for key in (b"a", b"b", b"c"):
        client.create(key)
    replies = client.take()
    assert [reply.watch_id for reply in replies] == [0, 1, 2]
    assert all(reply.created and not reply.canceled for reply in replies)
    assert all(not reply.events for reply in replies)


def test_every_reply_carries_the_full_header() -> None:
    """GEN-01, GEN-02."""
    client = World().client()
    client.create(b"a")
    header = client.take_one().header
    assert (header.cluster_id, header.member_id, header.raft_term) == (CLUSTER_ID, MEMBER_ID, TERM)
    assert header.revision == 1


def test_the_term_in_headers_never_goes_back() -> None:
    """GEN-02."""
    world = World()
    client = world.client()
    client.stream.refuse("no", TERM + 1)
    client.create(b"a")
    assert [reply.header.raft_term for reply in client.take()] == [TERM + 1, TERM + 1]


def test_the_created_reply_comes_before_the_first_event() -> None:
    """WCH-02."""
    world = World()
    client = world.client()
    client.create(b"a")
    world.put(b"a")
    replies = client.take()
    assert [reply.created for reply in replies] == [True, False]


def test_assigned_ids_skip_ids_in_use_and_are_not_reused() -> None:
    """WCH-03."""
    client = World().client()
    assert client.watch(b"a", watch_id=1) == 1
    assert client.watch(b"a") == 0
    assert client.watch(b"a") == 2
    client.stream.cancel(2)
    assert client.watch(b"a") == 3


@pytest.mark.parametrize("watch_id", [7, 2**63 - 1, -9])
def test_a_chosen_id_is_used_as_given(watch_id: int) -> None:
    """WCH-03."""
    world = World()
    client = world.client()
    assert client.watch(b"a", watch_id=watch_id) == watch_id
    world.put(b"a")
    assert client.take_one().watch_id == watch_id


def assert_refused(reply, reason: str) -> None:
    assert (reply.created, reply.canceled, reply.watch_id) == (True, True, -1)
    assert reply.cancel_reason == reason
    assert reply.compact_revision == 0


def test_a_duplicate_id_is_refused_and_the_stream_goes_on() -> None:
    """WCH-04, WCH-05."""
    world = World()
    client = world.client()
    client.watch(b"a", watch_id=7)
    client.create(b"b", watch_id=7)
    assert_refused(client.take_one(), "mvcc: duplicate watch ID provided on the WatchStream")
    world.put(b"b")
    world.put(b"a")
    assert summary(client.take_one()) == [("PUT", b"a", 3)]


def test_ids_are_per_stream() -> None:
    """WCH-04."""
    world = World()
    assert world.client().watch(b"a", watch_id=7) == 7
    assert world.client().watch(b"a", watch_id=7) == 7


def test_an_empty_key_without_end_means_the_zero_byte() -> None:
    """WCH-06."""
    world = World()
    client = world.client()
    client.watch(b"")
    world.put(b"a")
    world.put(b"\x00")
    assert summary(client.take_one()) == [("PUT", b"\x00", 3)]


def test_an_empty_key_with_zero_end_means_everything() -> None:
    """WCH-06."""
    world = World()
    client = world.client()
    client.watch(b"", b"\x00")
    for key in (b"\x00", b"a", b"\xff\xff"):
        world.put(key)
    assert revisions(client.take()) == [2, 3, 4]


def test_a_zero_end_means_from_the_key_on() -> None:
    """WCH-07."""
    world = World()
    client = world.client()
    client.watch(b"b", b"\x00")
    for key in (b"a", b"b", b"\xff"):
        world.put(key)
    assert revisions(client.take()) == [3, 4]


def test_the_range_end_is_exclusive() -> None:
    """WCH-07."""
    world = World()
    client = world.client()
    client.watch(b"b", b"d")
    for key in (b"a", b"b", b"c", b"d"):
        world.put(key)
    assert revisions(client.take()) == [3, 4]


def test_the_header_of_the_created_reply_is_the_point_of_registration() -> None:
    """WCH-08, WCH-10."""
    world = World()
    world.put(b"a")
    client = world.client()
    client.create(b"a")
    world.put(b"a")
    created, event = client.take()
    assert created.header.revision == 2
    assert revisions([event]) == [3]


@pytest.mark.parametrize(("key", "end"), [(b"b", b"b"), (b"b", b"a"), (b"b", b"\x00\x00")])
def test_an_empty_range_is_refused(key: bytes, end: bytes) -> None:
    """WCH-09."""
    client = World().client()
    client.create(key, end)
    assert_refused(client.take_one(), "mvcc: watcher range is empty")


def test_a_start_in_the_past_delivers_history_and_then_live_events() -> None:
    """WCH-11."""
    world = World()
    for _ in range(5):
        world.put(b"a")
    client = world.client()
    client.watch(b"a", start_revision=3)
    world.put(b"a")
    world.catch_up()
    world.put(b"a")
    assert revisions(client.take()) == [3, 4, 5, 6, 7, 8]


def test_a_start_in_the_future_delivers_nothing_below_it() -> None:
    """WCH-12, KUB-21."""
    world = World()
    client = world.client()
    client.watch(b"a", start_revision=4)
    for _ in range(4):
        world.put(b"a")
    assert revisions(client.take()) == [4, 5]


def test_a_negative_start_is_refused() -> None:
    """WCH-13."""
    client = World().client()
    client.create(b"a", start_revision=-1)
    assert_refused(client.take_one(), errors.COMPACTED.message)


def compacted_world() -> World:
    world = World()
    for _ in range(5):
        world.put(b"a")
    world.compact(4)
    return world


def test_a_compacted_start_is_created_and_then_cancelled() -> None:
    """WCH-14."""
    world = compacted_world()
    client = world.client()
    client.create(b"a", start_revision=3)
    world.catch_up()
    created, canceled = client.take()
    assert created.created
    assert not created.canceled
    assert created.watch_id == 0
    assert canceled.canceled
    assert not canceled.created
    assert canceled.watch_id == 0
    assert canceled.compact_revision == 4
    assert (canceled.cancel_reason, canceled.header.revision) == ("", 0)
    assert not canceled.events


def test_the_compact_revision_itself_can_be_watched() -> None:
    """WCH-15, KUB-24."""
    world = compacted_world()
    client = world.client()
    client.watch(b"a", start_revision=4)
    world.catch_up()
    assert revisions(client.take()) == [4, 5, 6]


def test_a_watch_cancelled_by_compaction_does_not_hold_up_the_others() -> None:
    """WCH-16, WCH-36."""
    world = compacted_world()
    client = world.client()
    client.watch(b"a")
    client.watch(b"a", start_revision=1)
    world.catch_up()
    assert client.take_one().canceled
    client.stream.progress(TERM)
    assert client.take_one().header.revision == 6


def test_an_id_that_a_compaction_ended_is_taken_until_the_client_cancels_it() -> None:
    """WCH-16, OTH-08: clients cancel such a watch once more."""
    world = compacted_world()
    client = world.client()
    assert client.watch(b"a", start_revision=1) == 0
    world.catch_up()
    assert client.take_one().compact_revision == 4
    client.create(b"a", start_revision=1, watch_id=7)
    world.catch_up()
    client.take()
    client.create(b"a", watch_id=7)
    assert_refused(client.take_one(), errors.WATCH_DUPLICATE_ID)
    client.stream.cancel(7)
    (reply,) = client.take()
    assert (reply.canceled, reply.watch_id, reply.compact_revision) == (True, 7, 0)
    client.create(b"a", watch_id=7)
    assert client.take_one().created
    assert client.watch(b"a") == 1
    client.stream.cancel(0)
    assert client.take_one().canceled


def test_cancel_confirms_and_nothing_follows() -> None:
    """WCH-43."""
    world = World()
    client = world.client()
    watch_id = client.watch(b"a", start_revision=1)
    live = client.watch(b"a")
    client.stream.cancel(watch_id)
    client.stream.cancel(live)
    for reply in client.take():
        assert reply.canceled
        assert (reply.cancel_reason, reply.compact_revision, reply.created) == ("", 0, False)
        assert reply.header.revision == 1
    world.put(b"a")
    world.catch_up()
    assert client.take() == []


def test_cancel_of_an_unknown_id_is_silent() -> None:
    """WCH-44."""
    client = World().client()
    client.stream.cancel(5)
    assert client.take() == []


def test_a_denied_watch_is_answered_in_request_order() -> None:
    """WCH-01, WCH-05: the caller checks permissions and refuses with the error's text."""
    client = World().client()
    client.create(b"a")
    client.stream.refuse(errors.PERMISSION_DENIED.message, TERM)
    client.create(b"b")
    first, refused, second = client.take()
    assert_refused(refused, "etcdserver: permission denied")
    assert (first.watch_id, second.watch_id) == (0, 1)


def test_a_closed_stream_is_forgotten() -> None:
    """WCH-51: nothing is queued, woken or created any more."""
    world = World()
    client = world.client()
    client.watch(b"a")
    client.watch(b"b", start_revision=1, progress_notify=True)
    client.stream.close()
    client.stream.close()
    wakes = client.wakes
    client.create(b"a")
    client.stream.refuse("late", TERM)
    world.put(b"a")
    world.catch_up()
    world.hub.tick(world.now + 1000)
    assert client.take() == []
    assert client.wakes == wakes


@pytest.mark.parametrize(
    "bad", [{"progress_interval": 0.09}, {"queue_limit": 0}, {"queue_bytes": 0}]
)
def test_settings_out_of_range_are_named(bad: dict[str, float]) -> None:
    """WCH-33: the shortest progress interval is 100 ms."""
    world = World()
    good = {"cluster_id": 1, "member_id": 1, "max_request_bytes": 1, "progress_interval": 0.1}
    WatchHub(world.store, random=Random(1), **good)
    with pytest.raises(ValueError, match=next(iter(bad))):
        WatchHub(world.store, random=Random(1), **(good | bad))
