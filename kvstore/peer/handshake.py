"""How a connection between members begins: bytes only, no sockets.

The dialing side sends once::

    magic 7 bytes | protocol version u8 | purpose u8 | cluster id u64 | from u64 | to u64
    | length u16 | its own peer URLs, UTF-8, joined by newlines

and is answered ``status u8 | length u16 | text`` (big-endian). The URLs are there for a receiver
that has been away while the sender was added: it has to answer somebody it does not know yet.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum
from typing import NamedTuple

from kvstore.storage.errors import CodecError

MAGIC = b"KVPEER\n"
PROTOCOL_VERSION = 2
MAX_URLS_BYTES = 65_535

_HEAD = struct.Struct(">7sBBQQQH")
_ANSWER = struct.Struct(">BH")
_VERSION_AT = len(MAGIC)
_MAX_TEXT_BYTES = 1000

NOT_OUR_PROTOCOL = "this is a peer port, and that is not its protocol"


class Purpose(IntEnum):
    """What a connection is for."""

    STREAM = 1
    SNAPSHOT = 2


class Status(IntEnum):
    """How a dialing member is answered."""

    ACCEPTED = 0
    REFUSED = 1
    REMOVED = 2
    """It was removed from the cluster for ever, and the answering voter will not forget it."""


class Standing(Enum):
    """What a dialing member is to this one."""

    MEMBER = "member"
    STRANGER = "stranger"
    """Not known. It may have been added while this member was away, so it is accepted."""
    BARRED = "barred"
    """Removed, but this member may not say so: see `node.retirement`."""
    REMOVED = "removed"


class Handshake(NamedTuple):
    """What the dialing side says of itself and of whom it means."""

    version: int
    purpose: int
    cluster_id: int
    from_id: int
    to_id: int
    urls: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the bytes to send; URLs beyond MAX_URLS_BYTES are left out."""
        urls = b""
        for url in self.urls:
            longer = b"\n".join((urls, url.encode())) if urls else url.encode()
            if len(longer) > MAX_URLS_BYTES:
                break
            urls = longer
        head = _HEAD.pack(
            MAGIC,
            self.version,
            self.purpose,
            self.cluster_id,
            self.from_id,
            self.to_id,
            len(urls),
        )
        return head + urls


def take_handshake(data: bytes) -> tuple[Handshake, int] | None:
    """Parse the handshake that `data` begins with; None while it is incomplete.

    Returns it and its length in bytes; of another version only that number is known, and no length.
    Raises CodecError for what is no handshake.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise CodecError(NOT_OUR_PROTOCOL)
    if len(data) > _VERSION_AT and data[_VERSION_AT] != PROTOCOL_VERSION:
        return Handshake(data[_VERSION_AT], 0, 0, 0, 0), len(data)
    if len(data) < _HEAD.size:
        return None
    _, version, purpose, cluster_id, from_id, to_id, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    if len(data) < end:
        return None
    try:
        urls = data[_HEAD.size : end].decode()
    except UnicodeDecodeError:
        raise CodecError("the peer URLs of a handshake are not UTF-8") from None
    shake = Handshake(
        version, purpose, cluster_id, from_id, to_id, tuple(urls.split("\n")) if urls else ()
    )
    return shake, end


def encode_answer(status: Status, text: str = "") -> bytes:
    """Return the answer to a handshake; a long text is cut."""
    raw = text.encode()[:_MAX_TEXT_BYTES]
    return _ANSWER.pack(status, len(raw)) + raw


def take_answer(data: bytes) -> tuple[int, str, int] | None:
    """Parse the answer that `data` begins with: status, text, length; None while incomplete."""
    if len(data) < _ANSWER.size:
        return None
    status, length = _ANSWER.unpack_from(data)
    end = _ANSWER.size + length
    if len(data) < end:
        return None
    return status, data[_ANSWER.size : end].decode(errors="replace"), end
