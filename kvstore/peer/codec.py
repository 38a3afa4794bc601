"""Frames between members: bytes only, no sockets.

A frame is ``length u32 | type u8 | body`` (big-endian; length counts type and body). Raft messages
have a fixed head; the entries of an APPEND or PROPOSE follow as one block (``storage.codec``), the
very bytes that also go to the log, so a leader encodes a batch once for its log and all followers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum

from kvstore.storage.codec import decode_entries, encode_entries
from kvstore.storage.errors import CodecError
from raft import ConfState, Entry, Message, MessageKind, SnapshotMeta

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Largest frame accepted; a batch holds at most max_message_bytes or one entry above it."""

FRAME_HEAD = struct.Struct(">IB")
_MESSAGE = struct.Struct(">BBQQQQQQQQ")
_CALL = struct.Struct(">QB")
_REPLY = struct.Struct(">QB")

_REJECT, _SNAPSHOT, _ENTRIES = 1, 2, 4

PING = 0
"""The call that the transport itself answers, with nothing: it measures the round trip."""

EncodeBlock = Callable[[int, Sequence[Entry]], bytes]


class FrameType(IntEnum):
    MESSAGE = 1
    CALL = 2
    REPLY = 3


def encode_message(message: Message, encode_block: EncodeBlock = encode_entries) -> bytes:
    """Return the whole frame of a raft message.

    Args:
        encode_block: encodes entries; a caller that sends one batch to several members passes one
            that remembers.
    """
    flags, tail = (_REJECT if message.reject else 0), b""
    if message.entries:
        flags |= _ENTRIES
        tail = encode_block(message.index + 1, message.entries)
    elif message.snapshot is not None:
        flags |= _SNAPSHOT
        tail = encode_snapshot_meta(message.snapshot)
    head = _MESSAGE.pack(
        message.kind,
        flags,
        message.to,
        message.from_,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.reject_hint,
        message.context,
    )
    return FRAME_HEAD.pack(1 + len(head) + len(tail), FrameType.MESSAGE) + head + tail


def decode_message(body: memoryview) -> Message:
    """Parse the body of a MESSAGE frame. Raises CodecError on anything malformed."""
    if len(body) < _MESSAGE.size:
        raise CodecError(f"raft message of {len(body)} bytes is too short")
    kind, flags, to, from_, term, log_term, index, commit, hint, context = _MESSAGE.unpack_from(
        body
    )
    try:
        message = Message(
            MessageKind(kind),
            to,
            from_,
            term,
            log_term,
            index,
            (),
            commit,
            bool(flags & _REJECT),
            hint,
            context,
        )
    except ValueError as error:
        raise CodecError(str(error)) from None
    if flags & _ENTRIES:
        first_index, message.entries, _ = decode_entries(body, _MESSAGE.size)
        if first_index != index + 1:
            raise CodecError(f"entries start at {first_index}, the message at {index + 1}")
    elif flags & _SNAPSHOT:
        message.snapshot = decode_snapshot_meta(bytes(body[_MESSAGE.size :]))
    return message


def encode_snapshot_meta(meta: SnapshotMeta) -> bytes:
    """Encode rarely and readably: JSON."""
    return json.dumps([meta.index, meta.term, *meta.conf_state]).encode()


def decode_snapshot_meta(data: bytes) -> SnapshotMeta:
    """Reverse of encode_snapshot_meta. Raises CodecError."""
    try:
        index, term, voters, outgoing, learners, learners_next, auto_leave = json.loads(data)
        conf_state = ConfState(
            tuple(voters), tuple(outgoing), tuple(learners), tuple(learners_next), auto_leave
        )
        return SnapshotMeta(index, term, conf_state)
    except (ValueError, TypeError) as error:
        raise CodecError(f"snapshot meta: {error}") from None


def encode_call(call_id: int, method: int, payload: bytes) -> bytes:
    """Return a CALL frame: a request that the other member answers with the same call id."""
    body = _CALL.pack(call_id, method) + payload
    return FRAME_HEAD.pack(1 + len(body), FrameType.CALL) + body


def decode_call(body: memoryview) -> tuple[int, int, bytes]:
    if len(body) < _CALL.size:
        raise CodecError("call frame is too short")
    call_id, method = _CALL.unpack_from(body)
    return call_id, method, bytes(body[_CALL.size :])


def encode_reply(call_id: int, status: int, payload: bytes) -> bytes:
    """Return a REPLY frame; status 0 is success, else a gRPC code whose text is the payload."""
    body = _REPLY.pack(call_id, status) + payload
    return FRAME_HEAD.pack(1 + len(body), FrameType.REPLY) + body


def decode_reply(body: memoryview) -> tuple[int, int, bytes]:
    if len(body) < _REPLY.size:
        raise CodecError("reply frame is too short")
    call_id, status = _REPLY.unpack_from(body)
    return call_id, status, bytes(body[_REPLY.size :])


class FrameReader:
    """Cuts a byte stream into frames.

    ``feed`` returns what is complete; an incomplete rest is kept and joined with the next input.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, memoryview]]:
        """Return (frame type, body) of every complete frame. Raises CodecError on a bad length."""
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            if len(self._rest) < 4 or len(self._rest) < 4 + int.from_bytes(self._rest[:4], "big"):
                self._check_length(self._rest)
                return []
            buffer, self._rest = self._rest, bytearray()
        view, offset, size, frames = memoryview(buffer), 0, len(buffer), []
        while size - offset >= FRAME_HEAD.size:
            length, frame_type = FRAME_HEAD.unpack_from(view, offset)
            self._check(length)
            end = offset + 4 + length
            if end > size:
                break
            frames.append((frame_type, view[offset + FRAME_HEAD.size : end]))
            offset = end
        if offset < size:
            self._rest = bytearray(view[offset:])
        return frames

    def _check_length(self, rest: bytearray) -> None:
        if len(rest) >= 4:
            self._check(int.from_bytes(rest[:4], "big"))

    @staticmethod
    def _check(length: int) -> None:
        if not 1 <= length <= MAX_FRAME_BYTES:
            raise CodecError(f"frame length {length} is not in 1..{MAX_FRAME_BYTES}")
