"""The multi-version store: revisions in a backend, their index in memory, and the write path.

Here are reads of single values, write transactions, compaction's logical side, history for
watchers, and pins; ranges are in `range.py`, hashes in `hash.py`. Nothing here knows requests,
leases' lifetimes or the log. The trade-off: a write changes index and pending buffer at once and
cannot be undone, so every check of a request must be over before its first write (TXN-14).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kvstore import errors
from kvstore.mvcc.compaction import (
    META_FINISHED,
    META_SCHEDULED,
    NEVER,
    CompactionPass,
    load_meta,
    save_meta,
)
from kvstore.mvcc.compaction_hashes import CompactionHashes
from kvstore.mvcc.hash import HashKV, hash_kv_steps
from kvstore.mvcc.index import KeyIndex
from kvstore.mvcc.keyvalue import (
    TOMBSTONE_KEY_SIZE,
    TOMBSTONE_MARK,
    decode_revision_key,
    encode_key_value,
    encode_tombstone,
    key_of,
    mod_revision_field,
    revision_key,
)
from kvstore.mvcc.range import Range, range_steps
from kvstore.mvcc.steps import drain
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import RangeRequest
from kvstore.storage.backend import REVISIONS, Backend

PUT = 0
DELETE = 1

Event = tuple[int, bytes, bytes, int, int]
"""(PUT or DELETE, key, serialized KeyValue, previous main, previous sub); previous main is 0 when
the event creates its key, and in history also when the previous value is compacted (WCH-28)."""

FIRST_REVISION = 1
"""The revision of an empty store (GEN-03)."""


def _ignore_events(_revision: int, _events: list[Event]) -> None:
    pass


class Store:
    """All revisions of all keys.

    Attributes:
        revision: the newest revision that is readable.
        newest: the same, but one more while a transaction is open that has written; "latest" for
            reads, so that a transaction sees its own writes (TXN-08).
        compact_revision: reads below it fail; -1 if never compacted.
        finished_compact_revision: how far physical removal has got; `physical=true` waits until
            it reaches `compact_revision` (CMP-07).
        compaction_hashes: of the last compactions (MNT-23).
        on_events: called once for each revision, after it is readable (WCH-25).
        puts, deletes, ranges, txns: requests carried out since start, those inside of transactions
            too; put_bytes: sum of the keys and values put.
        removed_revisions: what compactions have removed since start.
    """

    __slots__ = (
        "_attachments",
        "_pass",
        "_pins",
        "backend",
        "compact_revision",
        "compaction_hashes",
        "deletes",
        "finished_compact_revision",
        "index",
        "newest",
        "on_events",
        "put_bytes",
        "puts",
        "ranges",
        "removed_revisions",
        "revision",
        "txns",
    )

    def __init__(self, backend: Backend) -> None:
        """Load what `backend` holds. Raises CorruptBackend."""
        self.on_events: Callable[[int, list[Event]], None] = _ignore_events
        self.puts = self.deletes = self.ranges = self.txns = 0
        self.put_bytes = self.removed_revisions = 0
        self.restore(backend)

    def restore(self, backend: Backend | None = None) -> None:
        """Forget everything in memory and load the backend, after a start or installed snapshot.

        Args:
            backend: the new backend if the snapshot came with one.

        Pins of readers that are still under way are forgotten: end these first.
        """
        if backend is not None:
            self.backend = backend
        self.compact_revision = load_meta(self.backend, META_SCHEDULED, NEVER)
        self.finished_compact_revision = load_meta(self.backend, META_FINISHED, NEVER)
        self._pass: CompactionPass | None = None
        self.compaction_hashes = CompactionHashes()
        self._pins: dict[int, int] = {}
        self.index = KeyIndex()
        newest = self._load_revisions()
        # Removal never reaches above the compact revision: nothing newer is missing (CMP-09).
        self.revision = self.newest = max(newest, self.compact_revision, FIRST_REVISION)
        self.index.finish_load(self.revision)

    def _load_revisions(self) -> int:
        """Fill the index in one scan; return the newest stored revision, 0 if none."""
        load = self.index.load
        attachments: dict[bytes, int] = {}
        main = 0
        for stored, value in self.backend.scan(REVISIONS, b"", None):
            main, sub = decode_revision_key(stored)
            if len(stored) == TOMBSTONE_KEY_SIZE:
                key = key_of(value)
                load(key, main, sub, 0, 0)
                attachments.pop(key, None)
                continue
            message = KeyValue.FromString(value)
            key = message.key
            load(key, main, sub, message.create_revision, message.version)
            if message.lease:
                attachments[key] = message.lease
            else:
                attachments.pop(key, None)
        self._attachments = attachments
        return main

    def take_attachments(self) -> list[tuple[bytes, int]]:
        """Hand out (key, lease id) of live keys with a lease, as of the last `restore`, once."""
        attachments, self._attachments = self._attachments, {}
        return list(attachments.items())

    # Reads.

    def read_revision(self, requested: int) -> int:
        """Return the revision that a read at `requested` sees; <= 0 is the latest (RNG-08).

        Raises:
            EtcdError: FUTURE_REV (RNG-09), COMPACTED (RNG-10).
        """
        if requested <= 0:
            return self.newest
        if requested > self.revision:
            raise errors.FUTURE_REV
        if requested < self.compact_revision:
            raise errors.COMPACTED
        return requested

    def get(self, key: bytes, revision: int = 0) -> bytes | None:
        """Return the serialized KeyValue of `key`, None if it is not there at `revision`.

        Raises:
            EtcdError: FUTURE_REV, COMPACTED.
        """
        at = self.newest if revision <= 0 else self.read_revision(revision)
        record = self.index.records.get(key)
        if record is None:
            return None
        newest = record.revisions[-1]
        if newest >> 1 <= at:
            if newest & 1:
                return None
            subs = record.subs
            return self.value_at(newest >> 1, 0 if subs is None else subs[-1])
        seen = record.live_at(at)
        return None if seen is None else self.value_at(*seen)

    def value_at(self, main: int, sub: int) -> bytes:
        """Return the serialized KeyValue written at (main, sub), empty if it is compacted away.

        The value before an event at revision m is there as long as m - 1 >= `compact_revision`;
        whoever sends it checks that at that time (WCH-28).
        """
        return self.backend.get(REVISIONS, revision_key(main, sub)) or b""

    def values_at(self, revisions: Sequence[tuple[int, int]]) -> list[bytes]:
        """`value_at` for many (main, sub) at once."""
        keys = [revision_key(main, sub) for main, sub in revisions]
        return [value or b"" for value in self.backend.get_many(REVISIONS, keys)]

    def range(self, request: RangeRequest) -> Range:
        """Answer a range in one go (see `range_steps` for big ones). Raises EtcdError."""
        return drain(range_steps(self, request))

    # Writes.

    def begin(self) -> WriteTxn:
        """Start a write transaction. At most one may be open, and only within one call chain."""
        return WriteTxn(self)

    # Compaction.

    def compact(self, revision: int) -> None:
        """Make reads below `revision` fail, at once; removal is up to `compact_step` (CMP-06).

        Raises:
            EtcdError: COMPACTED if not above the last one, FUTURE_REV (CMP-01).
        """
        if revision <= self.compact_revision:
            raise errors.COMPACTED
        if revision > self.revision:
            raise errors.FUTURE_REV
        self.compaction_hashes.schedule(self.compact_revision, revision)
        self.compact_revision = revision
        save_meta(self.backend, META_SCHEDULED, revision)

    def compact_step(self, limit: int) -> bool:
        """Hash a slice of a compaction, or remove up to about `limit` compacted revisions.

        Returns whether there is more to do.

        A pinned reader holds removal up at its revision. Then the step does nothing and still
        returns True: pace the calls, never loop tightly.
        """
        if self._pass is None:
            hashes = self.compaction_hashes
            reach = min(hashes.needs_above(self.compact_revision), *self._pins, self.revision)
            if reach <= self.finished_compact_revision:
                return hashes.step(self) or self.finished_compact_revision < self.compact_revision
            self._pass = CompactionPass(
                self.backend, self.index, self.finished_compact_revision, reach
            )
        more = self._pass.step(limit)
        self.removed_revisions += self._pass.removed
        if more:
            return True
        # In the same buffer behind the last removal, so never durable before it.
        self.finished_compact_revision = self._pass.reach
        save_meta(self.backend, META_FINISHED, self._pass.reach)
        self._pass = None
        return self.finished_compact_revision < self.compact_revision

    @contextmanager
    def pinned(self, revision: int) -> Iterator[None]:
        """Keep what a read at `revision` sees from physical removal while the context is open.

        A pass under way does not matter: it reaches at most the compact revision of its start,
        and nobody can start reading below that.
        """
        pins = self._pins
        pins[revision] = pins.get(revision, 0) + 1
        try:
            yield
        finally:
            if pins[revision] == 1:
                del pins[revision]
            else:
                pins[revision] -= 1

    def hash_kv(self, revision: int) -> HashKV:
        """Hash all revisions up to `revision` in one go (see `hash_kv_steps`). Raises EtcdError."""
        return drain(hash_kv_steps(self, revision))

    # History.

    def events(
        self, start: int, stop: int, max_revisions: int, max_bytes: int | None = None
    ) -> list[tuple[int, list[Event]]]:
        """Return stored history: (revision, its events by sub-revision), oldest first.

        Args:
            start: first revision, inclusive, >= 1.
            stop: exclusive.
            max_revisions: at most so many revisions, >= 1 (WCH-23).
            max_bytes: stop after the revision in which the KeyValues' sizes reach this sum.

        The cost follows what is returned. Revisions are never split (WCH-21).

        Raises:
            EtcdError: COMPACTED if `start` is below the compact revision.
        """
        if start < self.compact_revision:
            raise errors.COMPACTED
        history: list[tuple[int, list[Event]]] = []
        current, size = 0, 0
        records = self.index.records
        for stored, value in self.backend.scan(
            REVISIONS, revision_key(start, 0), revision_key(max(start, stop), 0)
        ):
            main, sub = decode_revision_key(stored)
            if main != current:
                if len(history) == max_revisions or (max_bytes is not None and size >= max_bytes):
                    break
                current = main
                history.append((main, []))
            key = key_of(value)
            previous, previous_sub = 0, 0
            if main > self.compact_revision:
                previous, previous_sub = records[key].previous(main, sub)
            kind = DELETE if len(stored) == TOMBSTONE_KEY_SIZE else PUT
            history[-1][1].append((kind, key, value, previous, previous_sub))
            size += len(value)
        return history


class WriteTxn:
    """One open write transaction: everything in it gets the same main revision (TXN-17).

    It has no undo: an exception other than those of the checks before it leaves the store unusable.
    """

    __slots__ = ("_events", "_mod_field", "_store", "main")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._events: list[Event] = []
        self.main = store.revision + 1
        self._mod_field = mod_revision_field(self.main)

    @property
    def changed(self) -> bool:
        """Whether anything was written so far."""
        return bool(self._events)

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Write one key (PUT-01..03). The caller has checked the lease and moves attachments."""
        store, main, events = self._store, self.main, self._events
        sub = len(events)
        store.puts += 1
        store.put_bytes += len(key) + len(value)
        create, version, previous, previous_sub = store.index.put(key, main, sub)
        stored = encode_key_value(key, create, self._mod_field, version, value, lease)
        store.backend.put(REVISIONS, revision_key(main, sub), stored)
        store.newest = main
        events.append((PUT, key, stored, previous, previous_sub))

    def delete(self, key: bytes) -> None:
        """Write the tombstone of a live key. Raises KeyError if it was never there."""
        store, main, events = self._store, self.main, self._events
        sub = len(events)
        previous, previous_sub = store.index.delete(key, main, sub)
        stored = encode_tombstone(key, self._mod_field)
        store.backend.put(REVISIONS, revision_key(main, sub) + TOMBSTONE_MARK, stored)
        store.newest = main
        events.append((DELETE, key, stored, previous, previous_sub))

    def delete_range(self, start: bytes, end: bytes | None) -> list[bytes]:
        """Delete all live keys of [start, end) in ascending order and return them (DEL-03)."""
        keys = list(self._store.index.live.irange(start, end, (True, False)))
        for key in keys:
            self.delete(key)
        return keys

    def commit(self) -> int:
        """Make the writes readable and announce them; return the new or unchanged revision."""
        store = self._store
        if self._events:
            store.revision = self.main
            store.on_events(self.main, self._events)
        return store.revision
