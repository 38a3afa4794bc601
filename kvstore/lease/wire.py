"""How a lease is written in table LEASES.

Key: the lease id, 8 bytes big-endian two's complement (ids may be negative, LSE-01).
Value: the granted TTL and the checkpointed rest (0 = no checkpoint), both whole seconds, each
8 bytes big-endian signed. Checksums are the backend's job. Attachments are not stored: they follow
from the `lease` field of the live keys (LSE-23).

Checkpoints in a log entry: lease id and rest in whole seconds, 8 bytes big-endian signed each, one
pair after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_KEY = struct.Struct(">q")
_VALUE = struct.Struct(">qq")


def encode_id(lease_id: int) -> bytes:
    """Return the table key of a lease; `lease_id` is an int64."""
    return _KEY.pack(lease_id)


def encode_lease(ttl_s: int, remaining_s: int) -> bytes:
    """Return the table value of a lease."""
    return _VALUE.pack(ttl_s, remaining_s)


def decode_lease(key: bytes, value: bytes) -> tuple[int, int, int]:
    """Return (lease id, TTL, checkpointed rest), times in seconds.

    Raises:
        ValueError: key or value has another length than the format.
    """
    if len(key) != _KEY.size or len(value) != _VALUE.size:
        raise ValueError(f"table leases, key {key.hex()}: {len(value)} bytes are not a lease")
    ttl_s, remaining_s = _VALUE.unpack(value)
    return _KEY.unpack(key)[0], ttl_s, remaining_s


def encode_checkpoints(checkpoints: Iterable[tuple[int, int]]) -> bytes:
    """Encode (lease id, rest in seconds) pairs; rest 0 takes a checkpoint back."""
    return b"".join(_VALUE.pack(*checkpoint) for checkpoint in checkpoints)


def decode_checkpoints(body: bytes) -> list[tuple[int, int]]:
    """Reverse of `encode_checkpoints`. Raises struct.error."""
    return list(_VALUE.iter_unpack(body))
