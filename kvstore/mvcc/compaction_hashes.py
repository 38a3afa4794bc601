"""The hashes of past compactions, which members compare with each other (MNT-23).

Members compact at the same revisions, but not at the same time; so each hashes what a compaction
keeps before it removes anything, in slices between removals, and remembers the last few results.
The trade-off, as in etcd: every compaction reads all that is stored once. If compactions come
faster than that, those between the one being hashed and the newest are left out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.mvcc.hash import HashKV, compaction_hash_steps
from kvstore.mvcc.steps import Steps

if TYPE_CHECKING:
    from kvstore.mvcc.store import Store

MAX_HASHES: Final = 10
"""So many are remembered."""


class _Job(NamedTuple):
    previous: int
    """The compact revision before; nothing above it may be removed until the hash is known."""
    revision: int


class CompactionHashes:
    """Kept in memory only: after a restart or an installed snapshot there are none."""

    def __init__(self) -> None:
        self._known: deque[HashKV] = deque(maxlen=MAX_HASHES)
        self._job: _Job | None = None
        self._steps: Steps[HashKV] | None = None
        self._waiting: _Job | None = None

    def schedule(self, previous: int, revision: int) -> None:
        """Have the compaction at `revision` hashed; `previous` was the compact revision before."""
        job = _Job(previous, revision)
        if self._job is None:
            self._job = job
        else:
            self._waiting = job

    def get(self, revision: int) -> HashKV | None:
        """Return the hash of the compaction at exactly `revision`, if it is remembered."""
        for found in self._known:
            if found.hash_revision == revision:
                return found
        return None

    def newest_first(self) -> list[HashKV]:
        return list(reversed(self._known))

    def needs_above(self, compact_revision: int) -> int:
        """Return the revision above which nothing may be removed yet."""
        return compact_revision if self._job is None else self._job.previous

    def step(self, store: Store) -> bool:
        """Hash one slice; return whether there was something to do."""
        if self._job is None:
            return False
        if self._steps is None:
            self._steps = compaction_hash_steps(store, *self._job)
        try:
            next(self._steps)
        except StopIteration as end:
            self._known.append(end.value)
            self._job, self._steps, self._waiting = self._waiting, None, None
        return True
