"""Frames: how the log's bytes lie on the disk, and how a torn write is told from damage.

Pure functions over bytes; no file is touched here. A frame starts at a multiple of 8:

    0   u16 magic | u8 kind | u8 form | u32 payload length, as stored
    8   u32 payload crc-32 | u32 frame number in its segment, from 1
    16  u32 crc of the frame before | u32 header crc-32 over the 20 bytes before it, seeded with the
        segment's salt, 0 replaced by 2^32-1; this is "the frame's crc", and it covers the chain
    24  payload
    ..  1 to 8 footer bytes 0xA5 up to the next multiple of 8

None of the three header units is ever all zero, nor is the footer, and a payload with a run of 256
zero bytes is stored guarded (a 0xA5 behind each 511 bytes). Hence each 512-byte sector that a
frame touches has a non-zero byte of that frame, and no flipped bit makes it all zero. Segments are
preallocated zeros and only one frame is ever in flight, so a sector that a power cut kept from the
disk is all zeros: that, in the last frame of the log, is a torn write. Everything else that does
not check is damage.

The salt keeps a client from storing a value that looks like a valid frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

SECTOR_BYTES = 512
"""The unit a disk writes whole or not at all."""

HEADER_BYTES = 24
ALIGNMENT = 8
SEAL_BYTES = HEADER_BYTES + ALIGNMENT
"""Size of a frame without payload."""

SEGMENT, BATCH, SEAL = 1, 2, 3
"""Kinds: a segment's first frame, a group of batches, the end of a segment with a successor."""

