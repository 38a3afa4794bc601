"""The write-ahead log: segment files, group commit, release of what is no longer needed.

`append` is the only thing a client waits for, so it does as little as can be: one frame, one write,
one fdatasync for everything that is handed to it. Segments are preallocated, so that a sync has no
file size to record, and zeros are written a stretch ahead, so that it has no block allocation to
record either: that costs each byte being written twice and takes a third off the sync (see
`ZERO_AHEAD_BYTES`). The format is in `wal_frame` and `wal_record`, the reading in `wal_replay`.

A failed write or sync ends the use of the log for good. One `Wal` at a time may have a directory
open (flock); its methods are not thread-safe, `wal_writer` owns it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

from kvstore.storage.durable import (
    make_directory,
    preallocate,
    replace_durably,
    sync_data,
    sync_directory,
)
from kvstore.storage.errors import (
    WalExists,
    WalFailed,
    WalLocked,
    WalNotInitialised,
)
from kvstore.storage.wal_frame import (
    BATCH,
    SEAL,
    SEAL_BYTES,
    SECTOR_BYTES,
    SEGMENT,
    build_frame,
    frame_bytes,
    largest_frame,
)
from kvstore.storage.wal_record import Batch, SegmentHeader, encode_batches, encode_segment
from kvstore.storage.wal_replay import (
    HEADER_SALT,
    LogState,
    Recovered,
    Replay,
    Segment,
    replay,
    segment_name,
)
from raft import HardState, SnapshotMeta

__all__ = ["Appended", "Batch", "Recovered", "Wal"]

SEGMENT_BYTES = 64 << 20
"""Size of a segment file. A group of batches that needs more gets a segment of its own size."""

ZERO_AHEAD_BYTES = 256 << 10
"""How far zeros are written ahead of the frames. On ext4, frames of 4 KB: mean append 139 µs
without, 90 µs with; larger stretches gain no more."""

MAX_PAYLOAD_BYTES = 1 << 30
"""Most bytes of encoded batches in one `append`."""

_TEMPORARY = ".tmp"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\.wal")
_ZEROS = bytes(ZERO_AHEAD_BYTES)
_NEW = HardState()
_EMPTY = SnapshotMeta()


class Appended(NamedTuple):
    """What one `append` did: bytes of the frame, seconds of its write and of its fdatasync."""

    size: int
    write_seconds: float
    sync_seconds: float


@dataclass(slots=True)
class _Tail:
    """The segment that is written to."""

    fd: int
    path: str
    size: int
    salt: int
    offset: int
    number: int
    previous: int
    zeroed: int


class Wal:
    """A log open for appending. Made by `create` or `open`, never directly."""

    def __init__(
        self, directory: str, lock: int, metadata: bytes, segment_bytes: int, state: LogState
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._metadata = metadata
        self._segment_bytes = segment_bytes
        self._state = state
        self._segments: list[tuple[str, int]] = []
        """(path, last index before it) of each segment, oldest first."""
        self._sequence = -1
        self._tail: _Tail | None = None
        self._failed = False

    @staticmethod
    def exists(directory: str | os.PathLike[str]) -> bool:
        """Whether the directory holds a log. What a power cut left of a first start does not count:
        a segment gets its name only when it is complete and durable."""
        return bool(_segment_names(os.fspath(directory)))

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        metadata: bytes,
        *,
        hard_state: HardState = _NEW,
        snapshot: SnapshotMeta = _EMPTY,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Wal:
        """Create a log (and its directory); durable on return. `metadata` comes back at each open.

        The log begins behind `snapshot`, as if that had been installed, and with `hard_state`,
        whose commit index it must hold (`ValueError` else).
        Raises `WalExists`, `WalLocked`, `WalFailed`.
        """
        if hard_state.commit > snapshot.index:
            raise ValueError(
                f"commit index {hard_state.commit}, but no entry after {snapshot.index}"
            )
        path = os.fspath(directory)
        try:
            make_directory(path)
        except OSError as error:
            raise WalFailed("mkdir", path, error.strerror) from error
        start = LogState(hard_state, snapshot.conf_state, snapshot.index, snapshot.term)
        wal = cls(path, _lock_directory(path), metadata, segment_bytes, start)
        try:
            if _segment_names(path):
                raise WalExists(path)
            wal._remove_temporary()
            wal._tail = wal._new_segment(previous=0, room=0)
        except BaseException:
            wal.close()
            raise
        return wal

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str], *, segment_bytes: int = SEGMENT_BYTES
    ) -> tuple[Wal, Recovered]:
        """Read a log back and open it for appending right behind its last valid frame.

        A torn write at the very end is cut and noted. The last frame is written and synced once
        more: before a SIGKILL it may have been written without being synced, or its sync may have
        failed, and from here on it counts.

        Raises `WalNotInitialised`, `WalLocked`, `WalCorrupt` (refuse to start), `WalFailed`.
        """
        path = os.fspath(directory)
        if not os.path.isdir(path):
            raise WalNotInitialised(path)
        wal = cls(path, _lock_directory(path), b"", segment_bytes, LogState())
        try:
            names = _segment_names(path)
            if not names:
                raise WalNotInitialised(path)
            log = replay(wal._read(names))
            recovered = log.recovered()
            wal._metadata, wal._state = recovered.metadata, log.state
            wal._remove_temporary()
            wal._resume(log)
        except BaseException:
            wal.close()
            raise
        return wal, recovered

    def append(self, batches: Sequence[Batch]) -> Appended:
        """Make batches durable, together: one frame, one write, one fdatasync.

        Raises `WalFailed`, after which nothing may be acknowledged and every call raises it again;
        `ValueError`, with nothing written, for batches that cannot follow on the log and for more
        than `MAX_PAYLOAD_BYTES`.
        """
        tail = self._writable()
        state = replace(self._state)
        for batch in batches:
            state.check(batch)
            state.follow(batch)
        parts = encode_batches(batches)
        length = sum(map(len, parts))
        if length > MAX_PAYLOAD_BYTES:
            raise ValueError(f"batches of {length} bytes, more than {MAX_PAYLOAD_BYTES}")
        if tail.offset + largest_frame(length) + SEAL_BYTES > tail.size:
            tail = self._rotate(tail, largest_frame(length))
        appended = self._write_frame(tail, BATCH, b"".join(parts))
        self._state = state
        return appended

    def release(self, index: int) -> int:
        """Remove the segments that hold only entries up to `index`; returns how many.

        The last one always stays. Entries up to `index` must be committed, and applied durably.
        Oldest first and each removal durable before the next, so that a power cut leaves no hole.
        Raises `WalFailed`; `ValueError` for an index beyond the log's end.
        """
        self._writable()
        if index > self._state.last_index:
            raise ValueError(f"release of {index}, but the log ends at {self._state.last_index}")
        removed = 0
        while len(self._segments) > 1 and self._segments[1][1] <= index:
            path, _ = self._segments[0]
            try:
                os.unlink(path)
                sync_directory(self._directory)
            except OSError as error:
                raise self._fail("remove", path, error) from error
            del self._segments[0]
            removed += 1
        return removed

    def close(self) -> None:
        """Let go of the files and the directory. Everything appended is durable already."""
        if self._tail is not None:
            os.close(self._tail.fd)
            self._tail = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _writable(self) -> _Tail:
        if self._failed:
            raise WalFailed("write", self._directory, "an earlier write or sync failed")
        if self._tail is None:
            raise WalFailed("write", self._directory, "the log is closed")
        return self._tail

    def _fail(self, operation: str, path: str, error: OSError | str) -> WalFailed:
        self._failed = True
        cause = error if isinstance(error, str) else error.strerror
        return WalFailed(operation, path, cause)

    def _write_frame(self, tail: _Tail, kind: int, payload: bytes) -> Appended:
        """Write one frame at the tail, durably."""
        parts, crc = build_frame(kind, payload, tail.number, tail.previous, tail.salt)
        size = frame_bytes(len(parts[1]))
        end = tail.offset + size
        zeros = _ZEROS[: max(0, tail.size - end)] if end > tail.zeroed else b""
        started = perf_counter()
        try:
            written = os.pwritev(tail.fd, [*parts, zeros], tail.offset)
        except OSError as error:
            raise self._fail("write", tail.path, error) from error
        if written != size + len(zeros):
            raise self._fail("write", tail.path, f"{written} bytes of {size + len(zeros)} written")
        between = perf_counter()
        self._sync(tail)
        done = perf_counter()
        if zeros:
            tail.zeroed = end + len(zeros)
        tail.offset, tail.number, tail.previous = end, tail.number + 1, crc
        return Appended(size, between - started, done - between)

    def _sync(self, tail: _Tail) -> None:
        try:
            sync_data(tail.fd)
        except OSError as error:
            raise self._fail("fdatasync", tail.path, error) from error

    def _rotate(self, full: _Tail, room: int) -> _Tail:
        """Begin a new segment and seal the full one.

        In this order, because a seal promises a successor; the successor's header is chained to
        the frame before the seal, so a cut between the two loses nothing (`open` seals then).
        """
        fresh = self._new_segment(full.previous, room)
        self._tail = fresh
        try:
            self._write_frame(full, SEAL, b"")
        finally:
            os.close(full.fd)
        return fresh

    def _new_segment(self, previous: int, room: int) -> _Tail:
        """Make the next segment under a temporary name; it gets its own when it is durable."""
        state = self._state
        salt = int.from_bytes(os.urandom(4), "little")
        sequence = self._sequence + 1
        path = f"{self._directory}/{segment_name(sequence, state.last_index + 1)}"

        def header_of(size: int) -> bytes:
            return encode_segment(
                SegmentHeader(
                    sequence,
                    size,
                    salt,
                    state.last_index,
                    state.last_term,
                    state.hard_state,
                    state.conf_state,
                    self._metadata,
                )
            )

        header_bytes = largest_frame(len(header_of(0)))
        size = max(self._segment_bytes, header_bytes + room + SEAL_BYTES)
        size += -size % SECTOR_BYTES
        parts, crc = build_frame(SEGMENT, header_of(size), 1, previous, HEADER_SALT)
        fd = -1
        try:
            fd = os.open(path + _TEMPORARY, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            preallocate(fd, size)
            frame = b"".join(parts)
            if os.pwrite(fd, frame, 0) != len(frame):
                raise OSError(0, "short write")
            os.fsync(fd)
            replace_durably(path + _TEMPORARY, path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise self._fail("create", path, error) from error
        self._sequence = sequence
        self._segments.append((path, state.last_index))
        return _Tail(fd, path, size, salt, len(frame), 2, crc, len(frame))

    def _read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            path = f"{self._directory}/{name}"
            try:
                with open(path, "rb", buffering=0) as file:
                    yield path, file.read()
            except OSError as error:
                raise self._fail("read", path, error) from error

    def _resume(self, log: Replay) -> None:
        """Make what was replayed durable and clean, and the last segment the tail."""
        for segment in log.segments:
            self._segments.append((segment.path, segment.header.last_index))
        last = log.segments[-1]
        self._sequence = last.header.sequence
        if last.empty and len(log.segments) > 1:
            before = self._clean(log.segments[-2])
            try:
                self._write_frame(before, SEAL, b"")
            finally:
                os.close(before.fd)
        self._tail = self._clean(last)
        rewritten = log.last_data[last.last_frame : last.end]
        try:
            if os.pwrite(self._tail.fd, rewritten, last.last_frame) != len(rewritten):
                raise OSError(0, "short write")
        except OSError as error:
            raise self._fail("write", last.path, error) from error
        self._sync(self._tail)

    def _clean(self, segment: Segment) -> _Tail:
        """Open a segment to go on behind its last frame, with zeros over what was torn there."""
        try:
            fd = os.open(segment.path, os.O_RDWR)
        except OSError as error:
            raise self._fail("open", segment.path, error) from error
        tail = _Tail(
            fd,
            segment.path,
            segment.header.segment_bytes,
            segment.header.salt,
            segment.end,
            segment.number,
            segment.crc,
            segment.end,
        )
        try:
            for at in range(segment.end, segment.used, len(_ZEROS)):
                zeros = _ZEROS[: segment.used - at]
                if os.pwrite(fd, zeros, at) != len(zeros):
                    raise OSError(0, "short write")
            if segment.used > segment.end:
                sync_data(fd)
        except OSError as error:
            os.close(fd)
            raise self._fail("cut", segment.path, error) from error
        return tail

    def _remove_temporary(self) -> None:
        """Remove what a rotation or a first start that was cut short left behind."""
        for name in os.listdir(self._directory):
            if name.endswith(_TEMPORARY) and _NAME.fullmatch(name.removesuffix(_TEMPORARY)):
                path = f"{self._directory}/{name}"
                try:
                    os.unlink(path)
                except OSError as error:
                    raise self._fail("remove", path, error) from error


def _segment_names(directory: str) -> list[str]:
    """Names of the segments in a directory, in the log's order; none when there is no directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WalFailed("list", directory, error.strerror) from error
    return sorted(filter(_NAME.fullmatch, names))


def _lock_directory(directory: str) -> int:
    """Take the directory for this `Wal` alone; the kernel lets go when the process ends."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise WalFailed("open", directory, error.strerror) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise WalLocked(directory) from error
    return fd
