"""Reading a log back: segments' bytes in, the state they record out, or `WalCorrupt`.

Pure: the caller reads the files and, afterwards, cuts what is called torn here. The rule of what
may be torn is strict: the last frame of the last segment, or the seal of the last but one while the
last holds nothing yet (a rotation that was cut). All else that does not check is damage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kvstore.storage.errors import CodecError, WalCorrupt
from kvstore.storage.wal_frame import (
    BATCH,
    SEAL,
    SEGMENT,
    Broken,
    Frame,
    last_used,
    read_frame,
)
from kvstore.storage.wal_record import Batch, SegmentHeader, decode_batches, decode_segment
from raft import ConfState, Entry, HardState, SnapshotMeta

HEADER_SALT = 0
"""Salt of a segment's first frame, which itself carries the salt of all others."""

SUFFIX = ".wal"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a log held when it was opened.

    `entries` start at `snapshot.index + 1`. `snapshot` is the point the log starts from: the last
    installed snapshot or, when segments were released since, the end of the last released one;
    its `conf_state` is that of the last installed snapshot and may be older than its index (the
    backend knows the configuration as of what is applied). `notes` are for the server's log: what
    was cut, and why.
    """

    metadata: bytes
    hard_state: HardState
    snapshot: SnapshotMeta
    entries: list[Entry]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class LogState:
    """The log as of some frame. Replaying and appending both keep it, by the same rules."""

    hard_state: HardState = field(default_factory=HardState)
    conf_state: ConfState = field(default_factory=ConfState)
    last_index: int = 0
    last_term: int = 0

    def check(self, batch: Batch) -> None:
        """Raise `ValueError` when a batch cannot follow: a gap, a snapshot behind the commit index
        (which would drop committed entries), or a commit index beyond the log's end."""
        last = self.last_index
        if batch.snapshot is not None:
            last = batch.snapshot.index
            if last <= self.hard_state.commit:
                raise ValueError(
                    f"snapshot at {last} is not ahead of commit index {self.hard_state.commit}"
                )
        if batch.entries and not 0 < batch.first_index <= last + 1:
            raise ValueError(
                f"entries from {batch.first_index} do not follow on a log up to {last}"
            )
        if batch.entries:
            last = batch.first_index + len(batch.entries) - 1
        commit = (batch.hard_state or self.hard_state).commit
        if commit > last:
            raise ValueError(f"commit index {commit} is beyond the end of the log at {last}")

    def follow(self, batch: Batch) -> None:
        """Take over what a checked batch changes."""
        if batch.snapshot is not None:
            self.last_index, self.last_term, self.conf_state = batch.snapshot
        if batch.entries:
            self.last_index = batch.first_index + len(batch.entries) - 1
            self.last_term = batch.entries[-1][0]
        if batch.hard_state is not None:
            self.hard_state = batch.hard_state


@dataclass(slots=True)
class Segment:
    """A segment as it was read: where its frames end and how that end looks."""

    path: str
    header: SegmentHeader
    chained_to: int
    end: int
    number: int
    crc: int
    last_frame: int
    sealed: bool = False
    broken: Broken | None = None
    used: int = 0
    """End of what is not zero, where the end is torn."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing behind the segment's first frame."""
        return self.last_frame == 0

    def corrupt(self) -> WalCorrupt:
        """The error for an end that is broken and must not be."""
        return WalCorrupt(self.path, self.end, self.broken.reason if self.broken else "")


@dataclass(slots=True)
class Replay:
    """The whole log as read: its segments and what they add up to."""

    segments: list[Segment] = field(default_factory=list)
    state: LogState = field(default_factory=LogState)
    base_index: int = 0
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)
    last_data: bytes = b""

    def add(self, batch: Batch) -> None:
        """Take in the next batch. Raises `ValueError` when it cannot follow."""
        self.state.check(batch)
        self.state.follow(batch)
        if batch.snapshot is not None:
            self.base_index, self.base_term = batch.snapshot.index, batch.snapshot.term
            self.entries = []
        if batch.entries:
            _append(self, batch)

    def recovered(self) -> Recovered:
        """The result as the server sees it; `segments` must not be empty."""
        notes = [
            f"cut a torn write of {segment.used - segment.end} bytes at the end of the log: "
            f"{segment.path} at offset {segment.end}: {segment.broken.reason}"
            for segment in self.segments
            if segment.broken is not None
        ]
        return Recovered(
            self.segments[0].header.metadata,
            self.state.hard_state,
            SnapshotMeta(self.base_index, self.base_term, self.state.conf_state),
            self.entries,
            tuple(notes),
        )


def segment_name(sequence: int, first_index: int) -> str:
    """File name of a segment: its number in the log and the index its first entry should have."""
    return f"{sequence:016x}-{first_index:016x}{SUFFIX}"


