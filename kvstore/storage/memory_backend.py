"""A backend in memory with the same contract as LMDB's: for simulation and for fast tests.

It keeps what is committed apart from what is not, so that `crash` can drop the latter. Nothing
here touches the disk: copies go to the `files` that the backend was given. A scan copies its range,
which suits the sizes of a simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sortedcontainers import SortedDict

from kvstore.storage.backend import TABLES, Absent, WriteBuffer, Writes, merge
from kvstore.storage.errors import BackendFailed, CopyFailed


class MemoryBackend:
    """See `backend.Backend`. `files` stands for the disk that `copy_to` writes to."""

    def __init__(self, files: dict[str, MemoryBackend] | None = None) -> None:
        self.files: dict[str, MemoryBackend] = {} if files is None else files
        self._tables: dict[str, SortedDict[bytes, bytes]] = {t: SortedDict() for t in TABLES}
        self._bytes = 0
        """Of committed keys and values."""
        self._buffer = WriteBuffer()
        self._committed = False
        self._closed = False

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
        value = self._buffer.get(table, key)
        if isinstance(value, Absent):
            stored: bytes | None = self._tables[table].get(key)
            return stored
        return value

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(table, key) for key in keys]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._buffer.put(table, key, value)

    def delete(self, table: str, key: bytes) -> None:
        self._buffer.put(table, key, None)

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        stored = self._tables[table]
        keys = stored.irange(start, end, inclusive=(True, False))
        pairs = [(key, stored[key]) for key in keys]
        return merge(iter(pairs), self._buffer.overlay(table, start, end))

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

    def size(self) -> int:
        return self.size_in_use()

    def size_in_use(self) -> int:
        return self._bytes

    def copy_to(self, path: str) -> None:
        if path in self.files:
            raise CopyFailed(path, "File exists")
        self.files[path] = self.crash()

    def replace(self, path: object) -> None:
        """Go on with the content of another of the `files`, by its path, as text or not.

        What was pending is forgotten. No commit may be under way. The file at `path` is moved.
        """
        content = self.files.pop(str(path))
        self._tables, self._bytes = content._tables, content._bytes
        self._buffer = WriteBuffer()
        self._committed = False

    def pack(self, stop: Callable[[], bool]) -> None:
        """Nothing is ever wasted here. See `LmdbBackend.pack`."""

    def switch(self) -> Callable[[], None]:
        """The packed content is the old one. See `LmdbBackend.switch`."""
        return lambda: None

    def close(self) -> None:
        self._closed = True

    def crash(self) -> MemoryBackend:
        """What a restart finds: a backend with only what was committed. This one lives on apart."""
        survivor = MemoryBackend(self.files)
        survivor._tables = {name: table.copy() for name, table in self._tables.items()}
        survivor._bytes = self._bytes
        return survivor

    def _write(self, frozen: Writes) -> None:
        if self._closed:
            raise BackendFailed("commit", "memory", "the backend is closed")
        for table, changes in frozen.items():
            stored = self._tables[table]
            for key, value in changes.items():
                before = stored.get(key)
                if before is not None:
                    self._bytes -= len(key) + len(before)
                if value is None:
                    stored.pop(key, None)
                else:
                    stored[key] = value
                    self._bytes += len(key) + len(value)
        self._committed = True
