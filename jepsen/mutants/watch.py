"""Mutants of watches: events left out, repeated, out of order, or announced too early."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, Sim, mutant
from kvstore.mvcc.index import KeyRecord
from kvstore.mvcc.watch import WatchHub
from kvstore.mvcc.watch_history import Cohort, Encoded
from kvstore.mvcc.watch_index import WatchIndex
from kvstore.mvcc.watch_stream import Watcher, WatchStream

WATCHED = ("watch delivery",)
BROKEN = ("a member fails",)
MISSED = ("watch delivery", "liveness")
HELD_BACK = Sim(faults=("hold", "isolate_leader"), clients=6, transactors=0)
"""Members with watches on them that get snapshots, some of them without a compaction between."""


@mutant("every event is delivered", "WCH-20", *MISSED)
def live_events_lost_now_and_then(patch: Patches) -> None:
    @patch.around(WatchHub, "publish")
    def publish(original: Any, self: WatchHub, revision: int, events: Any, term: int) -> None:
        if revision % 10:
            original(self, revision, events, term)


@mutant("history is delivered without a gap", "WCH-21", *MISSED)
def event_left_out_behind_a_slice(patch: Patches) -> None:
    @patch.around(WatchHub, "_feed")
    def feed(original: Any, self: WatchHub, watcher: Watcher, responses: Any, stop: int) -> None:
        original(self, watcher, responses, stop)
        watcher.next_revision += watcher.next_revision == stop and stop % 4 == 0


@mutant("history is delivered once", "WCH-20, scenario 18", *WATCHED, *BROKEN)
def event_repeated_behind_a_slice(patch: Patches) -> None:
    @patch.around(WatchHub, "_feed")
    def feed(original: Any, self: WatchHub, watcher: Watcher, responses: Any, stop: int) -> None:
        original(self, watcher, responses, stop)
        if watcher.next_revision == stop and responses and not watcher.stream.full:
            self._send(watcher, responses[-1][1])


@mutant("a full stream loses nothing", "WCH-47", *MISSED)
def event_lost_when_a_stream_is_full(patch: Patches) -> None:
    @patch.around(WatchHub, "_fall_behind")
    def fall(original: Any, self: WatchHub, watcher: Watcher, next_revision: int) -> None:
        original(self, watcher, next_revision + 1)


@mutant("no event at or before a progress revision follows", "WCH-35, scenario 12", *WATCHED)
def progress_while_behind(patch: Patches) -> None:
    @patch.around(WatchHub, "_report_progress")
    def report(original: Any, self: WatchHub, stream: WatchStream) -> None:
        for watcher in stream.watchers.values():
            if watcher.progress_notify:
                stream.push((self.header(self._published),), watcher.id_field)


@mutant("progress tells what was published, not what will be", "WCH-38, scenario 12", *WATCHED)
def progress_one_ahead(patch: Patches) -> None:
    patch.set(WatchHub, "published", property(lambda self: self._published + 1))

    @patch.around(WatchHub, "_report_progress")
    def report(original: Any, self: WatchHub, stream: WatchStream) -> None:
        self._published += 1
        original(self, stream)
        self._published -= 1


@mutant("a revision is never split", "WCH-21, scenario 18", *WATCHED)
def live_revision_split(patch: Patches) -> None:
    @patch.around(WatchHub, "_publish_many")
    def publish(original: Any, self: WatchHub, revision: int, events: Any) -> None:
        for event in events:
            self._publish_one(revision, event)


@mutant("a revision is never split", "WCH-23, scenario 18", *WATCHED)
def historical_revision_split(patch: Patches) -> None:
    def add(self: Cohort, revision: int, event: bytes) -> None:
        self.responses.append((revision, [event]))

    patch.set(Cohort, "add", add)


@mutant("watches go on after a snapshot", "WCH-22, scenario 14", *MISSED)
def hub_not_told_of_a_snapshot(patch: Patches) -> None:
    @patch.instead(WatchHub, "restored")
    def restored(self: WatchHub) -> None:
        self._published = max(self._published, self._store.revision)


@mutant("watches go on where they were after a snapshot", "WCH-22, scenario 14", *MISSED)
def watches_go_on_behind_a_snapshot(patch: Patches) -> None:
    @patch.instead(WatchHub, "restored")
    def restored(self: WatchHub) -> None:
        self._published = max(self._published, self._store.revision)
        for watcher in list(self._synced):
            self._fall_behind(watcher, self._published + 1)


@mutant("watches do not go back after a snapshot", "scenario 14", *WATCHED, hunt=HELD_BACK)
def watches_begin_again_after_a_snapshot(patch: Patches) -> None:
    @patch.around(WatchHub, "restored")
    def restored(original: Any, self: WatchHub) -> None:
        original(self)
        for watcher in self._unsynced:
            low = max(self._store.compact_revision, watcher.start_revision, 1)
            watcher.next_revision = min(watcher.next_revision, max(low, watcher.next_revision - 3))


@mutant("a watch from a revision begins with it", "WCH-11", *MISSED)
def watch_from_now_misses_the_first_event(patch: Patches) -> None:
    @patch.around(WatchHub, "register")
    def register(original: Any, self: WatchHub, watcher: Watcher, now: float) -> None:
        if watcher.next_revision == self._store.revision:
            watcher.next_revision += 1
        original(self, watcher, now)


@mutant("a watch from a later revision gets nothing earlier", "WCH-13, scenario 11", *WATCHED)
def future_watch_gets_earlier_events(patch: Patches) -> None:
    @patch.around(WatchHub, "_sync")
    def sync(original: Any, self: WatchHub, watcher: Watcher) -> None:
        original(self, watcher)
        watcher.next_revision = 0


@mutant("a watch that a compaction overtook is told so", "WCH-48, scenario 15", *MISSED)
def overtaken_watch_goes_on_silently(patch: Patches) -> None:
    def cancel(self: WatchHub, watcher: Watcher) -> None:
        watcher.next_revision = self._store.compact_revision

    patch.set(WatchHub, "_cancel_compacted", cancel)


@mutant("prev_kv is the value before the event", "WCH-28", *WATCHED, *BROKEN)
def event_without_prev_kv_from_history(patch: Patches) -> None:
    patch.set(KeyRecord, "previous", lambda self, main, sub: (0, 0))


@mutant("prev_kv is the value before the event", "WCH-28", *WATCHED)
def prev_kv_of_an_event_is_its_own(patch: Patches) -> None:
    from kvstore.mvcc import watch_wire as wire

    def encode(self: Encoded) -> bytes:
        kind, _, kv, previous, _ = self._event
        return wire.event(kind, kv, kv if previous else None)

    patch.set(Encoded, "_encode_with_prev", encode)


@mutant("watchers of one range are independent", "WCH-43", *MISSED, *BROKEN, hunt=Sim(members=1))
def end_of_a_watch_ends_its_neighbours(patch: Patches) -> None:
    @patch.around(WatchIndex, "remove")
    def remove(original: Any, self: Any, item: Any) -> None:
        for group in self.groups(item.key):
            if item in group:
                group.clear()
                group[item] = None
        original(self, item)


@mutant("responses leave in order", "WCH-39", *WATCHED)
def progress_overtakes_events(patch: Patches) -> None:
    @patch.around(WatchStream, "push")
    def push(original: Any, self: Any, parts: Any, id_field: bytes, events: int = 0) -> None:
        original(self, parts, id_field, events)
        if len(parts) == 1 and events == 0:
            self.queue.rotate(1)


@mutant("responses leave in order", "WCH-20", *WATCHED)
def newest_response_first(patch: Patches) -> None:
    @patch.around(WatchStream, "take")
    def take(original: Any, self: WatchStream, max_bytes: int) -> Any:
        if len(self.queue) > 2:
            self.queue.rotate(1)
        return original(self, max_bytes)


@mutant("a watch is in one place of the hub", "WCH-20", *WATCHED, *BROKEN)
def watcher_served_twice_after_catching_up(patch: Patches) -> None:
    def sync(self: WatchHub, watcher: Watcher) -> None:
        watcher.synced = True
        self._synced.add(watcher)

    patch.set(WatchHub, "_sync", sync)


@mutant("filters leave out what they name", "WCH-26", *WATCHED)
def filters_ignored(patch: Patches) -> None:
    @patch.around(WatchHub, "register")
    def register(original: Any, self: WatchHub, watcher: Watcher, now: float) -> None:
        watcher.drop = 0
        original(self, watcher, now)