def replay(files: Iterable[tuple[str, bytes]]) -> Replay:
    """Read segments, given as (path, content) in the order of their names."""
    log = Replay()
    for path, data in files:
        segment, frames = _scan(path, data)
        _join(log, segment)
        for offset, frame in frames:
            _apply(log, path, offset, frame)
        log.segments.append(segment)
        log.last_data = data
    _check_end(log)
    return log


def _scan(path: str, data: bytes) -> tuple[Segment, list[tuple[int, Frame]]]:
    """Check a segment's frames, one after the other, up to its end, its seal or a broken one."""
    chained_to = int.from_bytes(data[16:20], "little")
    first = read_frame(data, 0, 1, chained_to, HEADER_SALT)
    if not isinstance(first, Frame) or first.kind != SEGMENT:
        raise WalCorrupt(path, 0, "the segment has no valid header")
    try:
        header = decode_segment(first.payload)
    except CodecError as error:
        raise WalCorrupt(path, 0, str(error)) from error
    if len(data) != header.segment_bytes:
        at = min(len(data), header.segment_bytes)
        raise WalCorrupt(path, at, f"file size {len(data)}, not {header.segment_bytes}")
    segment = Segment(path, header, chained_to, first.end, 2, first.crc, 0)
    frames: list[tuple[int, Frame]] = []
    while not segment.sealed:
        frame = read_frame(data, segment.end, segment.number, segment.crc, header.salt)
        if frame is None:
            break
        if isinstance(frame, Broken):
            segment.broken, segment.used = frame, last_used(data, segment.end)
            if not frame.torn:
                raise segment.corrupt()
            break
        if frame.kind == SEAL:
            segment.sealed = True
            break
        if frame.kind != BATCH:
            raise WalCorrupt(path, segment.end, f"frame of unknown kind {frame.kind}")
        frames.append((segment.end, frame))
        segment.last_frame, segment.end = segment.end, frame.end
        segment.number, segment.crc = segment.number + 1, frame.crc
    return segment, frames


def _join(log: Replay, segment: Segment) -> None:
    """Check that a segment continues the log, or start the log with it."""
    header, path = segment.header, segment.path
    name = segment_name(header.sequence, header.last_index + 1)
    directory = path.rpartition("/")[0]
    if path.rpartition("/")[2] != name:
        raise WalCorrupt(path, 0, f"the file is segment {name}, going by its header")
    if not log.segments:
        log.base_index, log.base_term = header.last_index, header.last_term
        log.state = _state(header)
        return
    before = log.segments[-1]
    if header.sequence != before.header.sequence + 1:
        missing = segment_name(before.header.sequence + 1, log.state.last_index + 1)
        raise WalCorrupt(f"{directory}/{missing}", 0, "the segment is missing")
    if segment.chained_to != before.crc:
        raise WalCorrupt(before.path, before.end, "the end of the segment is missing")
    if _state(header) != log.state or header.metadata != before.header.metadata:
        raise WalCorrupt(path, 0, "the segment's header contradicts the segments before it")


def _state(header: SegmentHeader) -> LogState:
    return LogState(header.hard_state, header.conf_state, header.last_index, header.last_term)


def _apply(log: Replay, path: str, offset: int, frame: Frame) -> None:
    """Replay one group of batches."""
    try:
        for batch in decode_batches(frame.payload):
            log.add(batch)
    except (CodecError, ValueError) as error:
        raise WalCorrupt(path, offset, str(error)) from error


def _append(log: Replay, batch: Batch) -> None:
    """Replace what the log holds from the batch's first index on.

    A batch may start below the base: entries that an older leader had put there were overwritten
    before the segments that held them could be released.
    """
    at = batch.first_index - log.base_index - 1
    if at >= 0:
        log.entries[at:] = batch.entries
        return
    log.entries = list(batch.entries[-at:])
    if len(batch.entries) >= -at:
        log.base_term = batch.entries[-at - 1][0]


def _check_end(log: Replay) -> None:
    """Check what is only known when all segments are read."""
    *older, last = log.segments
    for segment in older:
        if segment.broken is not None and not (segment is older[-1] and last.empty):
            raise segment.corrupt()
    if older and older[-1].broken is not None and last.broken is not None:
        raise older[-1].corrupt()
    if last.sealed:
        missing = segment_name(last.header.sequence + 1, log.state.last_index + 1)
        path = f"{last.path.rpartition('/')[0]}/{missing}"
        raise WalCorrupt(path, 0, f"the segment is missing: {last.path} is not the last one")
    end = log.state.last_index
    if end < log.base_index:
        reason = f"the log ends at index {end}, before its start at {log.base_index}"
        raise WalCorrupt(last.path, last.end, reason)
