"""The backend on disk: one LMDB file with one named database for each table.

How a value is stored, with a checksum of ours, is told in `lmdb_file`.

Choices: every commit is a full `sync` with `metasync`, because the log may be released up to a
commit and leaving metasync out can lose the last one in a power cut (it saves about 0.2 ms of a
commit on a thread nobody waits for). Never writemap (SIGBUS on a full disk). `lock=True`, though
there is one process only: without the reader table a commit could reuse pages that a scan is
reading. Reads go through one read transaction that is kept open and renewed after each commit. The
map is virtual space and sparse, so it is large from the start and grown only at open, when no
transaction is active.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias
from zlib import crc32

import lmdb

from kvstore.storage.backend import ABSENT, TABLES, Absent, WriteBuffer, Writes, merge
from kvstore.storage.durable import replace_durably, sync_directory
from kvstore.storage.errors import BackendFailed, CopyFailed, CorruptBackend
from kvstore.storage.lmdb_copy import never, write_packed
from kvstore.storage.lmdb_file import CRC, CRC_BYTES, DAMAGED, SEEDS, scan_pairs

MAP_BYTES = 64 << 30
"""Default size of the memory map, the most the file can grow to before the next start. Virtual."""

_MAX_MAP_SHARE = 2
"""At open the map is doubled until the file takes no more than one part in this many."""

_META_PAGES = 2

_Table: TypeAlias = "tuple[lmdb._Database, int]"

PACKED_SUFFIX = ".packed"
"""Of the file that `pack` writes beside the backend's."""


