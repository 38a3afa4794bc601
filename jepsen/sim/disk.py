"""A member's log device: what is durable, and when.

The writer takes everything queued as one group, as `WalWriter` does; the group is durable as a
whole after a while. A crash loses what is queued, and the group under way by the toss of a coin:
its write may have been finished without being reported. A torn write is one frame whose checksum
does not hold, so it is lost as a whole. Recovery follows `wal_replay`'s rules, by its own code;
`files` holds it against the log itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jepsen.sim.loop import Loop, Process
from kvstore.storage.wal import Batch, Recovered
from kvstore.storage.wal_replay import LogState, Replay
from raft import SnapshotMeta

SEGMENT_BATCHES = 16
"""Batches in a segment: small, so that segments are released often."""


@dataclass(slots=True)
class Segment:
    """Batches, and the log as of the first one's beginning."""

    start: LogState
    batches: list[Batch] = field(default_factory=list)


class DiskFailed(Exception):
    """A write or sync failed: the member must end (it never tries again)."""


class Disk:
    """What survives crashes, and the delays of the device."""

    def __init__(self, start: LogState) -> None:
        """Make a log that begins with `start`, as `Wal.create` does."""
        self.write_s = 0.002
        """Mean time of a group's write."""
        self.stuck_until = 0.0
        """Time until which no write gets done."""
        self.failing = ""
        """Why the next write fails; empty: it does not."""
        self._log = Replay(
            state=replace(start), base_index=start.last_index, base_term=start.last_term
        )
        self._segments = [Segment(start)]

    def append(self, batches: list[Batch]) -> None:
        """Make a group durable. Raises ValueError for batches that cannot follow."""
        segment = self._segments[-1]
        if len(segment.batches) >= SEGMENT_BATCHES:
            segment = Segment(replace(self._log.state))
            self._segments.append(segment)
        for batch in batches:
            self._log.add(batch)
            segment.batches.append(batch)

    def release(self, index: int) -> None:
        """Remove the segments that hold only entries up to `index`, as `Wal.release` does."""
        while len(self._segments) > 1 and self._segments[1].start.last_index <= index:
            del self._segments[0]

    def recover(self) -> Recovered:
        """Read the log back, as at a start."""
        start = self._segments[0].start
        log = Replay(state=replace(start), base_index=start.last_index, base_term=start.last_term)
        for segment in self._segments:
            if segment.start != log.state:
                raise ValueError("a segment's header contradicts the segments before it")
            for batch in segment.batches:
                log.add(batch)
        base = SnapshotMeta(log.base_index, log.base_term, log.state.conf_state)
        return Recovered(b"", log.state.hard_state, base, log.entries)

    def tear(self, batches: Sequence[Batch]) -> None:
        """Some of a group's sectors were written: it is lost all the same."""

    def crash(self) -> None:
        """Names of files that were not synced may be lost; the model has none."""

    def close(self) -> None:
        """The run has ended."""

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry at `index` of `term` is durable here, by itself or in a snapshot."""
        at = index - self._log.base_index - 1
        entries = self._log.entries
        return at < 0 or (at < len(entries) and entries[at][0] == term)


class DiskWriter:
    """The log writer of one life of a member (`LogWriter`)."""

    def __init__(
        self,
        loop: Loop,
        process: Process,
        name: str,
        disk: Disk,
        on_done: Callable[[int], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._process = process
        self._name = name
        self._disk = disk
        self._on_done = on_done
        self._on_error = on_error
        self._queue: list[tuple[int, Batch]] = []
        self._writing: list[tuple[int, Batch]] = []

    def submit(self, token: int, batch: Batch) -> None:
        self._queue.append((token, batch))
        if not self._writing:
            self._start()

    def release(self, index: int) -> None:
        self._disk.release(index)

    def crash(self) -> None:
        """The power is gone; the process's events are lost by themselves."""
        if self._disk.failing:
            return
        if not self._writing:
            return
        group = [batch for _, batch in self._writing]
        if self._loop.random.random() < 0.5:
            self._disk.append(group)
        else:
            self._disk.tear(group)

    def _start(self) -> None:
        self._writing, self._queue = self._queue, []
        delay = self._loop.random.expovariate(1 / self._disk.write_s)
        delay += max(self._disk.stuck_until - self._loop.now, 0.0)
        self._loop.after(delay, f"{self._name} wrote", self._finish, self._process)

    def _finish(self) -> None:
        group, self._writing = self._writing, []
        if self._disk.failing:
            # What did get there nobody knows.
            if self._loop.random.random() < 0.5:
                self._disk.append([batch for _, batch in group])
            self._on_error(DiskFailed(self._disk.failing))
            return
        self._disk.append([batch for _, batch in group])
        if self._queue:
            self._start()
        self._on_done(group[-1][0])
