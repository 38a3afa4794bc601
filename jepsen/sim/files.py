"""Real files under the simulation: the server's own log and LMDB, in the place of their models.

A run takes the same course with files as without: the model of the log stays in charge of what is
durable and when, the files follow it, and at each start what is read back from them must be what
the model says. So a trace that differs, or a log that reads back otherwise, is a fault in one of
the two. A write that a crash loses is torn here: some of its 512-byte sectors reach the disk. Names
in the log's directory that were not synced may be lost too (`jepsen.sim.names`).

The trade-off: a run takes a tenth longer with files in memory, far longer where there is no
/dev/shm, so a slice of the seeds has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from random import Random

from jepsen.sim.disk import Disk
from jepsen.sim.loop import Violation
from jepsen.sim.names import Names
from kvstore.storage.backend import TABLES
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.memory_backend import MemoryBackend
from kvstore.storage.wal import Batch, Recovered, Wal
from kvstore.storage.wal_frame import SECTOR_BYTES
from kvstore.storage.wal_replay import LogState
from raft import SnapshotMeta

SEGMENT_BYTES = 16 << 10
"""Of a log's segment: small, so that segments are sealed and released often."""
MAP_BYTES = 1 << 30
_BACKEND = "db"


class FileContent:
    """A snapshot as it travels: the bytes of a backend's file (`MemoryBackend` is the other)."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def size(self) -> int:
        return len(self.data)

    def read(self, folder: Path, table: str, key: bytes) -> bytes | None:
        path = folder / "looked-at"
        path.write_bytes(self.data)
        backend = LmdbBackend(path, MAP_BYTES)
        try:
            return backend.get(table, key)
        finally:
            backend.close()
            path.unlink()
            Path(f"{path}-lock").unlink()


class StoredContent(FileContent):
    """One that lies in a folder, in which it may also be opened for a look (`Readable`)."""

    def __init__(self, data: bytes, folder: Path) -> None:
        super().__init__(data)
        self._folder = folder

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.read(self._folder, table, key)


class StoredFiles(MutableMapping[str, StoredContent]):
    """Snapshots beside a backend, by their paths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, path: str) -> StoredContent:
        try:
            return StoredContent(Path(path).read_bytes(), self._folder)
        except FileNotFoundError:
            raise KeyError(path) from None

    def __setitem__(self, path: str, content: StoredContent) -> None:
        Path(path).write_bytes(content.data)

    def __delitem__(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            raise KeyError(path) from None

    def __iter__(self) -> Iterator[str]:
        backend = (_BACKEND, f"{_BACKEND}-lock")
        return iter(sorted(str(p) for p in self._folder.iterdir() if p.name not in backend))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class FileBackend(LmdbBackend):
    """The server's backend, with what the simulation asks of `MemoryBackend`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / _BACKEND, MAP_BYTES)
        self._folder = folder
        self.files = StoredFiles(folder)

    @classmethod
    def create(cls, folder: Path, content: MemoryBackend) -> FileBackend:
        """Make the file, with the content of another backend."""
        folder.mkdir(parents=True)
        backend = cls(folder)
        for table in TABLES:
            for key, value in content.scan(table, b"", None):
                backend.put(table, key, value)
        backend.commit()
        return backend

    def crash(self) -> FileBackend:
        """The process has died; return what a restart finds."""
        self.close()
        return FileBackend(self._folder)


class FileDisk(Disk):
    """The model of the log, and the log itself, which must agree with it."""

    def __init__(self, start: LogState, folder: Path, random: Random) -> None:
        super().__init__(start)
        self._folder = str(folder)
        self._random = random
        self._names = Names(folder, random)
        snapshot = SnapshotMeta(start.last_index, start.last_term, start.conf_state)
        with self._names.watched():
            self._wal = Wal.create(
                self._folder,
                b"simulated",
                hard_state=start.hard_state,
                snapshot=snapshot,
                segment_bytes=SEGMENT_BYTES,
            )

    def append(self, batches: list[Batch]) -> None:
        super().append(batches)
        with self._names.watched():
            self._wal.append(batches)

    def release(self, index: int) -> None:
        super().release(index)
        with self._names.watched():
            self._wal.release(index)

    def tear(self, batches: Sequence[Batch]) -> None:
        """Leave a write of which some sectors never reached the disk."""
        with self._names.watched():
            size = self._wal.append(batches).size
        tail = self._wal._tail
        assert tail is not None
        end = tail.offset
        start = end - size
        sectors = range(start // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1)
        lost = self._random.sample(sectors, self._random.randint(1, len(sectors)))
        before = os.pread(tail.fd, size, start)
        for sector in lost:
            self._lose(tail.fd, max(start, sector * SECTOR_BYTES),
                       min(end, (sector + 1) * SECTOR_BYTES))  # fmt: skip
        if os.pread(tail.fd, size, start) == before:  # nothing but zeros was lost
            self._lose(tail.fd, start, min(end, (sectors[0] + 1) * SECTOR_BYTES))

    @staticmethod
    def _lose(descriptor: int, start: int, end: int) -> None:
        os.pwrite(descriptor, bytes(end - start), start)

    def crash(self) -> None:
        self._names.crash()

    def recover(self) -> Recovered:
        """Return what the model says. Raises Violation when the log reads back otherwise."""
        expected = super().recover()
        self._wal.close()
        with self._names.watched():
            self._wal, found = Wal.open(self._folder, segment_bytes=SEGMENT_BYTES)
        # Segments are released at other times: only what both still have can be compared.
        base = max(expected.snapshot.index, found.snapshot.index)
        wanted = expected.entries[base - expected.snapshot.index :]
        read = found.entries[base - found.snapshot.index :]
        if (read, found.hard_state) != (wanted, expected.hard_state):
            raise Violation(
                f"the log reads back {found.hard_state} and {read} behind {base} instead of"
                f" {expected.hard_state} and {wanted}"
            )
        return expected

    def close(self) -> None:
        self._wal.close()
