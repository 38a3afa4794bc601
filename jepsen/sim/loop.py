"""Virtual time: a queue of events, the one source of chance, and the trace of what happened.

Nothing in the simulation runs but events taken from here, in the order of their times (events of
one time in the order in which they were planned), and nothing draws chance but from `random`. So a
run is a function of its seed, and the digest of its trace says whether two runs were the same.
"""

from __future__ import annotations

import hashlib
from asyncio import AbstractEventLoop, events
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random

RECENT_EVENTS = 60
"""Last lines of the trace that a failure shows."""
DIGESTED_EVENTS = 1000
"""Lines of the trace that are added to its digest at once."""


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
        self.seed = seed
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.failure: BaseException | None = None
        self.touched: list[Process] = []
        """Processes in which something ran since `look` was called."""
        self.look: Callable[[], None] = self.touched.clear
        """Called behind each event in which something ran; clears `touched`."""
        self.on_event: Callable[[str], None] | None = None
        """Gets each line of the trace."""
        self._queue: list[tuple[float, int, Process | None, int, str, Callable[[], None]]] = []
        self._at_once: deque[tuple[Process, int, str, Callable[[], None]]] = deque()
        self._planned = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._undigested: list[str] = []
        self._digested_last: list[str] = []
        self.entered: AbstractEventLoop | None = None
        """The event loop of asyncio in which something runs."""
        self._told: AbstractEventLoop | None = None
        """What asyncio takes for its running loop."""
        self._runs = False
        """Whether the queue runs."""

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

    def at_once(self, label: str, run: Callable[[], None], process: Process) -> None:
        """Plan an event for now, behind those planned so, and before any from the queue.

        They go past the queue, and into the trace without their time, which is that of the line
        before.
        """
        self._at_once.append((process, process.life, label, run))

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Run events up to time `end`, or until `done()` holds; returns whether it does."""
        self._runs = True
        try:
            return self._run_until(end, done)
        finally:
            self._runs = False
            self.switch_to(None)

    def _run_until(self, end: float, done: Callable[[], bool] | None) -> bool:
        queue, at_once, touched = self._queue, self._at_once, self.touched
        while done is None or not done():
            if at_once:
                process, life, label, run = at_once.popleft()
                if process.life != life:
                    continue
                if process.paused_until > self.now:
                    self._wait(process, life, label, run)
                    continue
                self._undigested.append(label)
                if self.on_event is not None:
                    self.on_event(f"{self.now:.6f} {label}")
            elif not queue or queue[0][0] > end:
                self.now = end
                return done is not None and done()
            else:
                time, _, owner, life, label, run = heappop(queue)
                self.now = time
                if owner is not None:
                    if owner.life != life:
                        continue
                    if owner.paused_until > time:
                        self._wait(owner, life, label, run)
                        continue
                self.trace(label)
            self.events += 1
            run()
            if touched:
                self.look()
            if self.failure is not None:
                raise self.failure
        return True

    def _wait(self, process: Process, life: int, label: str, run: Callable[[], None]) -> None:
        """Let an event wait for the end of a pause, behind what was due before it."""
        self._planned += 1
        heappush(self._queue, (process.paused_until, self._planned, process, life, label, run))

    def resume(self, process: Process) -> None:
        """End a pause now. What waits for its end follows at once, in the order in which it was
        due."""
        woken, process.paused_until = process.paused_until, 0.0
        if woken > self.now:
            queue = self._queue
            for place, event in enumerate(queue):
                if event[2] is process and event[0] == woken:
                    queue[place] = (self.now, *event[1:])
            heapify(queue)

    def switch_to(self, entered: AbstractEventLoop | None) -> None:
        """Say in which event loop the rest of an event runs; None: in none.

        While the queue runs, asyncio is told of loops alone, and of a change: each call asks the
        system for the process's id (0.2 us, about a hundredth of a run's time). So asyncio may take
        the loop of the last member for the running one where there is none; and one run cannot be
        made within an event of another.
        """
        self.entered = entered
        if entered is not self._told and (entered is not None or not self._runs):
            self._told = entered
            events._set_running_loop(entered)

    def fail(self, error: BaseException) -> None:
        """End the run with this error after the event that is being handled."""
        if self.failure is None:
            self.failure = error

    def trace(self, line: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now:.6f} {line}"
        lines = self._undigested
        lines.append(line)
        if len(lines) >= DIGESTED_EVENTS:
            self._digest_lines()
        if self.on_event is not None:
            self.on_event(line)

    def recent(self) -> list[str]:
        """The last lines of the trace, `RECENT_EVENTS` at most."""
        return (self._digested_last + self._undigested)[-RECENT_EVENTS:]

    def trace_hash(self) -> str:
        """The digest of everything that happened so far."""
        self._digest_lines()
        return self._digest.hexdigest()

    def _digest_lines(self) -> None:
        # Line by line it took a tenth of a run's time.
        lines = self._undigested
        if lines:
            self._digest.update(("\n".join(lines) + "\n").encode())
            self._digested_last = (self._digested_last + lines)[-RECENT_EVENTS:]
            self._undigested = []
