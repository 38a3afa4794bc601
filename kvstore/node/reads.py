"""Linearizable reads by ReadIndex, many of them to a round (RFT-01..04).

A round may serve only reads that arrived before it was sent; those that arrive while one is under
way wait for the next. One round at a time keeps that plain and costs one network round trip at
most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kvstore.errors import LEADER_CHANGED, TIMEOUT, EtcdError
from raft import Raft, ReadIndexDropped

RETRY_S = 0.5
"""A round without an answer is sent again after this time (RFT-03)."""

ReadDone = Callable[[EtcdError | None], None]
_Waiting = list[tuple[ReadDone, float]]


class ReadQueue:
    """Reads on their way to a read index, and from there to the moment it is applied.

    Attributes:
        slow: rounds that had to be sent again.
        failed: rounds, and waits for one, that ended without an index.
    """

    __slots__ = ("_context", "_first", "_ready", "_round", "_sent_at", "_waiting", "failed", "slow")

    def __init__(self) -> None:
        self._waiting: _Waiting = []
        self._round: _Waiting = []
        self._ready: deque[tuple[int, _Waiting]] = deque()
        self._context = 0
        self._first = 0
        self._sent_at = 0.0
        self.slow = 0
        self.failed = 0

    def add(self, done: ReadDone, deadline: float) -> None:
        """Queue a read; ``done(None)`` is called when local state is fresh enough for it."""
        self._waiting.append((done, deadline))

    def start_round(self, raft: Raft, now: float) -> bool:
        """Send a round for all waiting reads unless one is under way; True if one was sent.

        Without a leader the reads wait for one.
        """
        if self._round or not self._waiting or not raft.leader:
            return False
        self._round, self._waiting = self._waiting, []
        self._first = self._context + 1
        return self._send(raft, now)

    def _send(self, raft: Raft, now: float) -> bool:
        self._context += 1
        self._sent_at = now
        try:
            raft.read_index(self._context)
        except ReadIndexDropped:
            return False
        return True

    def answered(self, context: int, index: int, applied: int) -> None:
        """Take a read index from Raft; reads whose index is applied are served at once."""
        # An answer to any sending of this round will do: all its reads came before the first one.
        if not self._round or not self._first <= context <= self._context:
            return
        served, self._round = self._round, []
        if index <= applied:
            for done, _ in served:
                done(None)
        else:
            self._ready.append((index, served))

    def applied(self, index: int) -> None:
        """Serve the reads whose read index has been applied."""
        ready = self._ready
        while ready and ready[0][0] <= index:
            for done, _ in ready.popleft()[1]:
                done(None)

    def leader_changed(self) -> None:
        """Fail the round under way, so that clients try again at once (RFT-04)."""
        lost, self._round = self._round, []
        if lost:
            self.failed += 1
        for done, _ in lost:
            done(LEADER_CHANGED)

    def tick(self, raft: Raft, now: float) -> None:
        """Send a lost round again; give up on reads past their deadline."""
        waiting, under_way = self._expire(self._waiting, now), self._expire(self._round, now)
        self.failed += len(waiting) < len(self._waiting) or len(under_way) < len(self._round)
        self._waiting, self._round = waiting, under_way
        for position, (index, waiting) in enumerate(self._ready):
            self._ready[position] = (index, self._expire(waiting, now))
        if self._round and now - self._sent_at >= RETRY_S:
            self.slow += 1
            self._send(raft, now)

    def _expire(self, reads: _Waiting, now: float) -> _Waiting:
        if not reads or reads[0][1] > now:
            return reads
        for done, deadline in reads:
            if deadline <= now:
                done(TIMEOUT)
        return [read for read in reads if read[1] > now]

    def stop(self, error: EtcdError) -> None:
        """Fail everything."""
        waiting = [*self._waiting, *self._round]
        for _, reads in self._ready:
            waiting += reads
        self._waiting, self._round = [], []
        self._ready.clear()
        for done, _ in waiting:
            done(error)
