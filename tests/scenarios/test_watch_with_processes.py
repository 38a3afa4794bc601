"""Watches on real members: scenarios 10, 11, 12, 14, 15 and 16."""

from __future__ import annotations

import contextlib
import threading

import grpc

from jepsen.hunts.processes import Processes, events_of, watch_call
from tests.e2e.client import Client

WRITES = 400
SOON = 20
"""A revision that is reached while a member is cut off: it misses more than these."""
VALUE = bytes(16 * 1024)
SLOW_WRITES = 200
"""More than wait on a stream (128): the watch falls back to history before the compaction."""


def write(three: Processes, prefix: bytes, count: int, through: int) -> int:
    """Put so many keys through a member; return the last revision."""
    for number in range(count):
        last = three.client(through).put(prefix + b"%d" % number).header.revision
    return int(last)


def test_scenario_20693_a_negative_revision_harms_no_other_watch(three: Processes) -> None:
    """Scenario 10."""
    client = three.client(1)
    with watch_call(client) as watch:
        good = watch.ask(b"negative/")
        refused = watch.ask(b"negative/", -1)
        assert refused.canceled
        first = write(three, b"negative/", 1, 0)
        last = write(three, b"negative/", 3, 0)
        response = watch.next()
        assert response.watch_id == good.watch_id
        assert events_of(response)[0][1] == first
        if events_of(response)[-1][1] < last:
            watch.events_until(last)


def test_scenarios_20221_15271_watches_of_a_member_brought_back_by_a_snapshot(
    three: Processes,
) -> None:
    """Scenarios 11 and 14: one watch goes on where it was, one waits for a future revision that
    the snapshot brings, and one for a revision after it."""
    away, other = three.followers()
    head = write(three, b"away/", 5, other)
    three.wait_revision(away, head)
    client = three.client(away)
    with watch_call(client) as now, watch_call(client) as soon, watch_call(client) as later:
        assert now.ask(b"away/").header.revision == head
        soon.ask(b"away/", head + SOON, progress_notify=True)
        installed = three.metric(away, "etcd_network_snapshot_receive_success")
        with three.cut_off_until_it_needs_a_snapshot(away, b"away/") as last:
            later.ask(b"away/", last + 3, progress_notify=True)
            for watch in (soon, later):
                watch.ask_progress()
        three.wait_revision(away, last)
        assert three.metric(away, "etcd_network_snapshot_receive_success") > installed
        end = write(three, b"away/", 5, other)
        expected = {now: head + 1, soon: head + SOON, later: last + 3}
        for watch, start in expected.items():
            seen = []
            while not seen or seen[-1] < end:
                response = watch.next()
                assert not response.canceled
                if not response.events:  # progress, which is of its start at least
                    assert response.header.revision >= start - (watch is now)
                seen += [revision for _, revision in events_of(response)]
            assert seen == list(range(start, end + 1))


def test_scenario_15220_no_event_after_progress(three: Processes) -> None:
    """Scenario 12: progress asked for and periodic, while others write and the reader is slow."""
    follower, other = three.followers()
    with watch_call(three.client(follower)) as watch:
        head = watch.ask(b"progress/", progress_notify=True).header.revision
        writer = threading.Thread(target=write, args=(three, b"progress/", WRITES, other))
        writer.start()
        seen: list[int] = []
        reported, reports = 0, 0
        while len(seen) < WRITES:
            if reports < 5 or len(seen) % 7 == 0:
                watch.ask_progress()
            response = watch.next()
            if response.events:
                revisions = [revision for _, revision in events_of(response)]
                assert revisions[0] > reported
                seen += revisions
            else:
                reported = max(reported, response.header.revision)
                reports += 1
        writer.join()
    assert seen == sorted(set(seen))
    assert seen[0] > head
    assert reports


def test_scenario_17529_a_watcher_that_does_not_read_is_overtaken_by_a_compaction(
    three: Processes,
) -> None:
    """Scenario 15: then it gets what is queued, without a gap, and either all or the cancel."""
    client, slow = three.client(0), Client(three.members[0].endpoint)
    with contextlib.closing(slow), watch_call(slow) as watch:
        watch.ask(b"slow/")
        first = client.put(b"slow/", VALUE).header.revision
        for _ in range(SLOW_WRITES):
            last = client.put(b"slow/", VALUE).header.revision
        client.compact(last, physical=True)
        seen: list[int] = []
        canceled = None
        while canceled is None and (not seen or seen[-1] < last):
            response = watch.next()
            if response.canceled:
                canceled = response
            seen += [revision for _, revision in events_of(response)]
    assert seen == list(range(first, first + len(seen)))
    assert seen[-1] == last or canceled is not None
    if canceled is not None:
        assert canceled.compact_revision == last


def test_scenario_18089_a_delete_at_the_compact_revision_is_seen(three: Processes) -> None:
    """Scenario 16: on every member, before and after its restart."""
    client = three.client(0)
    client.put(b"compacted/")
    deleted = client.delete(b"compacted/").header.revision
    written = client.put(b"compacted/").header.revision
    client.compact(deleted, physical=True)
    restarted = three.followers()[0]
    three.restart(restarted)
    for number in range(3):
        three.wait_revision(number, written)
        with watch_call(three.client(number)) as watch:
            watch.ask(b"compacted/", deleted)
            assert watch.events_until(written) == [("DELETE", deleted), ("PUT", written)]
        try:
            with watch_call(three.client(number)) as watch:
                watch.ask(b"compacted/", deleted - 1)
                assert watch.next().compact_revision == deleted
        except grpc.RpcError as error:
            raise AssertionError("a compacted start ends the watch, not the stream") from error
