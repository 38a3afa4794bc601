"""One Watch call: its watchers and the ordered queue of responses waiting to be sent.

The stream decides what a client's requests mean and in which order it gets answers; which events
a watcher gets is the hub's business (`watch.py`). Responses leave in exactly the order in which
they were queued, so a created reply precedes its events (WCH-02), fragments stay adjacent (WCH-42)
and progress never overtakes events (WCH-39).

Trade-off: events stop being queued when the queue is full, the replies to a client's own requests
do not. Whoever reads the requests must therefore stop reading while `full` is true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore import errors
from kvstore.mvcc import watch_wire as wire
from kvstore.mvcc.watch_index import interval

if TYPE_CHECKING:
    from kvstore.mvcc.watch import WatchHub
    from kvstore.pb.rpc_pb2 import WatchCreateRequest

QUEUE_RESPONSES = 128
"""Responses that may wait on one stream before its watchers fall back to history (WCH-47)."""

QUEUE_BYTES = 8 << 20
"""Bytes that may wait on one stream before its watchers fall back to history. The last response
let in may go beyond it."""

INVALID_WATCH_ID = -1
"""The watch_id of failed creates (WCH-05) and of manual progress (WCH-36)."""


@dataclass(slots=True, eq=False)
class Watcher:
    """One registered watch."""

    stream: WatchStream
    watch_id: int
    id_field: bytes
    """`watch_id` as it stands in each response."""
    key: bytes
    end: bytes | None
    """The watched interval is [key, end); None = no upper bound."""
    start_revision: int
    """As requested; 0 = from now on."""
    next_revision: int
    """No event below this is still to be sent. While unsynced: the first one not yet queued."""
    drop: int
    """Filters: bit 0 drops PUT, bit 1 drops DELETE events (WCH-26)."""
    prev_kv: bool
    fragment: bool
    progress_notify: bool
    synced: bool = False
    """Whether `publish` serves it; else `catch_up` does, from stored history."""
    sent: bool = False
    """Whether events were queued since the last periodic progress (WCH-34)."""


class WatchStream:
    """All watches of one Watch call. Made by `WatchHub.stream`."""

    __slots__ = (
        "_closed",
        "_hub",
        "_max_bytes",
        "_max_responses",
        "_next_id",
        "_wake",
        "ended",
        "queue",
        "queued_bytes",
        "watchers",
    )

    def __init__(
        self, hub: WatchHub, wake: Callable[[], None], max_responses: int, max_bytes: int
    ) -> None:
        self._hub = hub
        self._wake = wake
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._next_id = 0
        self._closed = False
        self.watchers: dict[int, Watcher] = {}
        self.ended: set[int] = set()
        """Watches that a compaction has cancelled: their ids stay taken until the client cancels
        them too, but unlike etcd's they hold up no manual progress (WCH-16)."""
        self.queue: deque[tuple[tuple[bytes, ...], bytes, int, int]] = deque()
        """(shared parts, watch_id field, size of the shared parts, number of events) of each
        waiting response."""
        self.queued_bytes = 0

    # Requests of the client.

    def create(self, request: WatchCreateRequest, raft_term: int, now: float) -> None:
        """Register a watch and queue its created reply (WCH-01..16); never raises.

        A refused watch gets a failed created reply and nothing else happens (WCH-05).

        Args:
            raft_term: term of the last applied entry, for the header (GEN-02).
        """
        if self._closed:
            return
        hub = self._hub
        hub.note_term(raft_term)
        if request.start_revision < 0:
            self.refuse(errors.COMPACTED.message, raft_term)
            return
        key, end = interval(request.key, request.range_end)
        if end is not None and end <= key:
            self.refuse(errors.WATCH_RANGE_EMPTY, raft_term)
            return
        if request.watch_id != 0 and self._taken(request.watch_id):
            self.refuse(errors.WATCH_DUPLICATE_ID, raft_term)
            return
        watch_id = request.watch_id or self._pick_id()
        watcher = Watcher(
            stream=self,
            watch_id=watch_id,
            id_field=wire.watch_id(watch_id),
            key=key,
            end=end,
            start_revision=request.start_revision,
            next_revision=request.start_revision,
            drop=sum(1 << kind for kind in set(request.filters) if kind in (0, 1)),
            prev_kv=request.prev_kv,
            fragment=request.fragment,
            progress_notify=request.progress_notify,
        )
        self.watchers[watch_id] = watcher
        # Nothing can be applied between these two: the header's revision is exactly the point of
        # registration (WCH-08).
        self.push((hub.header(hub.store_revision), wire.CREATED), watcher.id_field)
        hub.register(watcher, now)

    def refuse(self, reason: str, raft_term: int) -> None:
        """Queue the reply to a create request that failed, also for a denied permission (WCH-05).

        Args:
            reason: the text of the error, not empty.
        """
        self._hub.note_term(raft_term)
        flags = wire.CREATED + wire.CANCELED + wire.cancel_reason(reason)
        self.push(
            (self._hub.header(self._hub.store_revision), flags), wire.watch_id(INVALID_WATCH_ID)
        )

    def cancel(self, watch_id: int) -> None:
        """End a watch and confirm it; an unknown id gets no reply (WCH-43, WCH-44)."""
        watcher = self.watchers.pop(watch_id, None)
        if watcher is not None:
            self._hub.unregister(watcher)
        elif watch_id in self.ended:
            self.ended.remove(watch_id)
        else:
            return
        header = self._hub.header(self._hub.store_revision)
        self.push((header, wire.CANCELED), wire.watch_id(watch_id))

    def progress(self, raft_term: int) -> None:
        """Answer a manual progress request, if this is the moment for an answer (WCH-36..40).

        There is none without watches, while one is behind or starts in the future, or while the
        queue is full; clients ask again.
        """
        hub = self._hub
        hub.note_term(raft_term)
        if not self.watchers or self.full:
            return
        revision = hub.published
        for watcher in self.watchers.values():
            if not watcher.synced or revision < watcher.start_revision:
                return
        self.push((hub.header(revision),), wire.watch_id(INVALID_WATCH_ID))

    def close(self) -> None:
        """End the call: forget all watches and everything queued. May be called again."""
        self._closed = True
        for watcher in self.watchers.values():
            self._hub.unregister(watcher)
        self._hub.forget(self)
        self.watchers = {}
        self.queue.clear()
        self.queued_bytes = 0

    # The queue.

    @property
    def full(self) -> bool:
        """Whether no more events are queued; the reader of requests should pause as well."""
        return len(self.queue) >= self._max_responses or self.queued_bytes >= self._max_bytes

    def push(self, parts: tuple[bytes, ...], id_field: bytes, events: int = 0) -> None:
        """Queue one response regardless of the limits; for the hub and this class."""
        self.push_sized(parts, id_field, sum(map(len, parts)), events)

    def push_sized(self, parts: tuple[bytes, ...], id_field: bytes, size: int, events: int) -> None:
        """`push` for parts whose total size is known."""
        if self._closed:
            return
        self.queued_bytes += size
        self.queue.append((parts, id_field, size, events))
        if len(self.queue) == 1:
            self._wake()

    def take(self, max_bytes: int) -> list[bytes]:
        """Remove and return waiting responses in order, each an encoded WatchResponse.

        Takes until `max_bytes` (> 0) are reached, so at least one response if any waits and at
        most one beyond the limit.
        """
        taken = []
        left = max_bytes
        queue = self.queue
        while queue and left > 0:
            parts, id_field, size, events = queue.popleft()
            self.queued_bytes -= size
            left -= size
            self._hub.events_sent += events
            taken.append(b"".join((*parts, id_field)))
        return taken

    def _pick_id(self) -> int:
        """Count up from 0, past ids that clients chose themselves (WCH-03)."""
        while self._taken(self._next_id):
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _taken(self, watch_id: int) -> bool:
        return watch_id in self.watchers or watch_id in self.ended
