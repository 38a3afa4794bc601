"""Mutants of the multi-version store: revisions, history, compaction, counts."""

from __future__ import annotations

from typing import Any

from jepsen.mutants.registry import Patches, Sim, mutant
from kvstore.mvcc import store as store_module
from kvstore.mvcc.compaction import (
    META_FINISHED,
    META_SCHEDULED,
    NEVER,
    CompactionPass,
    save_meta,
)
from kvstore.mvcc.index import KeyIndex, KeyRecord
from kvstore.mvcc.keyvalue import TOMBSTONE_MARK, revision_key
from kvstore.mvcc.store import Store, WriteTxn
from kvstore.node.member import Member

ANSWERS = ("answers agree with the history", "acknowledged writes are there",
           "stale read or write")  # fmt: skip
STATES = ("equal index, equal state", "equal revision, equal events", "dense revisions")
WATCHED = ("watch delivery",)


@mutant("a revision is used once", "GEN-03", *STATES)
def revision_used_again_after_a_restart(patch: Patches) -> None:
    @patch.around(Store, "restore")
    def restore(original: Any, self: Store, backend: Any = None) -> None:
        original(self, backend)
        if self.revision > 10:
            self.revision = self.newest = self.revision - 1


@mutant("a compaction keeps live values", "CMP-05", *ANSWERS, *STATES, "a member fails")
def compaction_drops_a_live_value(patch: Patches) -> None:
    @patch.around(KeyRecord, "droppable")
    def droppable(original: Any, self: KeyRecord, revision: int) -> int:
        count = int(original(self, revision))
        newest = self.revisions[-1]
        return count + 1 if newest >> 1 < revision and not newest & 1 and count else count


@mutant("a compaction at r keeps a deletion at r", "CMP-05, scenario 16", *WATCHED, *ANSWERS,
        "a member fails", hunt=Sim(chaos_s=30.0))  # fmt: skip
def compaction_drops_a_deletion_at_its_revision(patch: Patches) -> None:
    @patch.around(KeyRecord, "droppable")
    def droppable(original: Any, self: KeyRecord, revision: int) -> int:
        count = int(original(self, revision))
        return count + (count < len(self.revisions) and self.revisions[count] == revision << 1 | 1)


@mutant("reads below the compaction fail", "RNG-10", *ANSWERS)
def reads_below_the_compaction_answered(patch: Patches) -> None:
    @patch.around(Store, "read_revision")
    def read(original: Any, self: Store, requested: int) -> int:
        if 0 < requested < self.compact_revision:
            return requested
        return int(original(self, requested))


@mutant("an old revision reads as it was", "RNG-08", *ANSWERS)
def historical_reads_show_the_latest(patch: Patches) -> None:
    @patch.around(Store, "get")
    def get(original: Any, self: Store, key: bytes, revision: int = 0) -> Any:
        if revision > 0:
            self.read_revision(revision)
        return original(self, key)


@mutant("a put keeps the creation revision", "PUT-02", "revisions of a key")
def put_moves_the_creation_revision(patch: Patches) -> None:
    @patch.around(KeyIndex, "put")
    def put(original: Any, self: KeyIndex, key: bytes, main: int, sub: int) -> Any:
        create, version, previous, previous_sub = original(self, key, main, sub)
        if version % 4 == 0:
            self.records[key].create = create = main
        return create, version, previous, previous_sub


@mutant("a version counts from the creation", "PUT-02", "revisions of a key", *STATES)
def version_survives_a_deletion(patch: Patches) -> None:
    @patch.around(KeyIndex, "delete")
    def delete(original: Any, self: KeyIndex, key: bytes, main: int, sub: int) -> Any:
        last = self.records[key].version
        found = original(self, key, main, sub)
        _last[key] = last
        return found

    @patch.around(KeyIndex, "put")
    def put(original: Any, self: KeyIndex, key: bytes, main: int, sub: int) -> Any:
        create, version, previous, previous_sub = original(self, key, main, sub)
        if version == 1 and key in _last:
            self.records[key].version = version = _last[key] + 1
        return create, version, previous, previous_sub

    _last: dict[bytes, int] = {}


@mutant("a version is not lost at a restart", "PUT-02", "revisions of a key", *STATES)
def version_starts_again_after_a_restart(patch: Patches) -> None:
    @patch.around(KeyIndex, "load")
    def load(original: Any, *arguments: Any) -> None:
        *before, version = arguments
        original(*before, min(version, 1))


