"""Virtual time: a queue of events, the one source of chance, and the trace of what happened.

Nothing in the simulation runs but events taken from here, in the order of their times (events of
one time in the order in which they were planned), and nothing draws chance but from `random`. So a
run is a function of its seed, and the digest of its trace says whether two runs were the same.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

RECENT_EVENTS = 60
"""Last lines of the trace that a failure shows."""


class Violation(AssertionError):
    """The cluster broke a promise."""


@dataclass(slots=True, eq=False)
class Process:
    """What an event belongs to: it is lost when the process has died since it was planned, and
    waits while the process is paused."""

    life: int = 0
    paused_until: float = 0.0


class Loop:
    """The event queue. Times are virtual seconds from the start."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.failure: BaseException | None = None
        self.recent: deque[str] = deque(maxlen=RECENT_EVENTS)
        self.touched: list[Process] = []
        """Processes in which something ran since somebody looked and cleared this."""
        self.on_event: Callable[[str], None] = lambda line: None
        self._queue: list[tuple[float, int, Process | None, int, str, Callable[[], None]]] = []
        self._planned = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def after(
        self,
        delay: float,
        label: str,
        run: Callable[[], None],
        process: Process | None = None,
    ) -> None:
        """Plan an event `delay` >= 0 seconds from now."""
        self._planned += 1
        life = process.life if process is not None else 0
        heappush(self._queue, (self.now + delay, self._planned, process, life, label, run))

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Run events up to time `end`, or until `done()` holds; returns whether it does."""
        queue = self._queue
        while not done():
            if not queue or queue[0][0] > end:
                self.now = end
                return done()
            time, number, process, life, label, run = heappop(queue)
            self.now = time
            if process is not None:
                if process.life != life:
                    continue
                if process.paused_until > time:
                    heappush(queue, (process.paused_until, number, process, life, label, run))
                    continue
            self.events += 1
            self.trace(label)
            run()
            if self.failure is not None:
                raise self.failure
        return True

    def fail(self, error: BaseException) -> None:
        """End the run with this error after the event that is being handled."""
        if self.failure is None:
            self.failure = error

    def trace(self, line: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now:.6f} {line}"
        self._digest.update(line.encode() + b"\n")
        self.recent.append(line)
        self.on_event(line)

    def trace_hash(self) -> str:
        """The digest of everything that happened so far."""
        return self._digest.hexdigest()
