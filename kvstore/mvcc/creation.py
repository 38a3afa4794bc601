"""Who came first? Live keys of an interval by the revision that created them: the order of locks.

Both searches go in slices between which anything may be written, and pin nothing. That is sound
because a key's creation revision stays while it lives, and a new key's is higher than all there
are: a key that is live at the end with a low creation revision was there all along, so the search
has seen it. "None" is therefore true when the search ends.

Trade-off: a search looks at every key of the interval, though in memory and without reading values.
"""

from __future__ import annotations

from itertools import islice

from kvstore.mvcc.steps import SLICE_KEYS, Steps
from kvstore.mvcc.store import Store


def created(store: Store, key: bytes) -> int:
    """Return the creation revision of a live key, 0 if there is none (TXN-04)."""
    record = store.index.records.get(key)
    return 0 if record is None else record.create


def first_created_steps(store: Store, start: bytes, end: bytes | None) -> Steps[bytes | None]:
    """Find the live key of [start, end) that was created first, the lowest of several (CON-12).

    What is returned holds when the search ends.
    """
    while True:
        first: tuple[int, bytes] | None = None
        cursor: bytes | None = start
        while cursor is not None:
            keys, cursor = _slice(store, cursor, end)
            found = min(((created(store, key), key) for key in keys), default=None)
            if found is not None and (first is None or found < first):
                first = found
            if cursor is not None:
                yield
        if first is None or created(store, first[1]) == first[0]:
            return first[1] if first else None


def last_created_before_steps(
    store: Store, start: bytes, end: bytes | None, revision: int
) -> Steps[bytes | None]:
    """Find the live key of [start, end) created last of those before `revision` (CON-05).

    The key that is returned may be gone when the search ends: see `created`.
    """
    last: tuple[int, bytes] | None = None
    cursor: bytes | None = start
    while cursor is not None:
        keys, cursor = _slice(store, cursor, end)
        older = ((create, key) for key in keys if (create := created(store, key)) < revision)
        found = max(older, default=None)
        if found is not None and (last is None or found > last):
            last = found
        if cursor is not None:
            yield
    return last[1] if last else None


def _slice(store: Store, start: bytes, end: bytes | None) -> tuple[list[bytes], bytes | None]:
    """Return the next live keys and where to go on, None when the interval is exhausted."""
    keys = list(islice(store.index.live.irange(start, end, (True, False)), SLICE_KEYS))
    return keys, keys[-1] + b"\0" if len(keys) == SLICE_KEYS else None