_PLAIN, _GUARDED = 0, 1
_MAGIC = 0x57A5
_MAGIC_BYTES = struct.pack("<H", _MAGIC)
_HEAD = struct.Struct("<HBBIIII")
_CRC = struct.Struct("<I")
_GUARD = b"\xa5"
_PIECE = SECTOR_BYTES - 1
_ZERO_RUN = bytes(SECTOR_BYTES // 2)  # a sector with one byte that is not zero has such a run
_FOOTER = b"\xa5" * ALIGNMENT
_ZERO_BLOCK = bytes(1 << 20)


def frame_bytes(stored_length: int) -> int:
    """Size of a whole frame whose payload takes `stored_length` bytes on the disk."""
    return HEADER_BYTES + (stored_length // ALIGNMENT + 1) * ALIGNMENT


def largest_frame(payload_length: int) -> int:
    """Upper bound of the frame's size for a payload, guarded or not."""
    return frame_bytes(payload_length + payload_length // _PIECE)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that checked: its payload (guards removed), its crc and where the next one starts."""

    kind: int
    payload: bytes
    crc: int
    end: int


@dataclass(frozen=True, slots=True)
class Broken:
    """What stands where a frame should be. `torn` says that a cut write explains all of it."""

    reason: str
    torn: bool


def build_frame(
    kind: int, payload: bytes, number: int, previous: int, salt: int
) -> tuple[tuple[bytes, bytes, bytes], int]:
    """The frame as (header, payload, footer), to be written in one call, and its crc."""
    form = _PLAIN
    if _ZERO_RUN in payload:
        form = _GUARDED
        payload = _GUARD.join([payload[at : at + _PIECE] for at in range(0, len(payload), _PIECE)])
    length = len(payload)
    head = _HEAD.pack(_MAGIC, kind, form, length, crc32(payload), number, previous)
    crc = crc32(head, salt) or 0xFFFFFFFF
    return (head + _CRC.pack(crc), payload, _FOOTER[length % ALIGNMENT :]), crc


def read_frame(
    data: bytes, offset: int, number: int, previous: int, salt: int
) -> Frame | Broken | None:
    """Read the frame at `offset` of a whole segment; None at a clean end (zeros to the end).

    `number`, `previous` and `salt` are what the frame must carry to be the next one.
    """
    if is_zero(data, offset, min(offset + ALIGNMENT, len(data))) and is_zero(
        data, offset, len(data)
    ):
        return None
    head = _read_head(data, offset, salt)
    if head is None:
        torn = _header_is_torn(data, offset) and not _finds_frame(data, offset + ALIGNMENT, salt)
        return Broken("the frame's header is damaged", torn)
    kind, form, length, payload_crc, found_number, found_previous, crc = head
    if found_number != number or found_previous != previous:
        reason = f"frame {found_number} does not follow on frame {number - 1}"
        return Broken(reason, torn=False)
    end = offset + frame_bytes(length)
    if end > len(data):
        return Broken(f"the frame claims to end at {end}, behind its segment", torn=False)
    payload = data[offset + HEADER_BYTES : offset + HEADER_BYTES + length]
    footer = data[offset + HEADER_BYTES + length : end]
    if crc32(payload) != payload_crc or footer != _FOOTER[length % ALIGNMENT :]:
        torn = _extent_is_torn(data, offset, end) and is_zero(data, end, len(data))
        return Broken("the frame's content does not match its checksum", torn)
    return Frame(kind, _unguard(payload) if form == _GUARDED else payload, crc, end)


def last_used(data: bytes, offset: int) -> int:
    """End of the last sector at or behind `offset` that is not all zero, or `offset`."""
    end = len(data)
    while end > offset:
        start = max(offset, end - len(_ZERO_BLOCK))
        if not is_zero(data, start, end):
            break
        end = start
    while end > offset and is_zero(data, max(offset, end - SECTOR_BYTES), end):
        end = max(offset, end - SECTOR_BYTES)
    return end


def is_zero(data: bytes, start: int, end: int) -> bool:
    """Whether data[start:end] holds only zero bytes (memcmp speed, no copy)."""
    return all(
        data.startswith(_ZERO_BLOCK[: end - at], at) for at in range(start, end, len(_ZERO_BLOCK))
    )


def _read_head(data: bytes, offset: int, salt: int) -> tuple[int, ...] | None:
    """The header's fields behind the magic and its crc, or None when it does not check."""
    if offset + HEADER_BYTES > len(data):
        return None
    magic, *fields = _HEAD.unpack_from(data, offset)
    (crc,) = _CRC.unpack_from(data, offset + _HEAD.size)
    if magic != _MAGIC or crc != (crc32(data[offset : offset + _HEAD.size], salt) or 0xFFFFFFFF):
        return None
    return (*fields, crc)


def _unguard(payload: bytes) -> bytes:
    return b"".join([payload[at : at + _PIECE] for at in range(0, len(payload), SECTOR_BYTES)])


def _extent_is_torn(data: bytes, offset: int, end: int) -> bool:
    """Whether some sector, as far as it belongs to the frame, never reached the disk."""
    while offset < end:
        stop = min(offset - offset % SECTOR_BYTES + SECTOR_BYTES, end)
        if is_zero(data, offset, stop):
            return True
        offset = stop
    return False


def _header_is_torn(data: bytes, offset: int) -> bool:
    """Whether a sector with a part of the header is all zero from the frame's start on.

    Where the frame ends is not known here, but behind a frame in flight there are only zeros.
    """
    first_end = offset - offset % SECTOR_BYTES + SECTOR_BYTES
    if is_zero(data, offset, min(first_end, len(data))):
        return True
    second_end = min(first_end + SECTOR_BYTES, len(data))
    return first_end < min(offset + HEADER_BYTES, len(data)) and is_zero(
        data, first_end, second_end
    )


def _finds_frame(data: bytes, offset: int, salt: int) -> bool:
    """Whether any frame of this segment starts at or behind `offset`, going by its header's crc."""
    end = last_used(data, offset)
    at = data.find(_MAGIC_BYTES, offset, end)
    while at >= 0:
        if at % ALIGNMENT == 0 and _read_head(data, at, salt) is not None:
            return True
        at = data.find(_MAGIC_BYTES, at + 1, end)
    return False
