"""Clients that watch: nothing may be missing, twice or out of order, whatever members suffer."""

from __future__ import annotations

from collections.abc import Sequence

from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop, Violation
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from jepsen.sim.workload import FIRST_KEY, KEYS
from kvstore.mvcc.watch_stream import WatchStream
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import Event as WatchEvent


class Watcher:
    """A client with one watch, which it opens again elsewhere when its member dies.

    Every event of its range must come once and in order, from its first revision on; only what a
    compaction overtook may be missing, and then the watch is told so.
    """

    def __init__(
        self, number: int, plan: Plan, loop: Loop, nodes: Sequence[Node], checks: Checks
    ) -> None:
        self.name = f"w{number}"
        self.next_revision = 1
        self._loop = loop
        self._nodes = nodes
        self._checks = checks
        self._stream: WatchStream | None = None
        self._node = nodes[0]
        self._life = 0
        self._random = random = plan.stream(self.name)
        if number % 2:
            self._start, self._end = FIRST_KEY, b"\0"
        else:
            key = random.choice(KEYS)
            self._start, self._end = key, key + b"\0"
        self._prev_kv = random.random() < 0.5
        self._mean_pause = random.choice((0.02, 0.2, 1.0))

    def start(self) -> None:
        self._later()

    def _later(self) -> None:
        pause = self._random.expovariate(1 / self._mean_pause)
        self._loop.after(pause, f"{self.name} looks", self._look)

    def _look(self) -> None:
        node = self._node
        # A watch asks for a member with a leader: one that was removed unheard never has one again.
        lost = self._life != node.process.life or not node.serves or not node.member.raft.leader
        if self._stream is not None and (lost or self._random.random() < 0.005):
            if not lost:
                self._stream.close()
            self._stream = None
        if self._stream is None:
            self._open()
        elif node.process.paused_until <= self._loop.now:
            for response in self._stream.take(1 << 20):
                self._take(rpc_pb2.WatchResponse.FromString(response))
        self._later()

    def _open(self) -> None:
        up = [n for n in self._nodes if n.serves_all and n.member.raft.leader]
        if not up:
            return
        node = self._node = self._random.choice(up)
        self._life = node.process.life
        self._stream = node.hub.stream(lambda: None)
        request = rpc_pb2.WatchCreateRequest(
            key=self._start,
            range_end=self._end,
            start_revision=self.next_revision,
            prev_kv=self._prev_kv,
            progress_notify=True,
        )
        self._stream.create(request, node.member.applied_term, self._loop.now)

    def _take(self, response: rpc_pb2.WatchResponse) -> None:
        checks = self._checks
        if response.canceled:
            if response.compact_revision <= self.next_revision:
                raise Violation(f"{self.name} at {self.next_revision} was cancelled: {response}")
            self.next_revision = response.compact_revision
            self._stream = None
            checks.count("watch overtaken by compaction")
            return
        if not response.events:
            if not response.created:
                self._progress(response.header.revision)
            return
        last = response.events[-1].kv.mod_revision
        self._compare(last, list(response.events))
        self.next_revision = last + 1
        checks.count("watch response")

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
            kept = revision - 1 >= self._node.store.compact_revision
            if event.HasField("prev_kv") != (self._prev_kv and before is not None) and kept:
                raise Violation(f"{self.name} got {event}, and before it was {before}")
            if event.HasField("prev_kv") and event.prev_kv != before:
                raise Violation(f"{self.name} got {event} instead of previous {before}")

    def _wants(self, key: bytes) -> bool:
        return key >= self._start and (self._end == b"\0" or key < self._end)

    def missing(self) -> bool:
        """Whether events are still to come."""
        stop = 1 + len(self._checks.revisions) + 1
        return any(
            self._wants(event[1])
            for _, events in self._checks.events_between(self.next_revision, stop)
            for event in events
        )
