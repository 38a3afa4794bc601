"""Steps of a sequence: one request each, with revisions that are relative until they are sent.

A step never depends on an answer: it is made from the seed alone. So a sequence stays meaningful
when steps are dropped from it, and is named by its seed and the numbers of the steps that are left.
Revisions that should hit something are therefore written as `HEAD + n` (the store's revision at the
time of sending) and `COMPACTED + n` (the compact revision); `resolved` puts the numbers in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from kvstore.pb import rpc_pb2

HEAD = 3 << 60
COMPACTED = 5 << 59
"""Stand-ins, far from any number that the generator means as it is."""

NEARBY = 1000
"""How far from a stand-in a number still counts as relative to it."""

MARKER = b"~"
"""Written between the steps, to see that watchers have got everything up to then."""

MARKER_WATCH = 1_000_000
"""Ids of the watches on it, from here on; steps use smaller ones."""

FROM_KEY_ENCODED = b"\x12\x00"
"""Behind a RangeRequest: an empty range_end that is on the wire all the same (RNG-02)."""

UNKNOWN_FIELD = b"\xfa\x3e\x03abc"
"""Behind any request: field 1007, which no message has (GEN-22)."""

CALLS: dict[str, tuple[Any, Any]] = {
    "KV/Range": (rpc_pb2.RangeRequest, rpc_pb2.RangeResponse),
    "KV/Put": (rpc_pb2.PutRequest, rpc_pb2.PutResponse),
    "KV/DeleteRange": (rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse),
    "KV/Txn": (rpc_pb2.TxnRequest, rpc_pb2.TxnResponse),
    "KV/Compact": (rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse),
    "Lease/LeaseGrant": (rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse),
    "Lease/LeaseRevoke": (rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse),
    "Lease/LeaseTimeToLive": (rpc_pb2.LeaseTimeToLiveRequest, rpc_pb2.LeaseTimeToLiveResponse),
    "Lease/LeaseLeases": (rpc_pb2.LeaseLeasesRequest, rpc_pb2.LeaseLeasesResponse),
    "Lease/LeaseKeepAlive": (rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse),
    "Maintenance/HashKV": (rpc_pb2.HashKVRequest, rpc_pb2.HashKVResponse),
}
"""Calls with one request and one answer: method -> messages."""

WATCH = "Watch/Watch"


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a sequence."""

    number: int
    """Its place in the sequence as generated; it also picks the member that is asked."""
    method: str
    """A key of `CALLS`, or `WATCH`."""
    request: Any
    """The message, with relative revisions."""
    suffix: bytes = b""
    """Bytes behind the encoded message: fields that the message class would not write."""
    stream: int = 0
    """Which of the sequence's watch streams a `WATCH` request goes to."""

    def __str__(self) -> str:
        text = text_format.MessageToString(self.request, as_one_line=True)
        text = re.sub(r"\d{16,}", _relative, text)
        where = f" on stream {self.stream}" if self.method == WATCH else ""
        suffix = f" followed by {self.suffix!r}" if self.suffix else ""
        return f"{self.number:3} {self.method} {{{text}}}{suffix}{where}"


def _relative(match: re.Match[str]) -> str:
    number = int(match[0])
    for base, name in ((HEAD, "head"), (COMPACTED, "compacted")):
        if abs(number - base) <= NEARBY:
            return f"{name}{number - base:+}"
    return match[0]


def resolved(request: Any, head: int, compacted: int) -> Any:
    """A copy of `request` with absolute revisions; what is relative never becomes negative."""
    copy = type(request)()
    copy.CopyFrom(request)
    for message in messages_in(copy):
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_INT64 and isinstance(value, int):
                for base, now in ((HEAD, head), (COMPACTED, compacted)):
                    if abs(value - base) <= NEARBY:
                        setattr(message, field.name, max(now + value - base, 0))
    return copy


def messages_in(message: Any) -> Iterator[Any]:
    """The message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from messages_in(inner)


def ranges_in(request: Any) -> Iterator[rpc_pb2.RangeRequest]:
    """Every Range in a request, of both branches of transactions."""
    for message in messages_in(request):
        if isinstance(message, rpc_pb2.RangeRequest):
            yield message
