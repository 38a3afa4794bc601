"""The wall clock of one member jumps or drifts while the member runs: nothing may depend on it.

The library of `shim` does it, not libfaketime: it counts the looks at the wrong clock, which proves
that the fault bit, and reads no file at each of them. The monotonic clock is left alone, as when an
operator sets the date. Our server looks at the date for log lines and compactions alone, so one of
these is asked for while it is wrong.
"""

from __future__ import annotations

import contextlib
from contextlib import ExitStack

from jepsen.chaos.faults import shim
from jepsen.chaos.faults.base import Done, Fault
from jepsen.chaos.faults.maintenance import Compact
from kvstore.testing import Cluster, NotInTime, wait_until

JUMPS_S = (-86_400.0, -3_600.0, -30.0, 30.0, 3_600.0, 86_400.0)
DRIFTS = (-0.9, -0.1, 0.1, 1.0, 10.0)
"""What a second gains: at -0.9 the clock goes ten times too slowly."""
LOOK_S = 5.0


class WallClock(Fault):
    """The date of one running member jumps, by half a minute to a day, and jumps back."""

    name = "wall-clock"

    @classmethod
    def prepare(cls, cluster: Cluster, stack: ExitStack) -> None:
        shim.install(cluster)

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return shim.missing(cluster)

    def begin(self) -> Done:
        carriers = [i for i in self.up() if shim.Shim.has(self.cluster.members[i])]
        victim = self.victim(carriers)
        self._shim = shim.Shim(self.cluster.members[victim])
        self._before = self._shim.clock_hits
        return Done(self.names([victim]), self.move())

    def victim(self, carriers: list[int]) -> int:
        """Half of the time the leader, on whom leases depend."""
        leader = self.leader()
        if leader in carriers and self.random.random() < 0.5:
            return leader
        return self.random.choice(carriers)

    def move(self) -> str:
        jump = self.random.choice(JUMPS_S)
        self._shim.clock(jump)
        return f"{jump:+g} s"

    def end(self, done: Done) -> None:
        compaction = Compact(self.cluster, self.random).begin()
        done.detail += f", compaction {compaction.detail}"  # the checkers have to know of it
        with contextlib.suppress(NotInTime):
            wait_until(lambda: self._shim.clock_hits > self._before, LOOK_S, "a look at the clock")
        done.effect = self._shim.clock_hits - self._before
        self._shim.clock(0.0)


class ClockDrift(WallClock):
    """The clock of one running member goes too fast or too slowly, and jumps back at the end."""

    name = "clock-drift"

    def move(self) -> str:
        drift = self.random.choice(DRIFTS)
        self._shim.clock(0.0, drift)
        return f"{drift:+g} s a second"
