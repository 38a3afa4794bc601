"""Watches, simulated: scenarios 9 to 18."""

from __future__ import annotations

from random import Random

import pytest

from kvstore import errors
from tests.mvcc.watch_world import TERM, World, revisions, summary
from tests.scenarios import stories
from tests.scenarios.stories import Watch
from tests.sim.test_requests import Story

ALL = b"\0"
WRITES = 200
"""More than any member of a story keeps in its log: who misses them gets a snapshot."""


@pytest.fixture(params=range(2))
def story(request: pytest.FixtureRequest) -> Story:
    return Story(request.param)


def test_scenario_11496_revision_0_is_from_now_and_1_is_all_history() -> None:
    """Scenario 9."""
    world = World()
    world.put(b"a")
    world.delete(b"a")
    now, everything = world.client(), world.client()
    now.watch(ALL, ALL, start_revision=0)
    everything.watch(ALL, ALL, start_revision=1)
    world.put(b"b")
    world.catch_up()
    world.put(b"c")
    assert revisions(now.take()) == [4, 5]
    assert revisions(everything.take()) == [2, 3, 4, 5]


def test_scenario_20693_a_negative_revision_is_refused_and_others_lose_nothing() -> None:
    """Scenario 10: also those on the same stream, and those that are being caught up."""
    world = World()
    for _ in range(3):
        world.put(b"a")
    client, other = world.client(), world.client()
    synced, behind = client.watch(b"a"), client.watch(b"a", start_revision=2)
    other.watch(b"a", start_revision=1)
    client.create(b"a", start_revision=-1)
    refused = client.take_one()
    assert refused.canceled and refused.cancel_reason == errors.COMPACTED.message
    world.put(b"a")
    world.catch_up()
    world.put(b"a")
    received = client.take()
    assert revisions([r for r in received if r.watch_id == synced]) == [5, 6]
    assert revisions([r for r in received if r.watch_id == behind]) == [2, 3, 4, 5, 6]
    assert revisions(other.take()) == [2, 3, 4, 5, 6]


def cut_off_and_brought_back(story: Story, watch_from: int) -> tuple[Watch, int, int]:
    """Watch on a member that is cut off until only a snapshot can bring it back.

    Returns the watch, the member's revision while it was cut off and the cluster's since then.
    """
    lagging = story.followers[0]
    before = [stories.put(story, story.leader, b"before") for _ in range(5)]
    story.until(lambda: lagging.store.revision == before[-1])
    watch = Watch(story, lagging, watch_from)
    story.isolate(lagging)
    for _ in range(WRITES):
        last = stories.put(story, story.leader, b"while it was away")
    watch.ask_progress()
    watch.take()
    assert lagging.store.revision == before[-1]
    story.simulation.network.heal()
    counts = story.simulation.checks.counts
    story.until(lambda: lagging.store.revision == last)
    assert counts.get("snapshot installed", 0) + counts.get(
        "snapshot installed while committing", 0
    )
    return watch, before[-1], last


def test_scenario_20221_a_future_start_survives_a_snapshot(story: Story) -> None:
    """Scenario 11: no event before it, no progress before it is reached."""
    start = 2 + WRITES // 2
    watch, old, last = cut_off_and_brought_back(story, start)
    assert old < start < last
    assert watch.events == watch.progress == []
    watch.ask_progress()
    story.until(lambda: watch.has(last))
    assert [revision for revision, _ in watch.events] == list(range(start, last + 1))
    watch.check_progress()
    assert all(revision >= start for revision, _ in watch.progress)


def test_scenario_20221_a_start_beyond_the_snapshot_too(story: Story) -> None:
    """Scenario 11: the snapshot brings nothing for this watch; the next revision does."""
    start = 2 + 5 + WRITES + 2
    watch, _, last = cut_off_and_brought_back(story, start)
    assert last < start
    watch.ask_progress()
    story.run(3.0)
    watch.take()
    assert watch.events == watch.progress == []
    while last < start:
        last = stories.put(story, story.leader, b"later")
    story.until(lambda: watch.has(start))
    assert watch.events == [(start, b"later")]


