"""Compaction: what is dropped physically, and how a crash resumes it.

Logical compaction is `Store.compact`: one number. This module removes the dropped revisions from
index and backend, a slice at a time. The trade-off: a pass over (finished, reach] looks only at
revisions written since the last finished pass, because every revision dropped now was replaced (or
is a tombstone) in that span; the price is the invariant below.

Invariant: after a finished pass at F every key has at most one revision below F, and that is a
value. So a pass costs as much as was written since, not as much as is stored.
Crash safety: a key's revisions go oldest first, its tombstone last, so no deleted key comes back
however much of a pass was committed (CMP-09).
"""

from __future__ import annotations

import struct

from kvstore.mvcc.index import KeyIndex, KeyRecord
from kvstore.mvcc.keyvalue import TOMBSTONE_MARK, key_of, revision_key
from kvstore.mvcc.scan import scan_slice
from kvstore.storage.backend import META, REVISIONS, Backend, Readable

NEVER = -1
"""The compact revision of a store that was never compacted (CMP-02)."""

META_SCHEDULED = b"mvcc.scheduled_compact_revision"
META_FINISHED = b"mvcc.finished_compact_revision"
"""META keys; values are int64 big-endian. The scheduled one also keeps the store's revision from
going back when the newest revisions were all tombstones that the compaction removed (CMP-09)."""

_INT64 = struct.Struct(">q")


def load_meta(backend: Readable, name: bytes, default: int) -> int:
    """Return a stored revision, `default` if there is none."""
    value = backend.get(META, name)
    return default if value is None else int(_INT64.unpack(value)[0])


def save_meta(backend: Backend, name: bytes, revision: int) -> None:
    """Store a revision in the pending buffer."""
    backend.put(META, name, _INT64.pack(revision))


class CompactionPass:
    """One physical pass: removes what a compaction at `reach` drops, in slices."""

    __slots__ = ("_backend", "_cursor", "_end", "_index", "reach", "removed")

    def __init__(self, backend: Backend, index: KeyIndex, finished: int, reach: int) -> None:
        self._backend = backend
        self._index = index
        self._cursor = revision_key(max(finished, 0), 0)
        self._end = revision_key(reach + 1, 0)
        self.reach = reach
        self.removed = 0
        """Revisions that the last `step` removed."""

    def step(self, limit: int) -> bool:
        """Look at and remove up to about `limit` revisions each; return whether more is left."""
        # Collected before anything is deleted: a scan must not see its table change.
        pairs, following = scan_slice(self._backend, REVISIONS, self._cursor, self._end, limit)
        scanned = [(stored, key_of(value)) for stored, value in pairs]
        self.removed = 0
        budget = limit
        records = self._index.records
        for stored, key in scanned:
            record = records.get(key)
            if record is None:
                continue  # An earlier revision of this slice removed the whole key.
            wanted = record.droppable(self.reach)
            self._drop(key, record, min(wanted, budget))
            self.removed += min(wanted, budget)
            budget -= min(wanted, budget)
            if budget == 0:
                self._cursor = stored
                return True
        if following is None:
            return False
        self._cursor = following
        return True

    def _drop(self, key: bytes, record: KeyRecord, count: int) -> None:
        for position in range(count):
            revision = record.revisions[position]
            stored = revision_key(revision >> 1, record.sub(position))
            self._backend.delete(REVISIONS, stored + TOMBSTONE_MARK if revision & 1 else stored)
        if count:
            self._index.drop_oldest(key, record, count)
