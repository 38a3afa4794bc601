"""Progress: what a client may conclude from silence."""

from __future__ import annotations

from tests.mvcc.watch_world import PROGRESS_INTERVAL_S, TERM, World, revisions

LATEST_S = PROGRESS_INTERVAL_S * 1.1
"""By now the interval is over, jitter included."""


def assert_is_progress(response, watch_id: int, revision: int) -> None:
    """WCH-31: how clientv3 recognises it."""
    assert (response.watch_id, response.header.revision) == (watch_id, revision)
    assert not response.created
    assert not response.canceled
    assert not response.events
    assert response.compact_revision == 0


def test_an_idle_watch_reports_progress_after_the_interval_and_its_jitter() -> None:
    """WCH-31, WCH-33."""
    world = World()
    client = world.client()
    watch_id = client.watch(b"a", watch_id=4, progress_notify=True)
    client.watch(b"a")
    world.put(b"b")
    world.hub.tick(world.now + PROGRESS_INTERVAL_S * 0.999)
    assert client.take() == []
    world.hub.tick(world.now + LATEST_S)
    assert_is_progress(client.take_one(), watch_id, 2)


def test_progress_comes_once_for_each_interval() -> None:
    """WCH-33."""
    world = World()
    client = world.client()
    client.watch(b"a", progress_notify=True)
    world.hub.tick(world.now + LATEST_S)
    world.hub.tick(world.now + LATEST_S)
    world.hub.tick(world.now + LATEST_S + PROGRESS_INTERVAL_S * 0.999)
    assert len(client.take()) == 1
    world.hub.tick(world.now + 2 * LATEST_S)
    assert len(client.take()) == 1


def test_streams_have_their_own_jitter() -> None:
    """WCH-33."""
    world = World()
    clients = [world.client() for _ in range(50)]
    for client in clients:
        client.watch(b"a", progress_notify=True)
    world.hub.tick(world.now + PROGRESS_INTERVAL_S * 1.05)
    reported = sum(len(client.take()) for client in clients)
    assert 0 < reported < 50


def test_an_interval_with_events_reports_no_progress() -> None:
    """WCH-34."""
    world = World()
    client = world.client()
    client.watch(b"a", progress_notify=True)
    world.put(b"a")
    world.hub.tick(world.now + LATEST_S)
    assert revisions([client.take_one()]) == [2]
    world.hub.tick(world.now + 2 * LATEST_S)
    assert_is_progress(client.take_one(), 0, 2)


def test_a_watch_that_is_behind_reports_no_progress() -> None:
    """WCH-34."""
    world = World()
    world.put(b"b")
    client = world.client()
    client.watch(b"a", start_revision=1, progress_notify=True)
    world.hub.tick(world.now + LATEST_S)
    assert client.take() == []
    world.catch_up()
    world.hub.tick(world.now + 2 * LATEST_S)
    assert_is_progress(client.take_one(), 0, 2)


def test_no_progress_below_the_start_revision() -> None:
    """WCH-35."""
    world = World()
    client = world.client()
    client.watch(b"a", start_revision=3, progress_notify=True)
    world.put(b"b")
    world.hub.tick(world.now + LATEST_S)
    client.stream.progress(TERM)
    assert client.take() == []
    world.put(b"b")
    client.stream.progress(TERM)
    world.hub.tick(world.now + 2 * LATEST_S)
    manual, periodic = client.take()
    assert_is_progress(manual, -1, 3)
    assert_is_progress(periodic, 0, 3)


def test_manual_progress_answers_for_the_stream_with_the_revision_applied_now() -> None:
    """WCH-36, WCH-38, KUB-19: also when the watched range is idle."""
    world = World()
    client = world.client()
    client.watch(b"a")
    client.watch(b"b")
    for _ in range(3):
        world.put(b"idle")
    client.stream.progress(TERM)
    assert_is_progress(client.take_one(), -1, 4)


def test_manual_progress_is_dropped_while_one_watch_is_behind() -> None:
    """WCH-37."""
    world = World()
    world.put(b"a")
    client = world.client()
    client.watch(b"a")
    client.watch(b"a", start_revision=1)
    client.stream.progress(TERM)
    assert client.take() == []
    world.catch_up()
    assert revisions([client.take_one()]) == [2]
    client.stream.progress(TERM)
    assert_is_progress(client.take_one(), -1, 2)


def test_progress_never_overtakes_events() -> None:
    """WCH-32, WCH-39."""
    world = World()
    client = world.client()
    client.watch(b"a")
    world.put(b"a")
    client.stream.progress(TERM)
    world.put(b"a")
    first, progress, second = client.take()
    assert (revisions([first]), revisions([second])) == ([2], [3])
    assert_is_progress(progress, -1, 2)


def test_progress_is_dropped_when_the_queue_is_full() -> None:
    """WCH-39."""
    world = World(queue_limit=1)
    client = world.client()
    client.watch(b"a", progress_notify=True)
    world.put(b"a")
    client.stream.progress(TERM)
    world.hub.tick(world.now + LATEST_S)
    world.hub.tick(world.now + 2 * LATEST_S)
    assert revisions([client.take_one()]) == [2]


def test_a_stream_without_watches_gets_no_progress() -> None:
    """WCH-40."""
    client = World().client()
    client.stream.progress(TERM)
    client.stream.cancel(client.watch(b"a"))
    client.take()
    client.stream.progress(TERM)
    assert client.take() == []
