"""What the log's frames hold: the payloads of a segment's first frame and of a group of batches.

Pure encoding and decoding; frames and files are elsewhere. Integers are little-endian. A group is
the concatenation of its batches; which parts a batch has is said by its first byte.

    batch    u8 parts (1 hard state, 2 snapshot, 4 entries), then those parts in this order:
             hard state: u64 term, u64 vote, u64 commit
             snapshot: u64 index, u64 term, configuration
             entries: one block of `codec`
    configuration
             u32 x 4 member counts (voters, outgoing, learners, next learners), u8 auto leave,
             u64 for each member
    segment  u32 version, u32 salt, u64 sequence, u64 segment size, u64 last index, u64 last term,
             hard state, u32 metadata length, metadata, configuration
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.storage.codec import decode_entries, encode_entries
from kvstore.storage.errors import CodecError
from raft import ConfState, Entry, HardState, SnapshotMeta

VERSION = 1
"""Of the whole format; a log of another version is refused."""

_HARD_STATE, _SNAPSHOT, _ENTRIES = 1, 2, 4
_THREE = struct.Struct("<QQQ")
_TWO = struct.Struct("<QQ")
_COUNTS = struct.Struct("<IIIIB")
_SEGMENT = struct.Struct("<IIQQQQ")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `Ready` asks to be persisted.

    `entries` go to `first_index`, replacing what the log holds there and behind. `snapshot` is one
    that was installed: the log before it is dropped as a whole, then `entries` are appended.
    `block` is `encode_entries(first_index, entries)` when the caller has it already.
    """

    hard_state: HardState | None = None
    first_index: int = 0
    entries: Sequence[Entry] = ()
    block: bytes | None = None
    snapshot: SnapshotMeta | None = None


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment's first frame carries, so that all older segments can be removed.

    `last_index`, `last_term`: the log's last entry when the segment was begun; `hard_state` and
    `conf_state` (of the last snapshot) as of then.
    """

    sequence: int
    segment_bytes: int
    salt: int
    last_index: int
    last_term: int
    hard_state: HardState
    conf_state: ConfState
    metadata: bytes


def encode_batches(batches: Sequence[Batch]) -> list[bytes]:
    """The payload of a group as pieces to be joined; batches come back in the same order."""
    parts: list[bytes] = []
    for batch in batches:
        flags = 0
        at = len(parts)
        parts.append(b"")
        if batch.hard_state is not None:
            flags |= _HARD_STATE
            parts.append(_THREE.pack(*batch.hard_state))
        if batch.snapshot is not None:
            flags |= _SNAPSHOT
            index, term, conf_state = batch.snapshot
            parts += (_TWO.pack(index, term), _encode_conf_state(conf_state))
        if batch.entries:
            flags |= _ENTRIES
            parts.append(batch.block or encode_entries(batch.first_index, batch.entries))
        parts[at] = flags.to_bytes(1, "little")
    return parts


def decode_batches(data: bytes) -> list[Batch]:
    """The reverse of `encode_batches`; raises `CodecError`."""
    batches: list[Batch] = []
    offset = 0
    while offset < len(data):
        flags = data[offset]
        offset += 1
        if flags & ~(_HARD_STATE | _SNAPSHOT | _ENTRIES):
            raise CodecError(f"batch has unknown parts: {flags:#x}")
        hard_state = snapshot = None
        first_index, entries = 0, list[Entry]()
        try:
            if flags & _HARD_STATE:
                hard_state = HardState(*_THREE.unpack_from(data, offset))
                offset += _THREE.size
            if flags & _SNAPSHOT:
                index, term = _TWO.unpack_from(data, offset)
                conf_state, offset = _decode_conf_state(data, offset + _TWO.size)
                snapshot = SnapshotMeta(index, term, conf_state)
        except struct.error as error:
            raise CodecError(f"batch is cut at {offset}") from error
        if flags & _ENTRIES:
            first_index, entries, offset = decode_entries(data, offset)
        batches.append(Batch(hard_state, first_index, entries, None, snapshot))
    return batches


def encode_segment(header: SegmentHeader) -> bytes:
    """The payload of a segment's first frame."""
    return b"".join(
        (
            _SEGMENT.pack(
                VERSION,
                header.salt,
                header.sequence,
                header.segment_bytes,
                header.last_index,
                header.last_term,
            ),
            _THREE.pack(*header.hard_state),
            _LENGTH.pack(len(header.metadata)),
            header.metadata,
            _encode_conf_state(header.conf_state),
        )
    )


def decode_segment(data: bytes) -> SegmentHeader:
    """The reverse of `encode_segment`; raises `CodecError`, for another version too."""
    try:
        version, salt, sequence, size, last_index, last_term = _SEGMENT.unpack_from(data)
        if version != VERSION:
            raise CodecError(f"log format version {version}, this program reads {VERSION}")
        hard_state = HardState(*_THREE.unpack_from(data, _SEGMENT.size))
        offset = _SEGMENT.size + _THREE.size
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        metadata = data[offset : offset + length]
        conf_state, _ = _decode_conf_state(data, offset + length)
    except struct.error as error:
        raise CodecError("segment header is cut") from error
    return SegmentHeader(
        sequence, size, salt, last_index, last_term, hard_state, conf_state, metadata
    )


def _encode_conf_state(conf_state: ConfState) -> bytes:
    *lists, auto_leave = conf_state
    members = [member for group in lists for member in group]
    return _COUNTS.pack(*map(len, lists), auto_leave) + struct.pack(f"<{len(members)}Q", *members)


def _decode_conf_state(data: bytes, offset: int) -> tuple[ConfState, int]:
    """The configuration at `offset` and the offset behind it; `struct.error` when it is cut."""
    *counts, auto_leave = _COUNTS.unpack_from(data, offset)
    offset += _COUNTS.size
    groups: list[tuple[int, ...]] = []
    for count in counts:
        groups.append(struct.unpack_from(f"<{count}Q", data, offset))
        offset += 8 * count
    return ConfState(groups[0], groups[1], groups[2], groups[3], bool(auto_leave)), offset
