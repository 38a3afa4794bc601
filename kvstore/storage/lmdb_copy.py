"""Packed copies of an LMDB file: every value checked, pages filled to the brim, nothing free.

Pairs are read in order and appended to a new file. LMDB's own compacting copy leaves out free pages
only and keeps the holes that deletes leave in the others: of 200,000 revisions of 300 bytes with
three quarters compacted away it makes 56 MB, appending makes 17 MB in the same time. The trade-off:
the copying thread holds the interpreter now and then, so the loop beside it is up to a switch
interval late.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from zlib import crc32

import lmdb

from kvstore.storage.durable import sync_directory
from kvstore.storage.errors import CopyFailed, CorruptBackend
from kvstore.storage.lmdb_file import CRC, CRC_BYTES, DAMAGED

CHUNK_BYTES = 4 << 20
"""Bytes of values that are read, then written in one transaction."""

SPARE_BYTES = 16 << 20
"""What must stay free on the disk besides the copy: the log goes on being written beside it."""

Pairs = list[tuple[bytes, bytes]]


def never() -> bool:
    """Never stop."""
    return False


def write_packed(
    source: lmdb.Environment,
    tables: Mapping[str, tuple[lmdb._Database, int]],
    path: str,
    need: int,
    stop: Callable[[], bool] = never,
) -> None:
    """Write the last commit of `source` to a new file at `path`, durable on return.

    For a worker thread. `source` may be read meanwhile; what is committed meanwhile is left out.

    Args:
        tables: handle of each table, and the CRC-32 of its name.
        need: bytes that the copy may take at most.
        stop: asked now and then; True ends the copy with `CopyFailed`.

    Raises:
        CopyFailed: no space, or another failure; nothing is left at `path`.
        CorruptBackend: a value does not match its checksum; nothing is left at `path`.
    """
    if os.path.exists(path):
        raise CopyFailed(path, "File exists")
    try:
        _require_space(path, need)
        _write(source, tables, path, stop)
        sync_directory(os.path.dirname(path) or ".")
    except CorruptBackend:
        _remove(path)
        raise
    except CopyFailed:
        _remove(path)
        raise
    except (lmdb.Error, OSError) as error:
        _remove(path)
        raise CopyFailed(path, error) from error


def _require_space(path: str, need: int) -> None:
    """A copy that fills the disk would end the process: the log's next write would fail."""
    disk = os.statvfs(os.path.dirname(path) or ".")
    free = disk.f_bavail * disk.f_frsize
    if free < need + SPARE_BYTES:
        raise CopyFailed(
            path, f"no space left on device: {free} bytes are free, {need + SPARE_BYTES} needed"
        )


def _write(
    source: lmdb.Environment,
    tables: Mapping[str, tuple[lmdb._Database, int]],
    path: str,
    stop: Callable[[], bool],
) -> None:
    # No sync for each chunk: until the one at the end the file is worth nothing.
    target = lmdb.open(
        path,
        subdir=False,
        map_size=int(source.info()["map_size"]),
        max_dbs=len(tables),
        mode=0o600,
        sync=False,
        lock=False,
    )
    try:
        with source.begin() as reader:
            for name, (db, seed) in tables.items():
                target_db = target.open_db(name.encode())
                for chunk in _chunks(reader, name, db, seed):
                    if stop():
                        raise CopyFailed(path, "it was stopped")
                    with target.begin(write=True) as txn, txn.cursor(target_db) as cursor:
                        cursor.putmulti(chunk, append=True)
        target.sync(True)
    finally:
        target.close()


def _chunks(
    reader: lmdb.Transaction[bytes], table: str, db: lmdb._Database, seed: int
) -> Iterator[Pairs]:
    """All pairs of a table as they are stored, checked, ascending."""
    chunk: Pairs = []
    size, key = 0, b""
    unpack_from = CRC.unpack_from
    try:
        with reader.cursor(db) as cursor:
            for key, raw in cursor:
                if crc32(raw[CRC_BYTES:], crc32(key, seed)) != unpack_from(raw)[0]:
                    raise CorruptBackend(table, key, "the value does not match its checksum")
                chunk.append((key, raw))
                size += len(raw)
                if size >= CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
    except (*DAMAGED, struct.error) as error:
        raise CorruptBackend(table, key, str(error)) from error
    yield chunk


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
