"""Both backends against a plain dict, over any order of writes, commits, freezes and crashes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from kvstore.storage.backend import LEASES, REVISIONS
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.memory_backend import MemoryBackend

KEYS = st.sampled_from([b"a", b"ab", b"b", b"\0", b"\xff", b"k" * 511])
VALUES = st.sampled_from([b"", b"1", b"two", bytes(3000)])
TABLES = st.sampled_from([REVISIONS, LEASES])


class BackendAgainstModel(RuleBasedStateMachine):
    """`written` is what reads must show, `durable` what a crash must leave."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.lmdb = LmdbBackend(Path(self.directory.name) / "db")
        self.memory = MemoryBackend()
        self.written = {REVISIONS: {}, LEASES: {}}
        self.durable = self.copy()
        self.frozen = None
        self.writes = None
        self.copies = 0

    def copy(self):
        return {table: dict(rows) for table, rows in self.written.items()}

    @property
    def both(self):
        return (self.lmdb, self.memory)

    @rule(table=TABLES, key=KEYS, value=VALUES)
    def put(self, table, key, value):
        for backend in self.both:
            backend.put(table, key, value)
        self.written[table][key] = value

    @rule(table=TABLES, key=KEYS)
    def delete(self, table, key):
        for backend in self.both:
            backend.delete(table, key)
        self.written[table].pop(key, None)

    @precondition(lambda self: self.frozen is None)
    @rule()
    def commit(self):
        for backend in self.both:
            backend.commit()
        self.durable = self.copy()

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self):
        writes = [backend.freeze() for backend in self.both]
        assert (writes[0] is None) == (writes[1] is None)
        if writes[0] is not None:
            self.frozen, self.writes = self.copy(), writes

    @precondition(lambda self: self.frozen is not None and self.writes is not None)
    @rule()
    def commit_the_freeze(self):
        for write in self.writes:
            write()
        self.durable, self.writes = self.frozen, None

    @precondition(lambda self: self.frozen is not None and self.writes is None)
    @rule()
    def thaw(self):
        for backend in self.both:
            backend.thaw()
        self.frozen = None

    @rule()
    def crash(self):
        self.lmdb.close()
        self.lmdb = LmdbBackend(Path(self.directory.name) / "db")
        self.memory = self.memory.crash()
        self.written = {table: dict(rows) for table, rows in self.durable.items()}
        self.frozen = self.writes = None

    @rule()
    def copies_hold_what_is_durable(self):
        self.copies += 1
        path = f"{self.directory.name}/copy{self.copies}"
        for backend in self.both:
            backend.copy_to(path)
        copy = LmdbBackend(path)
        for table, rows in self.durable.items():
            assert list(copy.scan(table, b"", None)) == sorted(rows.items())
            assert list(self.memory.files[path].scan(table, b"", None)) == sorted(rows.items())
        copy.close()

    @rule(table=TABLES, start=st.one_of(st.just(b""), KEYS), end=st.one_of(st.none(), KEYS))
    def scan_a_part(self, table, start, end):
        rows = sorted(self.written[table].items())
        expected = [(k, v) for k, v in rows if k >= start and (end is None or k < end)]
        for backend in self.both:
            assert list(backend.scan(table, start, end)) == expected

    @rule(table=TABLES, key=KEYS)
    def get(self, table, key):
        for backend in self.both:
            assert backend.get(table, key) == self.written[table].get(key)

    @invariant()
    def pending_figures_agree(self):
        assert self.lmdb.pending_ops == self.memory.pending_ops
        assert self.lmdb.pending_bytes == self.memory.pending_bytes

    def teardown(self):
        self.lmdb.close()
        self.directory.cleanup()


TestBackendAgainstModel = BackendAgainstModel.TestCase
TestBackendAgainstModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