def test_scenario_15271_a_watch_never_goes_back_at_a_snapshot(story: Story) -> None:
    """Scenario 14: nothing twice, nothing left out, live events follow."""
    watch, old, last = cut_off_and_brought_back(story, 0)
    story.until(lambda: watch.has(last))
    live = stories.put(story, story.leader, b"live")
    story.until(lambda: watch.has(live))
    assert [revision for revision, _ in watch.events] == list(range(old + 1, live + 1))
    watch.check_progress()


@pytest.mark.parametrize("seed", range(20))
def test_scenario_15220_no_event_after_progress(seed: int) -> None:
    """Scenario 12: whoever is slow, behind or full, and whatever is compacted or replaced."""
    random = Random(seed)
    world = World(queue_limit=3)
    clients = [world.client() for _ in range(4)]
    due: dict[tuple[int, int], int] = {}
    """First revision that each watch may still be sent."""
    for number, client in enumerate(clients):
        for start in (0, 1, 10):
            due[number, client.watch(b"a", start_revision=start, progress_notify=True)] = 0
    reported = 0
    for _ in range(600):
        action = random.randrange(12)
        number = random.randrange(4)
        if action < 2:
            world.put(random.choice((b"a", b"b")))
        elif action == 2:
            world.txn([(b"a", b""), (b"b", b"")])
        elif action == 3 and random.random() < 0.2:
            world.install_snapshot((b"a", b"x"), (b"b", b"y"))
        elif action < 6:
            world.hub.catch_up()
        elif action == 6:
            world.now += random.choice((1.0, 12.0))
            world.hub.tick(world.now)
        elif action == 7:
            clients[number].stream.progress(TERM)
        elif action > 7:
            for response in clients[number].take(random.choice((1, 1000))):
                one = (number, response.watch_id)
                if response.events:
                    first = response.events[0].kv.mod_revision
                    assert first >= due[one], f"{one}: {first} after {due[one]}"
                    due[one] = response.events[-1].kv.mod_revision + 1
                else:
                    reported += 1
                    for each in due:
                        if each == one or (response.watch_id == -1 and each[0] == number):
                            due[each] = max(due[each], response.header.revision + 1)
    assert reported


def test_scenario_17566_idle_watches_get_progress_whatever_they_went_through() -> None:
    """Scenario 13: one that was behind, full, filtered or brought through a snapshot."""
    world = World(queue_limit=2)
    client = world.client()
    client.watch(b"a", start_revision=1, progress_notify=True)
    for _ in range(9):
        world.put(b"a")
    received = 0
    while received < 9:
        world.catch_up()
        received += len(revisions(client.take()))
    head = world.install_snapshot((b"b", b""))
    world.catch_up()
    for _ in range(3):
        world.now += 12.0
        world.hub.tick(world.now)
        found = [r.header.revision for r in client.take()]
        assert found in ([head], []), found
    world.now += 12.0
    world.hub.tick(world.now)
    assert [r.header.revision for r in client.take()] == [head]


def test_scenario_17529_a_slow_watcher_gets_everything_or_is_told_of_the_compaction() -> None:
    """Scenario 15: wherever in the stream the compaction strikes."""
    outcomes = set()
    for compacted in range(2, 42):
        world = World(queue_limit=3)
        client = world.client()
        client.watch(b"a", start_revision=1)
        for _ in range(20):
            world.put(b"a")
        world.catch_up()
        for _ in range(20):
            world.put(b"a")
        world.compact(compacted)
        seen: list[int] = []
        canceled = 0
        while not canceled and (not seen or seen[-1] < 41):
            world.catch_up()
            for response in client.take(100):
                assert not canceled
                seen += revisions([response])
                canceled = response.compact_revision if response.canceled else 0
        assert seen == list(range(2, 2 + len(seen)))
        assert canceled in (0, compacted)
        assert not canceled or len(seen) + 2 < compacted
        outcomes.add(bool(canceled))
    assert outcomes == {True, False}


def test_scenario_18089_a_delete_at_the_compact_revision_is_seen() -> None:
    """Scenario 16: DELETE, then the PUT after it."""
    world = World()
    for _ in range(3):
        world.put(b"a")
    assert world.delete(b"a") == 5
    assert world.put(b"a") == 6
    world.compact(5)
    client = world.client()
    client.watch(b"a", start_revision=5)
    world.catch_up()
    events = [event for response in client.take() for event in summary(response)]
    assert events == [("DELETE", b"a", 5), ("PUT", b"a", 6)]
