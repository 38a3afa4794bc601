"""The index from user keys to revisions, in memory; rebuilt from table REVISIONS at start.

No values live here and nothing is read from a backend. The trade-off: an index costs memory (about
250 bytes a key beyond the key), and in return a look-up is one dict access, a count of live keys is
bisect arithmetic, and a range with a limit touches only what it returns.

Worked example. Put a at 2, put a at 3, delete a at 4, put a at 6 leaves for a
    revisions = [2 << 1, 3 << 1, 4 << 1 | 1, 6 << 1], subs = None, create = 6, version = 1
and a is in `live`. After the delete at 4 it was in `dead`, where historical reads still find it
until a compaction above 4 drops it. Compacting at 3 drops 2; compacting at 5 drops 2, 3 and 4.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from heapq import merge
from itertools import islice

from sortedcontainers import SortedList

CHANGES_KEPT = 1 << 16
"""How many creations and deletions of keys are remembered, for counts at recent revisions."""


class KeyRecord:
    """All stored revisions of one key, oldest first.

    `revisions` holds `main << 1 | tombstone`. `subs` holds the sub-revisions, or is None while all
    of them are 0, which saves 8 bytes a revision and an object for most keys. `create` and
    `version` are those of the newest revision, 0 if it is a tombstone.
    """

    __slots__ = ("create", "revisions", "subs", "version")

    def __init__(self) -> None:
        self.revisions = array("Q")
        self.subs: array[int] | None = None
        self.create = 0
        self.version = 0

    def append(self, revision: int, sub: int) -> None:
        """Add the newest revision: `main << 1 | tombstone` and its sub-revision."""
        if sub:
            if self.subs is None:
                self.subs = array("Q", bytes(8 * len(self.revisions)))
            self.subs.append(sub)
        elif self.subs is not None:
            self.subs.append(0)
        self.revisions.append(revision)

    def sub(self, position: int) -> int:
        """Return the sub-revision of the revision at `position` (negative counts from the end)."""
        return 0 if self.subs is None else self.subs[position]

    def position_at(self, revision: int) -> int:
        """Return the position of the newest revision with main <= `revision`, -1 if none."""
        return bisect_right(self.revisions, revision << 1 | 1) - 1

    def live_at(self, revision: int) -> tuple[int, int] | None:
        """Return (main, sub) of what a read at `revision` sees, None if the key is not there."""
        position = self.position_at(revision)
        if position < 0:
            return None
        stored = self.revisions[position]
        return None if stored & 1 else (stored >> 1, self.sub(position))

    def previous(self, main: int, sub: int) -> tuple[int, int]:
        """Return the (main, sub) of the value before the change at (main, sub), (0, 0) if none.

        A delete after a put of the same revision has the value of the revision before (WCH-27).
        """
        position = self.position_at(main)
        while position > 0 and self.sub(position) != sub and self.revisions[position] >> 1 == main:
            position -= 1
        if position <= 0 or self.revisions[position - 1] & 1:
            return 0, 0
        if self.revisions[position - 1] >> 1 == main:
            return self.live_at(main - 1) or (0, 0)
        return self.revisions[position - 1] >> 1, self.sub(position - 1)

    def droppable(self, revision: int) -> int:
        """Return how many of the oldest revisions a compaction at `revision` drops (CMP-05).

        Kept are everything at or above `revision`, and the newest one below if it is a value.
        """
        position = self.position_at(revision)
        if position < 0:
            return 0
        if self.revisions[position] >> 1 == revision:
            return self.position_at(revision - 1) + 1
        return position + (self.revisions[position] & 1)

    def drop_oldest(self, count: int) -> None:
        """Forget the `count` oldest revisions."""
        del self.revisions[:count]
        if self.subs is not None:
            del self.subs[:count]


class KeyIndex:
    """The records of all keys, and their order.

    Invariant: every key of `records` is in exactly one of `live` (newest revision is a value) and
    `dead` (newest revision is a tombstone).
    """

    __slots__ = ("_changes", "_changes_from", "dead", "live", "records")

    def __init__(self) -> None:
        self.records: dict[bytes, KeyRecord] = {}
        self.live: SortedList[bytes] = SortedList()
        self.dead: SortedList[bytes] = SortedList()
        # Creations (+1) and deletions (-1) of keys: (main, difference, key), complete for every
        # main > _changes_from.
        self._changes: deque[tuple[int, int, bytes]] = deque()
        self._changes_from = 0

    def put(self, key: bytes, main: int, sub: int) -> tuple[int, int, int, int]:
        """Record a put; return (create revision, version, previous main, previous sub).

        Previous is (0, 0) when the put creates the key.
        """
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = KeyRecord()
        elif record.version:
            previous = record.revisions[-1] >> 1
            previous_sub = 0 if record.subs is None else record.subs[-1]
            record.append(main << 1, sub)
            record.version += 1
            return record.create, record.version, previous, previous_sub
        else:
            self.dead.remove(key)
        record.append(main << 1, sub)
        record.create = main
        record.version = 1
        self.live.add(key)
        self._note_change(main, 1, key)
        return main, 1, 0, 0

    def delete(self, key: bytes, main: int, sub: int) -> tuple[int, int]:
        """Record a tombstone for a live key; return the (main, sub) of the value before `main`."""
        record = self.records[key]
        previous = record.revisions[-1] >> 1, record.sub(-1)
        if previous[0] == main:
            previous = record.live_at(main - 1) or (0, 0)
        record.append(main << 1 | 1, sub)
        record.create = record.version = 0
        self.live.remove(key)
        self.dead.add(key)
        self._note_change(main, -1, key)
        return previous

    def _note_change(self, main: int, difference: int, key: bytes) -> None:
        changes = self._changes
        changes.append((main, difference, key))
        if len(changes) > CHANGES_KEPT:
            self._changes_from = changes.popleft()[0]

    def load(self, key: bytes, main: int, sub: int, create: int, version: int) -> None:
        """Add a revision while rebuilding, in revision order; a tombstone has version 0.

        `live` and `dead` stay empty until `finish_load`.
        """
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = KeyRecord()
        record.append(main << 1 | (version == 0), sub)
        record.create = create
        record.version = version

    def finish_load(self, revision: int) -> None:
        """Build the sorted lists; `revision` is the store's newest."""
        records = self.records
        self.live = SortedList(key for key, record in records.items() if record.version)
        self.dead = SortedList(key for key, record in records.items() if not record.version)
        self._changes.clear()
        self._changes_from = revision

    def drop_oldest(self, key: bytes, record: KeyRecord, count: int) -> None:
        """Forget the `count` oldest revisions of a key, and the key when none is left."""
        record.drop_oldest(count)
        if not record.revisions:
            del self.records[key]
            self.dead.remove(key)

    def count_live(self, start: bytes, end: bytes | None) -> int:
        """Return the number of live keys in [start, end); `end` None has no upper bound."""
        live = self.live
        last: int = len(live) if end is None else live.bisect_left(end)
        first: int = live.bisect_left(start)
        return max(0, last - first)

    def count_at(self, start: bytes, end: bytes | None, revision: int) -> int | None:
        """Return the number of keys in [start, end) at `revision`, None if that needs a walk.

        It takes the count of now and undoes the creations and deletions since, which is exact
        while these are remembered: cheap for a recent revision, as pages of a list have it.
        """
        if revision < self._changes_from:
            return None
        count = self.count_live(start, end)
        for main, difference, key in reversed(self._changes):
            if main <= revision:
                break
            if key >= start and (end is None or key < end):
                count -= difference
        return count

    def live_slice(
        self, start: bytes, end: bytes | None, limit: int
    ) -> tuple[list[tuple[bytes, int, int]], bytes | None]:
        """Return up to `limit` live keys of [start, end) as (key, main, sub), and where to go on.

        The second value is the start of the next slice, None when the interval is exhausted.
        """
        keys = list(islice(self.live.irange(start, end, (True, False)), limit))
        records = self.records
        found = []
        for key in keys:
            record = records[key]
            subs = record.subs
            found.append((key, record.revisions[-1] >> 1, 0 if subs is None else subs[-1]))
        return found, keys[-1] + b"\0" if len(keys) == limit else None

    def slice_at(
        self, start: bytes, end: bytes | None, revision: int, limit: int, looked_at: int
    ) -> tuple[list[tuple[bytes, int, int]], bytes | None]:
        """Like `live_slice`, but as of `revision`.

        It looks at no more than `looked_at` keys, so fewer than `limit` may be returned although
        the interval is not exhausted.
        """
        bounds = (True, False)
        keys = merge(self.live.irange(start, end, bounds), self.dead.irange(start, end, bounds))
        records = self.records
        found: list[tuple[bytes, int, int]] = []
        for key in keys:
            seen = records[key].live_at(revision)
            if seen is not None:
                found.append((key, seen[0], seen[1]))
            looked_at -= 1
            if looked_at == 0 or len(found) == limit:
                return found, key + b"\0"
        return found, None
