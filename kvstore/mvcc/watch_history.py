"""One slice of stored history, read once for all watchers positioned in it.

Watchers that need the very same responses form a cohort, and the events are handed out by the index
that serves live events, over cohorts instead of watchers. Which watchers come, and what happens to
the responses, is the hub's business (`watch.py`).

Trade-off: a slice is bounded in revisions, bytes and cohorts, so the loop is held up for a few
milliseconds at most; many watchers far behind at different places cost several reads of a revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kvstore.mvcc import watch_wire as wire
from kvstore.mvcc.store import Event, Store
from kvstore.mvcc.watch_index import WatchIndex
from kvstore.mvcc.watch_stream import Watcher

CATCH_UP_REVISIONS = 250
"""Most revisions that one slice of `catch_up` reads; a response never holds more (WCH-23)."""

CATCH_UP_BYTES = 4 << 20
"""A slice reads no further revision once it holds this many bytes of events."""

CATCH_UP_RESPONSE_BYTES = 1 << 20
"""A historical response takes no further revision once it holds this many bytes."""

CATCH_UP_COHORTS = 256
"""Most distinct (range, position, options) combinations served by one slice."""


class Encoded:
    """One event, encoded at most once with and once without prev_kv (WCH-29)."""

    __slots__ = ("_event", "_plain", "_store", "_with_prev")

    def __init__(self, store: Store, event: Event) -> None:
        self._store = store
        self._event = event
        self._plain: bytes | None = None
        self._with_prev: bytes | None = None

    def field(self, prev_kv: bool) -> bytes:
        """Return the event as a field of WatchResponse (WCH-27, WCH-28)."""
        if prev_kv:
            if self._with_prev is None:
                self._with_prev = self._encode_with_prev()
            return self._with_prev
        if self._plain is None:
            self._plain = wire.event(self._event[0], self._event[2], None)
        return self._plain

    def _encode_with_prev(self) -> bytes:
        kind, _, kv, prev_main, prev_sub = self._event
        if prev_main == 0:  # created, or the store says that what was before is compacted
            return self.field(prev_kv=False)
        return wire.event(kind, kv, self._store.value_at(prev_main, prev_sub) or None)


@dataclass(slots=True, eq=False)
class Cohort:
    """Unsynced watchers that need the very same responses."""

    key: bytes
    end: bytes | None
    next_revision: int
    drop: int
    prev_kv: bool
    members: list[Watcher] = field(default_factory=list)
    responses: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """(first revision, event fields) of each response, ascending."""
    last_revision: int = 0
    last_bytes: int = 0

    def add(self, revision: int, event: bytes) -> None:
        """Append an event; a new response begins at revision borders only (WCH-21, WCH-23)."""
        if revision != self.last_revision and (
            not self.responses or self.last_bytes >= CATCH_UP_RESPONSE_BYTES
        ):
            self.responses.append((revision, []))
            self.last_bytes = 0
        self.last_revision = revision
        self.last_bytes += len(event)
        self.responses[-1][1].append(event)


def read_slice(store: Store, start: int, watchers: Iterable[Watcher]) -> tuple[list[Cohort], int]:
    """Read history from `start` on, within the bounds above (WCH-23, WCH-49).

    Args:
        start: first revision to read, from the compact revision to the store's revision.
        watchers: candidates; those positioned before or behind the slice are left alone, and so
            are those of cohorts beyond `CATCH_UP_COHORTS`.

    Returns:
        The cohorts with their responses, and the last revision that the slice covers.
    """
    stop = min(start + CATCH_UP_REVISIONS, store.revision + 1)
    batch = store.events(start, stop, CATCH_UP_REVISIONS, CATCH_UP_BYTES)
    end = batch[-1][0] if batch else stop - 1
    cohorts = _cohorts(w for w in watchers if start <= w.next_revision <= end)
    index: WatchIndex[Cohort] = WatchIndex()
    for cohort in cohorts:
        index.add(cohort)
    for revision, events in batch:
        for event in events:
            groups = index.groups(event[1])
            if not groups:
                continue
            encoded = Encoded(store, event)
            kind_bit = 1 << event[0]
            for group in groups:
                for cohort in group:
                    if not cohort.drop & kind_bit and revision >= cohort.next_revision:
                        cohort.add(revision, encoded.field(cohort.prev_kv))
    return cohorts, end


def _cohorts(watchers: Iterable[Watcher]) -> list[Cohort]:
    """Group watchers by what they need; those beyond `CATCH_UP_COHORTS` wait for a later slice."""
    cohorts: dict[tuple[bytes, bytes | None, int, int, bool], Cohort] = {}
    for w in watchers:
        need = (w.key, w.end, w.next_revision, w.drop, w.prev_kv)
        cohort = cohorts.get(need)
        if cohort is None:
            if len(cohorts) >= CATCH_UP_COHORTS:
                continue
            cohort = cohorts[need] = Cohort(*need)
        cohort.members.append(w)
    return list(cohorts.values())
