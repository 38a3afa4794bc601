"""What a log entry of the key-value store looks like.

Byte layout of an entry's data::

    kind u8 | request id u64 big-endian | body

The body is the client's own protobuf message where there is one (Put, DeleteRange, Txn, Compact,
LeaseGrant, LeaseRevoke), unchanged: nothing is encoded again between the client's socket and the
log. Changes of members are JSON objects (`membership.changes`); those that change who votes are the
context of a conf change, in the same layout. The request id lets the proposing member find the
waiting caller when the entry is applied; it starts with bits of the member's id, so that ids of
different members do not meet, and with bits of the start time, so that those of one member's lives
do not.
"""

from __future__ import annotations

import struct
from enum import IntEnum

HEADER = struct.Struct(">BQ")
HEADER_SIZE = HEADER.size


class Kind(IntEnum):
    """The kinds of requests in the log. Numbers are stored: never reuse one."""

    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    LEASE_GRANT = 5
    LEASE_REVOKE = 6
    PUBLISH = 7
    CLUSTER_VERSION = 8
    ALARM = 9
    LEASE_CHECKPOINT = 10
    MEMBER_UPDATE = 16
    MEMBER_ADD = 17
    """This and the next two come as the context of a conf change, never as an entry of their own.
    """
    MEMBER_REMOVE = 18
    MEMBER_PROMOTE = 19


def first_request_id(member_id: int, start_ms: int) -> int:
    """Return the first request id of a member's life.

    Args:
        member_id: its low 16 bits become the id's high 16 bits.
        start_ms: wall-clock milliseconds at start; 40 bits of it follow. The low 8 bits count up
            and carry into the time, which stays ahead as long as fewer than 256,000 requests a
            second are made on average.
    """
    return (member_id & 0xFFFF) << 48 | (start_ms & (1 << 40) - 1) << 8
