"""A snapshot file: an etcd database and behind it, if it came over the network, its SHA-256.

A digest is there if the size is 32 above a multiple of 512; a database's size never is. Without a
digest it is a copy of a data directory's ``db``.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.reader import Database
from kvstore.snapshot.errors import SnapshotError

DIGEST_BYTES: Final = hashlib.sha256().digest_size
SECTOR_BYTES: Final = 512
_READ_BYTES: Final = 1 << 20


def has_digest(size: int) -> bool:
    """Tell by its size whether a snapshot file ends with a digest."""
    return size % SECTOR_BYTES == DIGEST_BYTES


def sha256_of(file: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 of the first `size` bytes of a file."""
    digest, left = hashlib.sha256(), size
    file.seek(0)
    while left and (piece := file.read(min(left, _READ_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return digest.digest()


@contextmanager
def open_snapshot(
    path: str, *, digest_needed: bool = False, check_digest: bool = True
) -> Iterator[Database]:
    """Open a snapshot file for reading.

    Args:
        digest_needed: refuse a file without digest.
        check_digest: refuse a file with a wrong one.

    Raises:
        SnapshotError: refused, or no database; the text names the file.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise SnapshotError(f"{path}: the file is empty")
        if has_digest(size) and check_digest:
            expected = _digest_in(file, size)
            found = sha256_of(file, size - DIGEST_BYTES)
            if found != expected:
                raise SnapshotError(
                    f"{path}: expected sha256 {expected.hex()}, got {found.hex()}: the file is"
                    " damaged"
                )
        elif digest_needed:
            raise SnapshotError(f"{path}: snapshot missing hash but --skip-hash-check=false")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                database = Database(data)
            except BoltDamaged as error:
                raise SnapshotError(f"{path}: {error}") from error
            yield database


def _digest_in(file: BinaryIO, size: int) -> bytes:
    file.seek(size - DIGEST_BYTES)
    return file.read(DIGEST_BYTES)
