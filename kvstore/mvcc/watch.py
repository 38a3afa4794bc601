"""Watches: every committed and applied event reaches every watcher that asked for it, in order,
once (WCH-20..25).

`WatchHub` joins the store and the streams. A watcher is either *synced*, served by `publish` as
revisions are applied, or *unsynced*, served by `catch_up` from stored history: because it starts in
the past, its client reads slowly, or a snapshot replaced the store. It moves from one to the other
only at a revision border, so it sees neither a gap nor a duplicate.

    create, start <= revision --> unsynced --(next_revision > revision)--> synced
                                     ^                                       |
                                     +---(its stream is full, restored())----+

Nothing here applies, proposes, blocks or knows asyncio; time is a parameter (monotonic seconds).

Trade-off: an event is encoded once and shared; streams hold references to the shared pieces and
join them when they are taken. So a thousand slow streams on one key cost one copy, and each limit
in bytes counts shared bytes on every stream that holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from kvstore.mvcc import watch_wire as wire
from kvstore.mvcc.store import Event, Store
from kvstore.mvcc.watch_history import Encoded, read_slice
from kvstore.mvcc.watch_index import WatchIndex
from kvstore.mvcc.watch_stream import QUEUE_BYTES, QUEUE_RESPONSES, Watcher, WatchStream

MESSAGE_OVERHEAD_BYTES = 512 << 10
"""Responses of watchers with fragment=true are split from max-request-bytes plus this (WCH-41)."""

MIN_PROGRESS_INTERVAL_S = 0.1
"""Shortest interval of periodic progress (WCH-33)."""

PROGRESS_JITTER = 0.1
"""Largest part of the interval by which periodic progress is put off at random (WCH-33)."""


class RandomFraction(Protocol):
    """The part of `random.Random` that jitter needs."""

    def random(self) -> float: ...


class WatchHub:
    """All watch streams of a member.

    Inputs: `publish` for each applied revision, `catch_up` about every 100 ms while there are
    `slow_watchers` (`on_behind`) and again at once while it returns True, `tick` every 100 ms or
    so, `restored` after a snapshot was installed.

    Attributes:
        streams: all that are open.
        events_sent: events that streams have handed out since start.
    """

    def __init__(
        self,
        store: Store,
        *,
        cluster_id: int,
        member_id: int,
        max_request_bytes: int,
        progress_interval: float,
        random: RandomFraction,
        queue_limit: int = QUEUE_RESPONSES,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Begin at the store's revision, without streams.

        Args:
            max_request_bytes: the member's limit; responses are fragmented from 512 KiB above it.
            progress_interval: seconds between periodic progress, >= 0.1.
            queue_limit: responses that may wait on a stream, >= 1.
            queue_bytes: bytes that may wait on a stream, >= 1.

        Raises:
            ValueError: an argument is out of its range.
        """
        if progress_interval < MIN_PROGRESS_INTERVAL_S:
            raise ValueError(f"progress_interval: {progress_interval} s is shorter than 0.1 s")
        if queue_limit < 1 or queue_bytes < 1:
            raise ValueError(f"queue_limit, queue_bytes: {queue_limit}, {queue_bytes}; least is 1")
        self._store = store
        self._member = wire.member_fields(cluster_id, member_id)
        self._fragment_bytes = max_request_bytes + MESSAGE_OVERHEAD_BYTES
        self._progress_interval = progress_interval
        self._random = random
        self._queue_limit = queue_limit
        self._queue_bytes = queue_bytes
        self._synced: WatchIndex[Watcher] = WatchIndex()
        self._unsynced: dict[Watcher, None] = {}
        self._published = store.revision
        self._raft_term = 0
        self._cursor = 0
        self._progress_due: dict[WatchStream, float] = {}
        self._next_progress = math.inf
        self.streams: set[WatchStream] = set()
        self.events_sent = 0
        self.on_behind: Callable[[], None] = _nothing
        """Called when a watcher needs `catch_up`, often in the middle of applying."""

    def stream(self, wake: Callable[[], None]) -> WatchStream:
        """Open a stream.

        Args:
            wake: called when the stream's queue turns non-empty, often in the middle of applying:
                it may only note or schedule, not call back into the hub or the stream.
        """
        stream = WatchStream(self, wake, self._queue_limit, self._queue_bytes)
        self.streams.add(stream)
        return stream

    @property
    def published(self) -> int:
        """All events up to this revision are queued for every synced watcher (WCH-32, WCH-38)."""
        return self._published

    @property
    def slow_watchers(self) -> int:
        """Watchers that are served from history for now."""
        return len(self._unsynced)

    def events_waiting(self) -> int:
        """Count the events that are queued on all streams."""
        return sum(response[3] for stream in self.streams for response in stream.queue)

    @property
    def store_revision(self) -> int:
        """The store's revision now."""
        return self._store.revision

    # For the streams.

    def header(self, revision: int) -> bytes:
        """Encode a response header with the latest known term."""
        return wire.header(self._member, revision, self._raft_term)

    def note_term(self, raft_term: int) -> None:
        """Learn the term of the last applied entry; it never goes back (GEN-02)."""
        self._raft_term = max(self._raft_term, raft_term)

    def register(self, watcher: Watcher, now: float) -> None:
        """Begin to serve a watcher whose created reply is queued (WCH-10..14)."""
        if watcher.next_revision == 0:
            watcher.next_revision = self._store.revision + 1
        self._unsynced[watcher] = None
        if watcher.next_revision > self._store.revision:
            self._sync(watcher)
        else:
            self.on_behind()
        if watcher.progress_notify and watcher.stream not in self._progress_due:
            due = now + self._jittered_interval()
            self._progress_due[watcher.stream] = due
            self._next_progress = min(self._next_progress, due)

    def unregister(self, watcher: Watcher) -> None:
        """Stop serving a watcher."""
        if watcher.synced:
            self._synced.remove(watcher)
        else:
            del self._unsynced[watcher]

    def forget(self, stream: WatchStream) -> None:
        """Drop what is kept for a closed stream besides its watchers."""
        self._progress_due.pop(stream, None)
        self.streams.discard(stream)

    # Live events.

    def publish(self, revision: int, events: Sequence[Event], raft_term: int) -> None:
        """Queue the events of one applied revision for the synced watchers that match.

        Call it once for each revision, ascending, when the revision is readable (WCH-25). A full
        stream's watchers fall back to history instead; nothing ever waits for them (WCH-47).
        """
        self.note_term(raft_term)
        self._published = max(self._published, revision)
        if len(events) == 1:
            self._publish_one(revision, events[0])
        else:
            self._publish_many(revision, events)

    def _publish_one(self, revision: int, event: Event) -> None:
        """The hot path: nearly every revision has one event. No call for each watcher."""
        groups = self._synced.groups(event[1])
        if not groups:
            return
        encoded = Encoded(self._store, event)
        header = self.header(revision)
        queue_limit, queue_bytes = self._queue_limit, self._queue_bytes
        kind_bit = 1 << event[0]
        plain: tuple[tuple[bytes, ...], int] | None = None
        with_prev: tuple[tuple[bytes, ...], int] | None = None
        behind: list[Watcher] = []
        for group in groups:
            for watcher in group:
                if watcher.drop & kind_bit or revision < watcher.next_revision:
                    continue
                stream = watcher.stream
                queue = stream.queue
                if len(queue) >= queue_limit or stream.queued_bytes >= queue_bytes:
                    behind.append(watcher)
                    continue
                if watcher.prev_kv:
                    if with_prev is None:
                        with_prev = _joined(header, encoded.field(prev_kv=True))
                    parts, size = with_prev
                else:
                    if plain is None:
                        plain = _joined(header, encoded.field(prev_kv=False))
                    parts, size = plain
                watcher.sent = True
                if queue:
                    stream.queued_bytes += size
                    queue.append((parts, watcher.id_field, size, 1))
                else:
                    stream.push_sized(parts, watcher.id_field, size, 1)
        for watcher in behind:
            self._fall_behind(watcher, revision)

    def _publish_many(self, revision: int, events: Sequence[Event]) -> None:
        picked: dict[Watcher, list[int]] = {}
        for position, event in enumerate(events):
            kind_bit = 1 << event[0]
            for group in self._synced.groups(event[1]):
                for watcher in group:
                    if not watcher.drop & kind_bit and revision >= watcher.next_revision:
                        picked.setdefault(watcher, []).append(position)
        if not picked:
            return
        header = self.header(revision)
        encoded = [Encoded(self._store, event) for event in events]
        shared: dict[tuple[bool, tuple[int, ...]], tuple[bytes, ...]] = {}
        for watcher, positions in picked.items():
            if watcher.stream.full:
                self._fall_behind(watcher, revision)
                continue
            selection = (watcher.prev_kv, tuple(positions))
            parts = shared.get(selection)
            if parts is None:
                fields = [encoded[position].field(watcher.prev_kv) for position in positions]
                parts = shared[selection] = (header, *fields)
            self._send(watcher, parts)

    def _send(self, watcher: Watcher, parts: tuple[bytes, ...]) -> None:
        """Queue one event response (header and event fields), fragmented if need be (WCH-41)."""
        watcher.sent = True
        size = sum(map(len, parts))
        id_size = len(watcher.id_field)
        if watcher.fragment and len(parts) > 2 and size + id_size >= self._fragment_bytes:
            for piece in wire.fragments(parts, id_size, self._fragment_bytes):
                events = len(piece) - 1 - (piece[-1] == wire.FRAGMENT)
                watcher.stream.push(piece, watcher.id_field, events)
        else:
            watcher.stream.push_sized(parts, watcher.id_field, size, len(parts) - 1)

    def _fall_behind(self, watcher: Watcher, next_revision: int) -> None:
        self._synced.remove(watcher)
        watcher.synced = False
        watcher.next_revision = max(watcher.next_revision, next_revision)
        self._unsynced[watcher] = None
        self.on_behind()

    def _sync(self, watcher: Watcher) -> None:
        del self._unsynced[watcher]
        watcher.synced = True
        self._synced.add(watcher)

    # History.

    def restored(self) -> None:
        """Learn that a snapshot replaced the store's content, revisions up to now included.

        Every watcher continues from its next revision, out of the new history; what it was sent
        before is not sent again (WCH-22).
        """
        for watcher in list(self._synced):
            self._fall_behind(watcher, self._published + 1)
        self._published = max(self._published, self._store.revision)

    def catch_up(self) -> bool:
        """Serve unsynced watchers with one bounded slice of history (WCH-11, WCH-47..49).

        Returns:
            True when there is more to do at once; watchers on full streams do not count.

        One scan serves all watchers positioned in it. Slices sweep upwards from the watcher
        furthest behind and begin anew at the top, so nobody waits longer than a sweep, however
        many watchers start at the beginning. A watcher overtaken by compaction is cancelled
        (WCH-14, WCH-48).
        """
        ready = self._sort_out()
        if not ready:
            return False
        head = self._store.revision
        start = min(
            (w.next_revision for w in ready if w.next_revision >= self._cursor),
            default=min(w.next_revision for w in ready),
        )
        cohorts, end = read_slice(self._store, start, ready)
        self._cursor = end + 1
        header = self.header(head)
        for cohort in cohorts:
            responses = [(first, (header, *fields)) for first, fields in cohort.responses]
            for watcher in cohort.members:
                self._feed(watcher, responses, end + 1)
                if watcher.next_revision > head:
                    self._sync(watcher)
        return any(not watcher.stream.full for watcher in self._unsynced)

    def _sort_out(self) -> list[Watcher]:
        """Settle the watchers that need no history; return those that history can be sent to."""
        head, compacted = self._store.revision, self._store.compact_revision
        ready = []
        for watcher in list(self._unsynced):
            if watcher.next_revision > head:
                self._sync(watcher)
            elif watcher.next_revision < compacted:
                self._cancel_compacted(watcher)
            elif not watcher.stream.full:
                ready.append(watcher)
        return ready

    def _cancel_compacted(self, watcher: Watcher) -> None:
        """Cancel with the compact revision and header revision 0 (WCH-14)."""
        del self._unsynced[watcher]
        del watcher.stream.watchers[watcher.watch_id]
        watcher.stream.ended.add(watcher.watch_id)
        flags = wire.CANCELED + wire.compact_revision(self._store.compact_revision)
        watcher.stream.push((self.header(0), flags), watcher.id_field)

    def _feed(
        self, watcher: Watcher, responses: list[tuple[int, tuple[bytes, ...]]], stop: int
    ) -> None:
        """Send a cohort's responses while there is room; leave `next_revision` where it ended."""
        for first_revision, parts in responses:
            if watcher.stream.full:
                watcher.next_revision = first_revision
                return
            self._send(watcher, parts)
        watcher.next_revision = stop

    # Periodic progress.

    def tick(self, now: float) -> None:
        """Queue periodic progress for the streams whose interval is over (WCH-33..35)."""
        if now < self._next_progress:
            return
        for stream, due in self._progress_due.items():
            if due <= now:
                self._report_progress(stream)
                self._progress_due[stream] = now + self._jittered_interval()
        self._next_progress = min(self._progress_due.values(), default=math.inf)

    def _report_progress(self, stream: WatchStream) -> None:
        revision = self._published
        for watcher in stream.watchers.values():
            if not watcher.progress_notify:
                continue
            quiet = not watcher.sent
            watcher.sent = False
            caught_up = watcher.synced and revision >= watcher.start_revision
            if quiet and caught_up and not stream.full:
                stream.push((self.header(revision),), watcher.id_field)

    def _jittered_interval(self) -> float:
        return self._progress_interval * (1 + PROGRESS_JITTER * self._random.random())


def _nothing() -> None:
    pass


def _joined(header: bytes, event: bytes) -> tuple[tuple[bytes, ...], int]:
    body = header + event
    return (body,), len(body)
