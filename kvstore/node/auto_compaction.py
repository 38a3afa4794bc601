"""When to compact by itself, and up to where: pure schedules, time is a parameter (CMP-12).

The caller asks every `interval_s` seconds, says whether this member leads, and reports success. A
schedule runs on every member, so that a new leader knows the past window too. The trade-off, as in
etcd: what is kept is sampled, so the history may be up to a tenth of the window longer.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

SAMPLES: Final = 10
"""Samples in a window, or in an hour of a longer one."""
MAX_INTERVAL_S: Final = 3600.0
"""A longer window is compacted this often all the same."""
MIN_SAMPLE_S: Final = 0.01
"""Shortest time between two samples, however short the window."""
REVISION_INTERVAL_S: Final = 300.0
"""Time between two compactions in revision mode."""


class Schedule(Protocol):
    """What `PeriodicSchedule` and `RevisionSchedule` have in common."""

    interval_s: float
    """How often to ask."""

    def due(self, now: float, revision: int, leads: bool) -> int | None:
        """Return the revision to compact at, or None.

        Args:
            now: monotonic seconds.
            revision: the store's present one.
            leads: whether this member leads; only the leader compacts.
        """

    def compacted(self, now: float, revision: int) -> None:
        """A compaction at `revision` succeeded, or was found done. Without this it is retried."""


class PeriodicSchedule:
    """Keeps the history of the last `period_s` seconds."""

    def __init__(self, period_s: float, now: float, revision: int) -> None:
        """Begin at `now`; the first compaction comes a whole period later."""
        self.interval_s = max(min(period_s, MAX_INTERVAL_S) / SAMPLES, MIN_SAMPLE_S)
        self._wait_s = period_s
        self._pause_s = min(period_s, MAX_INTERVAL_S)
        self._last_at = now
        self._last_revision = 0
        kept = round(period_s / self.interval_s) + 1
        self._samples: deque[int] = deque([revision], maxlen=kept)

    def due(self, now: float, revision: int, leads: bool) -> int | None:
        oldest = self._samples[0]
        # Half a sample early is on time: timers are never exact.
        waited = now - self._last_at + self.interval_s / 2 >= self._wait_s
        self._samples.append(revision)
        if not leads or not waited or oldest == self._last_revision:
            return None
        self._wait_s = self._pause_s
        return oldest

    def compacted(self, now: float, revision: int) -> None:
        self._last_at = now
        self._last_revision = revision


class RevisionSchedule:
    """Keeps the last `retention` revisions."""

    def __init__(self, retention: int) -> None:
        self.interval_s = REVISION_INTERVAL_S
        self._retention = retention
        self._last_revision = 0

    def due(self, now: float, revision: int, leads: bool) -> int | None:
        target = revision - self._retention
        if not leads or target <= 0 or target == self._last_revision:
            return None
        return target

    def compacted(self, now: float, revision: int) -> None:
        self._last_revision = revision
