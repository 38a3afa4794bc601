"""The watch streams of a sequence on one side, and what has come on each watch.

A stream's answers are compared in two ways: what a request is answered at once (created, canceled,
progress), and, whenever the sides have come to rest, the events of each watch since the last time.
How events are spread over responses is not compared (WCH-23), but looked at for itself: `take`
checks what holds on any server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kvstore.pb import rpc_pb2
from tests.differential.sides import Side, Stream
from tests.differential.steps import MARKER, MARKER_WATCH

Events = dict[int, list[Any]]
"""Watch id -> its events, then a response if the server has cancelled it."""


class Watching:
    """One stream of one side."""

    def __init__(self, side: Side, member: int) -> None:
        self.member = member
        self.compacted: set[int] = set()
        """Watches that the server has cancelled because of a compaction (WCH-16)."""
        self._stream: Stream = side.watch(member)
        self._read = 0
        self._marker_watch = MARKER_WATCH

    def close(self) -> None:
        self._stream.close()

    def send(self, request: rpc_pb2.WatchRequest) -> None:
        self._stream.send(request.SerializeToString())

    def create(self, request: rpc_pb2.WatchRequest) -> Any:
        """Create a watch and return the created reply."""
        before = self._count(_is_created)
        self.send(request)
        self._wait(lambda: self._count(_is_created) > before, "a created reply")
        return [r for r in self._stream.responses if r.created][-1]

    def ping(self) -> None:
        """Wait until the requests sent so far are answered: a watch is made and cancelled."""
        self.cancel(self.watch_marker(0))

    def take(self) -> tuple[Events, list[Any]]:
        """What has come since the last time: events by watch, and answers to progress requests.

        Created replies and cancellations that were asked for are compared when they come.
        """
        fresh = self._stream.responses[self._read :]
        self._read += len(fresh)
        events: Events = {}
        last: dict[int, tuple[int, bool]] = {}
        answers = []
        for response in fresh:
            watch = response.watch_id
            if watch >= MARKER_WATCH and not _is_progress(response):
                continue
            if _is_progress(response):
                answers.append(response)
            elif response.events:
                _check_batch(response, last)
                events.setdefault(watch, []).extend(response.events)
            elif response.canceled and not response.created and response.compact_revision:
                self.compacted.add(watch)
                events.setdefault(watch, []).append(response)
        return events, answers

    def canceled(self, watch: int) -> Any:
        """The last reply so far that says that `watch` was cancelled on request, if any."""
        for response in reversed(self._stream.responses[self._read :]):
            if response.watch_id == watch and response.canceled and not response.compact_revision:
                return response
        return None

    def watch_marker(self, start: int) -> int:
        """Make a watch on the marker and return its id."""
        self._marker_watch += 1
        create = rpc_pb2.WatchCreateRequest(
            key=MARKER, start_revision=start, watch_id=self._marker_watch
        )
        self.create(rpc_pb2.WatchRequest(create_request=create))
        return self._marker_watch

    def wait_marker(self, watch: int, revision: int) -> None:
        """Wait for the event of `revision` on a watch on the marker."""

        def arrived() -> bool:
            return any(
                response.watch_id == watch
                and any(event.kv.mod_revision == revision for event in response.events)
                for response in reversed(self._stream.responses)
            )

        self._wait(arrived, f"the marker's event of revision {revision}")

    def cancel(self, watch: int) -> None:
        """Cancel a watch and wait for the confirmation."""
        cancel = rpc_pb2.WatchCancelRequest(watch_id=watch)
        self.send(rpc_pb2.WatchRequest(cancel_request=cancel))

        def gone() -> bool:
            return any(
                response.watch_id == watch and response.canceled
                for response in reversed(self._stream.responses)
            )

        self._wait(gone, "a cancellation")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        self._stream.wait(condition, f"{what} on a stream of member {self.member}")

    def _count(self, condition: Callable[[Any], bool]) -> int:
        return sum(map(condition, self._stream.responses))


def _is_created(response: Any) -> bool:
    return bool(response.created)


def _is_progress(response: Any) -> bool:
    """WCH-31."""
    plain = not (response.events or response.created or response.canceled)
    return plain and not response.compact_revision


def _check_batch(response: Any, last: dict[int, tuple[int, bool]]) -> None:
    """What holds for every response with events, on any server (WCH-20, 21, 24)."""
    watch, revisions = response.watch_id, [event.kv.mod_revision for event in response.events]
    assert revisions == sorted(revisions), f"events out of order: {revisions}"
    before, fragment = last.get(watch, (0, False))
    assert revisions[0] >= before + (not fragment), f"{revisions[0]} in two responses"
    assert response.header.revision >= revisions[-1], "an event newer than its header"
    last[watch] = revisions[-1], response.fragment


def settle_history(streams: Sequence[Watching], revision: int) -> list[int]:
    """Wait until all watches have caught up; return the id of a watch on the marker for each.

    Watches that start in the past get their history in sweeps. One that begins at `revision`, where
    the marker was written, is served in the sweep that serves all others or in the one before; of
    two, one after the other, the second is served after all others.
    """
    watches = [stream.watch_marker(revision) for stream in streams]
    for stream, watch in zip(streams, watches, strict=True):
        stream.wait_marker(watch, revision)
        stream.cancel(watch)
    watches = [stream.watch_marker(revision) for stream in streams]
    for stream, watch in zip(streams, watches, strict=True):
        stream.wait_marker(watch, revision)
    return watches


def settle_live(streams: Sequence[Watching], watches: Sequence[int], revision: int) -> None:
    """Wait until the marker's event of `revision` has come, and with it all others."""
    for stream, watch in zip(streams, watches, strict=True):
        stream.wait_marker(watch, revision)
        stream.cancel(watch)
