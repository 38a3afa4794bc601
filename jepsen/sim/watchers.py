"""Clients that watch: nothing may be missing, twice or out of order, whatever members suffer."""

from __future__ import annotations

from collections.abc import Sequence

from jepsen.history import Op
from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from jepsen.sim.record import Recorder
from jepsen.sim.rpc import Exchange
from jepsen.sim.workload import FIRST_KEY, KEYS, LAST_KEY
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import Event as WatchEvent


class Watcher:
    """A client with one watch, which it opens again elsewhere when its member dies.

    Every event of its range must come once and in order, from its first revision on; only what a
    compaction overtook may be missing, and then the watch is told so.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        loop: Loop,
        nodes: Sequence[Node],
        checks: Checks,
        recorder: Recorder,
    ) -> None:
        self.name = f"w{number}"
        self.next_revision = 1
        self._loop = loop
        self._nodes = nodes
        self._checks = checks
        self._recorder = recorder
        self._number = 100 + number
        self._op: Op | None = None
        self._stream: Exchange | None = None
        self._node = nodes[0]
        self._random = random = plan.stream(self.name)
        if number % 2:
            self._start, self._end = FIRST_KEY, LAST_KEY
        else:
            key = random.choice(KEYS)
            self._start, self._end = key, key + b"\0"
        self._prev_kv = random.random() < 0.5
        self._mean_pause = random.choice((0.05, 0.2, 1.0))

    def start(self) -> None:
        self._later()

    def _later(self) -> None:
        pause = self._random.expovariate(1 / self._mean_pause)
        self._loop.after(pause, f"{self.name} looks", self._look)

    def _look(self) -> None:
        """Read what has come, as often as the client is fast; sometimes leave for elsewhere."""
        if self._stream is None:
            self._open()
        elif self._random.random() < 0.005:
            self._stream.cancel()
            self._close("left")
        else:
            stream = self._stream
            while stream is self._stream and stream.read_next():
                pass
            if stream is self._stream and self._random.random() < 0.05:
                request = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
                stream.send(request.SerializeToString())
        self._later()

    def _open(self) -> None:
        up = [node for node in self._nodes if node.serves_all]
        if not up:
            return
        node = self._node = self._random.choice(up)
        # A member that was removed unheard never has a leader again: hence hasleader.
        stream = Exchange(
            self._loop,
            node,
            "/etcdserverpb.Watch/Watch",
            self.name,
            metadata={"hasleader": "true"},
            on_message=lambda message: self._take(rpc_pb2.WatchResponse.FromString(message)),
            on_end=lambda status: self._close(status.message),
        )
        stream.read_slowly()
        create = rpc_pb2.WatchCreateRequest(
            key=self._start,
            range_end=self._end,
            start_revision=self.next_revision,
            prev_kv=self._prev_kv,
            progress_notify=True,
        )
        stream.send(rpc_pb2.WatchRequest(create_request=create).SerializeToString())
        self._stream = stream
        key = self._start if self._end == self._start + b"\0" else FIRST_KEY
        self._op = self._recorder.begin(
            self._number, "watch", "watch", key, [self.next_revision], node.name
        )
        self._op.result = []

    def _close(self, why: str) -> None:
        """The stream has ended."""
        self._checks.count(f"watch ended: {why}")
        self._stream = None
        if self._op is not None:
            self._recorder.ok(self._op, self._op.result, self.next_revision - 1)
            self._op = None

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        checks = self._checks
        if response.canceled:
            if not self.next_revision < response.compact_revision <= checks.compacted:
                raise Violation(f"{self.name} at {self.next_revision} was cancelled: {response}")
            if self._stream is not None:
                self._stream.cancel()
            self._close("compacted")
            self.next_revision = response.compact_revision
            checks.count("watch overtaken by compaction")
            return
        if not response.events:
            if not response.created:
                self._note(response)
                self._progress(response.header.revision)
            return
        self._note(response)
        last = response.events[-1].kv.mod_revision
        self._compare(last, list(response.events))
        self.next_revision = last + 1
        checks.count("watch response")

    def _note(self, response: rpc_pb2.WatchResponse) -> None:
        """Write a response down for the checker of histories."""
        if self._op is None:
            return
        events = []
        for event in response.events:
            kv, put = event.kv, event.type == WatchEvent.PUT
            previous = event.prev_kv.value.decode() if event.HasField("prev_kv") else None
            events.append(
                [
                    kv.mod_revision,
                    "PUT" if put else "DELETE",
                    kv.key.decode(),
                    kv.value.decode() if put else None,
                    kv.version if put else 0,
                    kv.create_revision if put else 0,
                    previous,
                ]
            )
        self._op.result.append([response.header.revision, events])

    def _progress(self, revision: int) -> None:
        """All events up to this revision have been sent."""
        self._compare(revision, [])
        self.next_revision = max(self.next_revision, revision + 1)
        self._checks.count("watch progress")

    def _compare(self, last: int, events: list[WatchEvent]) -> None:
        expected = [
            (kind, key, revision)
            for revision, all_events in self._checks.events_between(self.next_revision, last + 1)
            for kind, key, *_ in all_events
            if self._wants(key)
        ]
        found = [(event.type, event.kv.key, event.kv.mod_revision) for event in events]
        if found != expected:
            raise Violation(
                f"{self.name} on {self._node.name} waits for {self.next_revision} and got {found},"
                f" instead of {expected}"
            )
        for event in events:
            revision = event.kv.mod_revision
            if event.type == WatchEvent.PUT and event.kv != self._checks.value_at(
                event.kv.key, revision
            ):
                raise Violation(f"{self.name} got {event}")
            before = self._checks.value_at(event.kv.key, revision - 1)
            kept = revision - 1 >= self._checks.compacted
            if event.HasField("prev_kv") != (self._prev_kv and before is not None) and kept:
                raise Violation(f"{self.name} got {event}, and before it was {before}")
            if event.HasField("prev_kv") and event.prev_kv != before:
                raise Violation(f"{self.name} got {event} instead of previous {before}")

    def _wants(self, key: bytes) -> bool:
        return self._start <= key < self._end

    def missing(self) -> bool:
        """Whether events are still to come."""
        stop = 1 + len(self._checks.revisions) + 1
        return any(
            self._wants(event[1])
            for _, events in self._checks.events_between(self.next_revision, stop)
            for event in events
        )
