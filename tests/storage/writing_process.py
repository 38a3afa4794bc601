"""A process that writes until it is killed and says on standard output what is durable.

Run as `python -m tests.storage.writing_process wal|lmdb|pack PATH`.
"""

from __future__ import annotations

import sys
from itertools import count

from kvstore.storage.backend import META, REVISIONS
from kvstore.storage.lmdb_backend import LmdbBackend
from kvstore.storage.wal import Wal
from tests.storage.wal_files import METADATA, batch

SEGMENT_BYTES = 16384
ROWS_IN_A_COMMIT = 20


def write_log(path: str) -> None:
    """Append entries of growing size behind what is there; say the index after each append."""
    if Wal.exists(path):
        wal, recovered = Wal.open(path, segment_bytes=SEGMENT_BYTES)
        last = len(recovered.entries)
    else:
        wal, last = Wal.create(path, METADATA, segment_bytes=SEGMENT_BYTES), 0
    for index in count(last + 1):
        wal.append([batch(index, size=30 + index % 700)])
        print(index, flush=True)


def write_backend(path: str) -> None:
    """Commit rows together with the number of the last one; say it after each commit."""
    backend = LmdbBackend(path)
    last = int(backend.get(META, b"applied") or b"0")
    for index in count(last + 1):
        backend.put(REVISIONS, b"%016d" % index, b"row %d" % index)
        backend.put(META, b"applied", b"%d" % index)
        if index % ROWS_IN_A_COMMIT == 0:
            backend.commit()
            print(index, flush=True)


def pack_backend(path: str) -> None:
    """As `write_backend`, and after each commit pack the file and go on with the packed one."""
    backend = LmdbBackend(path)
    last = int(backend.get(META, b"applied") or b"0")
    for index in count(last + 1):
        backend.put(REVISIONS, b"%016d" % index, b"row %d" % index)
        backend.put(META, b"applied", b"%d" % index)
        if index % ROWS_IN_A_COMMIT == 0:
            backend.commit()
            print(index, flush=True)
            backend.pack()
            backend.switch()()


if __name__ == "__main__":
    {"wal": write_log, "lmdb": write_backend, "pack": pack_backend}[sys.argv[1]](sys.argv[2])
