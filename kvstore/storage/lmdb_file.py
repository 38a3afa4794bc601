"""How values lie in a backend's LMDB file, and reading such a file without owning it.

Stored values are `u32 big-endian CRC-32 | value`, the CRC over table name, key and value: LMDB's
pages have no checksum, and a flipped key must not pass off a value as another's. It is checked at
each read.

`LmdbFile` takes no lock and leaves no trace in the lock file. So somebody must see to it that what
it reads stays: nobody writes the file, or its owner keeps it with `LmdbBackend.pinned_file`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import lmdb

from kvstore.storage.backend import TABLES
from kvstore.storage.errors import BackendFailed, CorruptBackend

CRC: Final = struct.Struct(">I")
CRC_BYTES: Final = CRC.size
SEEDS: Final = {table: crc32(table.encode()) for table in TABLES}
"""The CRC-32 of each table's name, which those of its values go on from."""
DAMAGED: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)
"""What LMDB raises at a file that it cannot make sense of."""
_MISMATCH: Final = "the value does not match its checksum"


class LmdbFile:
    """The state of the last commit in a backend file, as of the opening: a `Readable`."""

    def __init__(self, path: str) -> None:
        """Open a file that has all tables. Raises `CorruptBackend`, `BackendFailed`."""
        try:
            self._env = lmdb.open(
                path, subdir=False, readonly=True, lock=False, max_dbs=len(TABLES)
            )
        except DAMAGED as error:
            raise CorruptBackend("", b"", f"{path}: {error}") from error
        except lmdb.Error as error:
            raise BackendFailed("open", path, error) from error
        self._txn = self._env.begin()
        try:
            self._tables = {table: self._open(table) for table in TABLES}
        except CorruptBackend:
            self.close()
            raise

    def _open(self, table: str) -> lmdb._Database:
        try:
            return self._env.open_db(table.encode(), txn=self._txn, create=False)
        except lmdb.NotFoundError as error:
            raise CorruptBackend(table, b"", "the table is missing") from error
        except lmdb.Error as error:
            raise CorruptBackend(table, b"", str(error)) from error

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            raw = self._txn.get(key, db=self._tables[table])
        except lmdb.BadValsizeError:
            return None
        except lmdb.Error as error:
            raise CorruptBackend(table, key, str(error)) from error
        if raw is None:
            return None
        value: bytes = raw[CRC_BYTES:]
        checksum = crc32(value, crc32(key, SEEDS[table]))
        if len(raw) < CRC_BYTES or checksum != CRC.unpack_from(raw)[0]:
            raise CorruptBackend(table, key, _MISMATCH)
        return value

    def scan(self, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        return scan_pairs(self._txn, self._tables[table], table, start, end)

    def close(self) -> None:
        """Let go of the file; scans end."""
        self._txn.abort()
        self._env.close()


def scan_pairs(
    txn: lmdb.Transaction[bytes],
    db: lmdb._Database,
    table: str,
    start: bytes,
    end: bytes | None,
) -> Iterator[tuple[bytes, bytes]]:
    """Checked pairs with keys in [start, end), to the last when `end` is None.

    Raises `CorruptBackend` while iterating.
    """
    key, seed, unpack_from = start, SEEDS[table], CRC.unpack_from
    try:
        with txn.cursor(db) as cursor:
            if not cursor.set_range(start):
                return
            for key, raw in cursor:
                if end is not None and key >= end:
                    return
                value = raw[CRC_BYTES:]
                if crc32(value, crc32(key, seed)) != unpack_from(raw)[0]:
                    raise CorruptBackend(table, key, _MISMATCH)
                yield key, value
    except (lmdb.Error, struct.error) as error:
        raise CorruptBackend(table, key, str(error)) from error


def check_file(path: str) -> None:
    """Check every value of a backend file that nothing has open; raises `CorruptBackend`.

    A slow scan (about a second for a million values), to be run on a worker thread.
    """
    file = LmdbFile(path)
    try:
        for table in TABLES:
            for _ in file.scan(table, b"", None):
                pass
    finally:
        file.close()