@mutant("a deleted key is not there", "DEL-01", *ANSWERS, "a member fails")
def deleted_key_stays_in_ranges(patch: Patches) -> None:
    @patch.around(KeyIndex, "delete")
    def delete(original: Any, self: KeyIndex, key: bytes, main: int, sub: int) -> Any:
        found = original(self, key, main, sub)
        if main % 8 == 0:
            self.live.add(key)
        return found


@mutant("a count is that of the whole range", "RNG-13", *ANSWERS)
def count_leaves_out_the_last_key(patch: Patches) -> None:
    @patch.around(KeyIndex, "count_live")
    def count(original: Any, self: KeyIndex, start: bytes, end: Any) -> int:
        found = int(original(self, start, end))
        return found - (found > 3)


@mutant("a count at an old revision is that revision's", "RNG-13", *ANSWERS)
def historical_count_is_the_latest(patch: Patches) -> None:
    @patch.instead(KeyIndex, "count_at")
    def count(self: KeyIndex, start: bytes, end: Any, revision: int) -> Any:
        return self.count_live(start, end)


@mutant("a compaction survives a restart", "CMP-09", *STATES)
def compaction_forgotten_at_a_restart(patch: Patches) -> None:
    @patch.around(store_module, "load_meta")
    def load(original: Any, backend: Any, name: bytes, default: int) -> int:
        return NEVER if name == META_SCHEDULED else int(original(backend, name, default))


@mutant("physical=true waits for the removal", "CMP-07", "physical compaction")
def physical_compaction_answered_at_once(patch: Patches) -> None:
    patch.set(Member, "wait_compacted", lambda self, done: done(b""))


@mutant("a compaction that was cut short goes on", "CMP-09, scenario 17", *STATES, *WATCHED,
        *ANSWERS, "what a compaction leaves")  # fmt: skip
def compaction_finished_before_it_is(patch: Patches) -> None:
    @patch.around(Store, "compact_step")
    def step(original: Any, self: Store, limit: int) -> bool:
        if self._pass is None:
            save_meta(self.backend, META_FINISHED, self.compact_revision)
        return bool(original(self, limit))


@mutant("a compaction removes what it hides", "CMP-05", *STATES, "what a compaction leaves")
def compaction_forgets_some_tombstones(patch: Patches) -> None:
    @patch.around(CompactionPass, "_drop")
    def drop(original: Any, self: Any, key: bytes, record: KeyRecord, count: int) -> None:
        if count == len(record.revisions) and count > 1:
            count -= 1
        original(self, key, record, count)


@mutant("a compaction removes oldest first", "CMP-09, scenario 17", *STATES, *ANSWERS,
        "a member fails", hunt=Sim(chaos_s=30.0))  # fmt: skip
def compaction_removes_tombstones_first(patch: Patches) -> None:
    @patch.around(CompactionPass, "_drop")
    def drop(original: Any, self: Any, key: bytes, record: KeyRecord, count: int) -> None:
        whole = count and record.revisions[-1] & 1
        if whole:
            main = record.revisions[-1] >> 1
            stored = revision_key(main, record.sub(-1))
            self._backend.delete("revisions", stored + TOMBSTONE_MARK)
        original(self, key, record, count)


@mutant("an index of a restored store is that of its content", "scenario 23", *STATES, *ANSWERS)
def restored_index_keeps_old_keys(patch: Patches) -> None:
    @patch.around(Store, "restore")
    def restore(original: Any, self: Store, backend: Any = None) -> None:
        old = self.index.records if backend is None else {}
        original(self, backend)
        for key, record in old.items():
            if key not in self.index.records and record.version:
                self.index.records[key] = record
                self.index.live.add(key)


@mutant("a key is written at the transaction's revision", "TXN-17", *STATES, *ANSWERS,
        "revisions of a key")  # fmt: skip
def transaction_commits_after_each_write(patch: Patches) -> None:
    for name in ("put", "delete"):

        @patch.around(WriteTxn, name)
        def write(original: Any, self: WriteTxn, *arguments: Any) -> None:
            if self._events:
                self.commit()
                WriteTxn.__init__(self, self._store)
            original(self, *arguments)
