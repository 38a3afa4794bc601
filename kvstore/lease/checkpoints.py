"""When leases are checkpointed: what is left of a long one is written down from time to time.

Without checkpoints a change of leader gives every lease its full TTL again, however little was
left; with them a long lease loses at most what passed since the last checkpoint. Only the leader
has a schedule. The trade-off: a lease stands in the heap once, so one that is revoked leaves an
entry behind until its time comes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvstore.lease.lessor import Lease

CHECKPOINT_INTERVAL_S: Final = 300.0
"""A lease with more than this left is checkpointed once in this time (LSE-24)."""

CHECKPOINT_BATCH: Final = 1000
"""Most leases in one log entry of checkpoints."""


class CheckpointSchedule:
    """Which leases are due. Times are those of the lessor."""

    __slots__ = ("_handed_out", "_heap", "interval_s")

    def __init__(self, interval_s: float) -> None:
        """Args: interval_s: > 0; infinite: nothing is ever due."""
        self.interval_s = interval_s
        self._heap: list[tuple[float, int]] = []
        self._handed_out = 0

    def add(self, lease_id: int, lease: Lease, now: float) -> None:
        """Schedule a lease that has long enough to go, unless it is scheduled."""
        if lease.checkpoint_due == math.inf and lease.rest_s > self.interval_s:
            lease.checkpoint_due = now + self.interval_s
            heapq.heappush(self._heap, (lease.checkpoint_due, lease_id))

    def take(
        self, leases: Mapping[int, Lease], now: float, limit: int = CHECKPOINT_BATCH
    ) -> list[tuple[int, int]]:
        """Return up to `limit` due leases with the whole seconds left of each, rounded up."""
        found: list[tuple[int, int]] = []
        while self._heap and self._heap[0][0] <= now and len(found) < limit:
            due, lease_id = heapq.heappop(self._heap)
            lease = leases.get(lease_id)
            if lease is None or lease.checkpoint_due != due:
                continue  # revoked since, perhaps granted anew
            lease.checkpoint_due = math.inf
            left = math.ceil(lease.expiry - now)
            if left >= lease.ttl_s:
                self.add(lease_id, lease, now)  # renewed just now: there is nothing to write down
            elif left > 0:
                self._handed_out += 1
                lease.handed_out = self._handed_out
                found.append((lease_id, left))
        return found

    def clear(self, leases: Mapping[int, Lease]) -> None:
        """Forget everything: what was handed out before is settled, or void, in the new term."""
        self._heap = []
        for lease in leases.values():
            lease.checkpoint_due = math.inf
            lease.handed_out = lease.settled = 0