class LmdbBackend:
    """See `backend.Backend`. One instance for a file in a process, and never across a fork."""

    def __init__(self, path: str | os.PathLike[str], map_size: int = MAP_BYTES) -> None:
        """Open or create the file (beside it LMDB keeps a lock file, `path` + `-lock`).

        Raises `CorruptBackend` when the file is no LMDB file, `BackendFailed` on other failures.
        """
        self._path = os.fspath(path)
        self._buffer = WriteBuffer()
        self._committed = False
        self._failed = False
        self._open(map_size)

    def _open(self, map_size: int) -> None:
        created = not os.path.exists(self._path)
        self._packed = False
        try:
            self._env = _open(self._path, map_size)
            self._tables: dict[str, _Table] = {
                table: (self._env.open_db(table.encode()), SEEDS[table]) for table in TABLES
            }
            if created:
                sync_directory(os.path.dirname(self._path) or ".")
            self._snapshot = self._env.begin()
        except DAMAGED as error:
            raise CorruptBackend("", b"", f"{self._path}: {error}") from error
        except (lmdb.Error, OSError) as error:
            raise BackendFailed("open", self._path, error) from error
        self._read = self._snapshot.get

    @property
    def pending_bytes(self) -> int:
        return self._buffer.bytes

    @property
    def uncommitted_bytes(self) -> int:
        return self._buffer.bytes + self._buffer.frozen_bytes

    @property
    def pending_ops(self) -> int:
        return self._buffer.ops

    def get(self, table: str, key: bytes) -> bytes | None:
        buffer = self._buffer
        value = buffer.pending[table].get(key, ABSENT)
        if value is ABSENT and buffer.frozen is not None:
            value = buffer.frozen[table].get(key, ABSENT)
        if not isinstance(value, Absent):
            return value
        db, seed = self._tables[table]
        try:
            raw = self._read(key, db=db)
            if raw is None:
                return None
            stored: bytes = raw[CRC_BYTES:]
            if crc32(stored, crc32(key, seed)) == CRC.unpack_from(raw)[0]:
                return stored
        except lmdb.BadValsizeError:
            return None
        except (lmdb.Error, struct.error) as error:
            raise CorruptBackend(table, key, str(error)) from error
        raise CorruptBackend(table, key, "the value does not match its checksum")

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        buffer = self._buffer
        if buffer.pending[table] or (buffer.frozen is not None and buffer.frozen[table]):
            return [self.get(table, key) for key in keys]
        # Nothing of this table waits in the buffer: the loop below is `get` without its calls.
        db, seed = self._tables[table]
        read, unpack_from = self._read, CRC.unpack_from
        values: list[bytes | None] = []
        for key in keys:
            try:
                raw = read(key, db=db)
            except lmdb.BadValsizeError:
                raw = None
            except lmdb.Error as error:
                raise CorruptBackend(table, key, str(error)) from error
            if raw is None:
                values.append(None)
                continue
            stored = raw[CRC_BYTES:]
            if len(raw) < CRC_BYTES or crc32(stored, crc32(key, seed)) != unpack_from(raw)[0]:
                raise CorruptBackend(table, key, "the value does not match its checksum")
            values.append(stored)
        return values

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._buffer.put(table, key, value)

    def delete(self, table: str, key: bytes) -> None:
        self._buffer.put(table, key, None)

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        # The overlay first: what the writer thread commits in between is then in both.
        overlay = self._buffer.overlay(table, start, end)
        db, _ = self._tables[table]
        stored = _scan_and_end(self._env.begin(), db, table, start, end)
        return merge(stored, overlay) if overlay else stored

    def commit(self) -> None:
        write = self.freeze()
        if write is not None:
            write()
            self.thaw()

    def freeze(self) -> Callable[[], None] | None:
        frozen = self._buffer.freeze()
        return None if frozen is None else lambda: self._write(frozen)

    def thaw(self) -> None:
        if not self._committed:
            raise RuntimeError("the frozen writes are not committed yet")
        self._committed = False
        self._buffer.thaw()
        self._snapshot.abort()  # LMDB keeps it for the next begin, which is cheap for that reason
        self._snapshot = self._env.begin()
        self._read = self._snapshot.get

    def open_reads(self) -> int:
        """Count the read transactions that are open: one for all reads, and one for each scan."""
        readers = self._env.readers().splitlines()[1:]
        return sum(not line.endswith("-") for line in readers)

    def size(self) -> int:
        return (self._env.info()["last_pgno"] + 1) * self._page_bytes()

    def size_in_use(self) -> int:
        with self._env.begin() as txn:
            stats = [self._env.stat(), *(txn.stat(db) for db, _ in self._tables.values())]
        pages = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return (_META_PAGES + pages) * self._page_bytes()

    def copy_to(self, path: str) -> None:
        write_packed(self._env, self._tables, path, self.size_in_use())

    def pack(self, stop: Callable[[], bool] = never) -> None:
        """Put a packed copy of the last commit in the file's place, durably: defragmentation.

        On the writer thread, and `switch` on the loop must come next: until then reads are served
        from the old file, which has no name any more, and a commit is refused. Killed at any point
        the member finds the old or the new file, with the same content.

        Args:
            stop: asked now and then; True ends it with `CopyFailed`.

        Raises:
            CopyFailed, CorruptBackend: nothing has changed, the old file serves on.
            BackendFailed: it is not known which file a power cut would leave: the process must end.
        """
        partial = self._path + PACKED_SUFFIX
        write_packed(self._env, self._tables, partial, self.size_in_use(), stop)
        try:
            os.replace(partial, self._path)
        except OSError as error:
            os.unlink(partial)
            raise CopyFailed(self._path, error) from error
        self._packed = True
        try:
            sync_directory(os.path.dirname(self._path) or ".")
        except OSError as error:
            raise BackendFailed("sync the directory of", self._path, error) from error

    def switch(self) -> Callable[[], None]:
        """Go on with the file that `pack` has put in place; what is pending stays pending.

        Scans under way read on in the old file, which ends with the last of them.

        Returns:
            What lets go of the old file: slow for a large one (20 ms for a gigabyte), so call it on
            a worker thread.
        """
        return self._reopen()

    @contextmanager
    def pinned_file(self) -> Iterator[int]:
        """Let another process read the last commit: yield a descriptor of the file for it.

        While the context is open no page of that commit or a later one is used again, so the other
        process may read without a lock (`LmdbFile` on ``/dev/fd/N``). It must open the file while
        no commit is under way, and before this context is left. The file grows meanwhile instead
        of using free pages again. `replace` and `close` are harmless: they leave the old file as
        it is to who has it open.
        """
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        pin = self._env.begin()
        try:
            yield descriptor
        finally:
            pin.abort()
            os.close(descriptor)

    def replace(self, path: str | os.PathLike[str]) -> None:
        """Put another backend file in this one's place, durably, and go on with its content.

        What was pending is forgotten. No commit may be under way. The file at `path` is moved.
        Scans under way read on in the old file.
        """
        replace_durably(os.fspath(path), self._path)
        self._buffer = WriteBuffer()
        self._committed = False
        self._reopen()()

    def _reopen(self) -> Callable[[], None]:
        """Open the file that now has the name, return what lets go of the one that had it."""
        map_size = int(self._env.info()["map_size"])
        self._snapshot.abort()
        # The old file keeps its lock file, without the name: the two must share no lock.
        os.unlink(self._path + "-lock")
        old = [self._env, self._tables]
        self._open(map_size)
        return old.clear

    def close(self) -> None:
        self._failed = True
        self._snapshot.abort()
        self._env.close()

    def _page_bytes(self) -> int:
        return int(self._env.stat()["psize"])

    def _write(self, frozen: Writes) -> None:
        """One write transaction, durable on return. Keys in order: neighbours share pages."""
        if self._failed:
            raise BackendFailed("commit", self._path, "closed, or an earlier commit failed")
        if self._packed:
            raise BackendFailed("commit", self._path, "a packed file has taken its place")
        try:
            with self._env.begin(write=True) as txn:
                for table, changes in frozen.items():
                    if changes:
                        self._write_table(txn, table, changes)
        except BaseException as error:
            self._failed = True
            raise BackendFailed("commit", self._path, error) from error
        self._committed = True

    def _write_table(
        self, txn: lmdb.Transaction[bytes], table: str, changes: dict[bytes, bytes | None]
    ) -> None:
        db, seed = self._tables[table]
        puts: list[tuple[bytes, bytes]] = []
        for key in sorted(changes):
            value = changes[key]
            if value is None:
                txn.delete(key, db=db)
            else:
                puts.append((key, CRC.pack(crc32(value, crc32(key, seed))) + value))
        if puts:
            with txn.cursor(db) as cursor:
                cursor.putmulti(puts)


def _open(path: str, map_size: int) -> lmdb.Environment:
    """Open the environment with a map that leaves the file room to grow."""
    env = lmdb.open(
        path,
        subdir=False,
        map_size=map_size,
        max_dbs=len(TABLES),
        mode=0o600,
        sync=True,
        metasync=True,
        writemap=False,
        lock=True,
    )
    info = env.info()
    used = (info["last_pgno"] + 1) * env.stat()["psize"]
    size = info["map_size"]
    while used * _MAX_MAP_SHARE > size:
        size *= 2
    if size != info["map_size"]:
        env.set_mapsize(size)
    return env


def _scan_and_end(
    txn: lmdb.Transaction[bytes],
    db: lmdb._Database,
    table: str,
    start: bytes,
    end: bytes | None,
) -> Iterator[tuple[bytes, bytes]]:
    """`scan_pairs` on a read transaction of the scan's own, which it ends."""
    try:
        yield from scan_pairs(txn, db, table, start, end)
    finally:
        txn.abort()
