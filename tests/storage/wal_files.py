"""Small logs on a real disk for the tests, and ways to damage their files."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvstore.storage.wal import Batch, Wal
from kvstore.storage.wal_frame import frame_bytes
from raft import Entry, HardState

METADATA = b"cluster 1, member 7"


def entry(index: int, size: int = 30, term: int = 1) -> Entry:
    """An entry whose data tell its index."""
    return (term, 0, (b"entry %06d " % index).ljust(size, b"."))


def batch(first: int, count: int = 1, size: int = 30, term: int = 1) -> Batch:
    """Entries first..first+count-1, with a hard state that commits what was before them."""
    entries = [entry(i, size, term) for i in range(first, first + count)]
    return Batch(HardState(term, 7, first - 1), first, entries)


def write_log(directory: Path, sizes: Iterable[int], segment_bytes: int) -> list[Entry]:
    """Write a log with one frame, of one entry, for each size; returns the acknowledged entries."""
    wal = Wal.create(directory, METADATA, segment_bytes=segment_bytes)
    entries = []
    for index, size in enumerate(sizes, start=1):
        wal.append([batch(index, size=size)])
        entries.append(entry(index, size))
    wal.close()
    return entries


def segments(directory: Path) -> list[Path]:
    """The segment files, oldest first."""
    return sorted(directory.glob("*.wal"))


def frames(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of each frame of an undamaged segment, its header frame and seal included."""
    found, at = [], 0
    while at + 8 <= len(data) and data[at]:
        (length,) = struct.unpack_from("<I", data, at + 4)
        found.append((at, at + frame_bytes(length)))
        at = found[-1][1]
    return found


def chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of [start, end) that lie in one 512-byte sector each."""
    while start < end:
        stop = min(start // 512 * 512 + 512, end)
        yield start, stop
        start = stop


def zero(path: Path, start: int, end: int) -> None:
    """Overwrite a part of a file with zeros, its size kept."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))


@contextmanager
def replaced_descriptor(suffix: str, replacement: str) -> Iterator[None]:
    """Let this process's descriptor of a file whose name ends in `suffix` lead elsewhere."""
    descriptors = {
        os.readlink(f"/proc/self/fd/{fd}"): int(fd)
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    }
    (target,) = [fd for path, fd in descriptors.items() if path.endswith(suffix)]
    saved, other = os.dup(target), os.open(replacement, os.O_RDWR)
    os.dup2(other, target, inheritable=False)
    os.close(other)
    try:
        yield
    finally:
        os.dup2(saved, target, inheritable=False)
        os.close(saved)
