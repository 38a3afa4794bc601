"""When a member that was removed ends its process (CLU-11).

Not as soon as it knows: until the others know for sure, they may need its vote. The removal is
committed under the old configuration, and a member that has not learned so by the time its leader
crashes still campaigns under it. Two members of which one is removed show it best: if the one that
stays crashes before its disk has heard of the removal, it cannot win an election alone, and would
never again if the other had gone.

So a removed member stays until a majority of the remaining voters has refused it as removed, which
a member does only once the removal is durable there. Then any majority that is left later has
somebody who knows.
"""

from __future__ import annotations

from collections.abc import Collection

STAY_S = 1.0
"""Seconds from the application of its own removal to the end, so that callers get their answers."""
STAY_LIMIT_S = 30.0
"""Longest stay for the sake of members that cannot be reached."""
TOLD_LIMIT_S = 5.0
"""The same for a member that was told and has not applied its removal: its list may be stale, so
that whom it waits for may be gone."""


class Retirement:
    """Collects what a member hears of its own removal."""

    def __init__(self) -> None:
        self._applied_at: float | None = None
        self._told_at: float | None = None
        self._tellers: set[int] = set()

    @property
    def noticed(self) -> bool:
        """Whether this member knows that it was removed."""
        return self._applied_at is not None or self._told_at is not None

    def applied(self, now: float) -> None:
        """This member has applied its own removal (again, perhaps)."""
        if self._applied_at is None:
            self._applied_at = now

    def told(self, by: int, now: float) -> None:
        """A voter refuses this member as removed, durably."""
        self._tellers.add(by)
        if self._told_at is None:
            self._told_at = now

    def serves(self, now: float) -> bool:
        """Whether clients are still served: one who stays longer only votes."""
        return self._applied_at is None or now - self._applied_at < STAY_S

    def due(self, voters: Collection[int], now: float) -> bool:
        """Whether to end now.

        Args:
            voters: those that remain, as far as this member knows.
        """
        if not self.noticed:
            return False
        known = len(self._tellers.intersection(voters)) > len(voters) // 2
        if self._applied_at is None:
            assert self._told_at is not None
            return known or now - self._told_at >= TOLD_LIMIT_S
        stayed = now - self._applied_at
        return (known and stayed >= STAY_S) or stayed >= STAY_LIMIT_S
