"""Mutants of storage: the log's replay and release, the backend's commits, snapshots, syncs."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import lmdb

from jepsen.mutants.registry import Chaos, Patches, Power, Sim, aimed, mutant
from kvstore.node import member as member_module
from kvstore.node.member import Member
from kvstore.storage import durable, lmdb_backend, wal, wal_replay, wal_writer
from kvstore.storage.backend import ABSENT, LEASES, REVISIONS, WriteBuffer
from kvstore.storage.memory_backend import MemoryBackend
from kvstore.storage.wal_replay import Replay

BEHIND = Sim(faults=("hold", "ambush", "slow_disk", "crash"), chaos_s=30.0, clients=6, watchers=0)
"""Members that fall behind, get snapshots and crash around them."""
CUTS = Sim(faults=("slow_disk", "crash", "crash_all", "ambush"), chaos_s=30.0, watchers=0)
STATES = ("equal index, equal state", "equal revision, equal events", "dense revisions",
          "answers agree with the history", "a value is written once")  # fmt: skip
STARTS = ("a member starts with what it had",)
LOST = ("power: acknowledged write lost", "power: a member does not start",
        "power: a member does not serve")  # fmt: skip
GONE = ("set: lost write", "recovery: no recovery", "logs: crash in the log",
        "hashes: members differ")  # fmt: skip


@mutant("data and applied index are one", "scenario 22", *STATES, *STARTS)
def applied_index_ahead_of_the_data(patch: Patches) -> None:
    @patch.around(member_module, "store_applied")
    def store(original: Any, backend: Any, meta: Any) -> None:
        original(backend, meta._replace(index=meta.index + (meta.index > 20)))


@mutant("data and applied index are one", "scenario 22", *STATES, *STARTS)
def applied_index_behind_the_data(patch: Patches) -> None:
    @patch.around(member_module, "store_applied")
    def store(original: Any, backend: Any, meta: Any) -> None:
        original(backend, meta._replace(index=meta.index - (meta.index > 20)))


@mutant("what is being committed is still seen", "RNG-28", *STATES, "a member fails")
def frozen_writes_not_seen_by_reads(patch: Patches) -> None:
    patch.set(WriteBuffer, "get", lambda self, t, key: self.pending[t].get(key, ABSENT))


@mutant("what is being committed is still seen", "WCH-11", *STATES, "watch delivery")
def frozen_writes_not_seen_by_scans(patch: Patches) -> None:
    @patch.around(WriteBuffer, "overlay")
    def overlay(original: Any, self: WriteBuffer, table: str, start: bytes, end: Any) -> Any:
        frozen, self.frozen = self.frozen, None
        try:
            return original(self, table, start, end)
        finally:
            self.frozen = frozen


@mutant("a commit is one", "scenario 22", *STATES, *STARTS, "no key of an unknown lease")
def commit_without_its_leases(patch: Patches) -> None:
    @patch.around(WriteBuffer, "freeze")
    def freeze(original: Any, self: WriteBuffer) -> Any:
        frozen = original(self)
        if frozen is not None and len(frozen[LEASES]) > 1:
            frozen[LEASES].clear()
        return frozen


@mutant("a commit is one", "scenario 22", *STATES)
def commit_without_its_last_revision(patch: Patches) -> None:
    @patch.around(WriteBuffer, "freeze")
    def freeze(original: Any, self: WriteBuffer) -> Any:
        frozen = original(self)
        if frozen is not None and len(frozen[REVISIONS]) > 8:
            del frozen[REVISIONS][max(frozen[REVISIONS])]
        return frozen


@mutant(
    "an installed snapshot replaces what was pending",
    "scenario 23",
    *STATES,
    *STARTS,
    "what a compaction leaves",
    hunt=BEHIND,
)
def snapshot_keeps_pending_writes(patch: Patches) -> None:
    for backend in (MemoryBackend, lmdb_backend.LmdbBackend):

        @patch.around(backend, "replace")
        def replace(original: Any, self: Any, path: Any) -> None:
            buffer = self._buffer
            original(self, path)
            self._buffer = buffer


@mutant(
    "an installed snapshot brings its applied index", "scenario 23", *STATES, *STARTS, hunt=BEHIND
)
def snapshot_keeps_the_applied_index(patch: Patches) -> None:
    @patch.around(Member, "_install")
    def install(original: Any, self: Member, meta: Any) -> None:
        before = self.applied_index
        original(self, meta)
        self.applied_index = before


@mutant("a snapshot is what its index says", "scenario 31", *STATES)
def snapshot_without_its_leases(patch: Patches) -> None:
    @patch.around(MemoryBackend, "copy_to")
    def copy(original: Any, self: MemoryBackend, path: str) -> None:
        original(self, path)
        self.files[path]._tables[LEASES].clear()


@mutant("the log is kept up to what the backend has", "scenario 31", *STARTS, hunt=CUTS)
def log_released_too_early(patch: Patches) -> None:
    @patch.around(Member, "_compact_log")
    def compact(original: Any, self: Member, keep: int) -> None:
        original(self, keep)
        self._log.release(self.applied_index)


@mutant("a commit's position is what it froze", "scenario 22", *STATES, *STARTS, hunt=CUTS)
def position_taken_after_the_freeze(patch: Patches) -> None:
    @patch.around(Member, "end_commit")
    def end(original: Any, self: Member) -> None:
        if self._frozen is not None:
            self._frozen = self._frozen._replace(index=self.applied_index)
        original(self)


@mutant("a replaced end of the log stays replaced", "Raft 5.3", *STARTS, "log matching",
        "state machine safety", "leader completeness",
        hunt=aimed("shorter_end"))  # fmt: skip
def replay_keeps_replaced_entries(patch: Patches) -> None:
    @patch.around(wal_replay, "_append")
    def append(original: Any, log: Replay, batch: Any) -> None:
        at = batch.first_index - log.base_index - 1
        if 0 <= at < len(log.entries):
            log.entries[at : at + len(batch.entries)] = batch.entries
            log.state.last_index = log.base_index + len(log.entries)
        else:
            original(log, batch)


@mutant("a restart replays the whole log", "RFT-09, scenario 27", *GONE,
        hunt=Chaos(("set",), ("kill-all",), size=1))  # fmt: skip
def replay_drops_the_last_batch(patch: Patches) -> None:
    @patch.around(Replay, "recovered")
    def recovered(original: Any, self: Replay) -> Any:
        found = original(self)
        return _without_last(found)


def _without_last(found: Any) -> Any:
    if not found.entries:
        return found
    last = found.snapshot.index + len(found.entries) - 1
    hard = found.hard_state._replace(commit=min(found.hard_state.commit, last))
    return replace(found, entries=found.entries[:-1], hard_state=hard)


@mutant("nothing is acknowledged before it is written", "RFT-09, scenario 27", *GONE,
        hunt=Chaos(("set",), ("kill-all",)))  # fmt: skip
def writer_reports_before_it_writes(patch: Patches) -> None:
    import time
    from functools import partial

    def write(self: Any, token: int, batches: Any) -> None:
        self._call_soon(partial(self._on_done, token))
        time.sleep(0.05)
        self._wal.append(batches)

    patch.set(wal_writer.WalWriter, "_write", write)


@mutant("the log is synced before it is acknowledged", "scenarios 27, 30", *LOST, hunt=Power())
def log_not_synced(patch: Patches) -> None:
    patch.set(wal, "sync_data", lambda fd: None)


@mutant("the log is released behind what is durable", "scenario 30", *LOST, hunt=Power())
def backend_not_synced(patch: Patches) -> None:
    @patch.around(lmdb, "open")
    def open_unsynced(original: Any, *arguments: Any, **options: Any) -> Any:
        return original(*arguments, **{**options, "sync": False})


@mutant("a new file's name is durable", "scenarios 29, 31", *STARTS, "a member fails",
        hunt=replace(CUTS, files=True))  # fmt: skip
def directories_not_synced(patch: Patches) -> None:
    patch.set(durable, "sync_directory", lambda path: None)
    patch.set(wal, "sync_directory", lambda path: None)
    patch.set(lmdb_backend, "sync_directory", lambda path: None)


@mutant("a failed sync ends the process", "scenario 32", "faults: failed syncs survived",
        hunt=Chaos(("register",), ("failing-sync",), fault_s=4.0))  # fmt: skip
def sync_errors_ignored(patch: Patches) -> None:
    def sync(fd: int) -> None:
        import os

        with contextlib.suppress(OSError):
            os.fdatasync(fd)

    patch.set(wal, "sync_data", sync)
