"""WatchResponse put together from already encoded pieces.

A response is joined from a header, shared by all watchers of a revision, event fields, shared by
all watchers that see the event, and one small watch_id field of its own. Protobuf lets the fields
of a message come in any order, so the watch_id goes last. Nothing here knows watchers or stores.

Trade-off: these few bytes are spelled by hand instead of by the generated classes, because a write
must reach hundreds of watchers without being encoded hundreds of times.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvstore.mvcc.keyvalue import length_delimited, varint

CREATED = b"\x18\x01"
"""WatchResponse.created = true (field 3)."""
CANCELED = b"\x20\x01"
"""WatchResponse.canceled = true (field 4)."""
FRAGMENT = b"\x38\x01"
"""WatchResponse.fragment = true (field 7)."""


def member_fields(cluster_id: int, member_id: int) -> bytes:
    """Encode the fields of ResponseHeader that never change (1 and 2)."""
    return b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id)


def header(member: bytes, revision: int, raft_term: int) -> bytes:
    """Encode WatchResponse.header (field 1); `member` comes from `member_fields`."""
    body = member
    if revision:
        body += b"\x18" + varint(revision)
    if raft_term:
        body += b"\x20" + varint(raft_term)
    return length_delimited(b"\x0a", body)


def watch_id(value: int) -> bytes:
    """Encode WatchResponse.watch_id (field 2); id 0 is the default and takes no bytes."""
    return b"\x10" + varint(value) if value else b""


def compact_revision(value: int) -> bytes:
    """Encode WatchResponse.compact_revision (field 5), `value` > 0."""
    return b"\x28" + varint(value)


def cancel_reason(text: str) -> bytes:
    """Encode WatchResponse.cancel_reason (field 6), `text` not empty."""
    return length_delimited(b"\x32", text.encode())


def event(kind: int, kv: bytes, prev_kv: bytes | None) -> bytes:
    """Encode one element of WatchResponse.events (field 11).

    Args:
        kind: 0 PUT, 1 DELETE.
        kv: serialized KeyValue; of a DELETE only key and mod_revision (WCH-17).
        prev_kv: serialized KeyValue before the event, None = leave it out.
    """
    pieces = [b"\x08\x01"] if kind else []
    pieces += (b"\x12", varint(len(kv)), kv)
    if prev_kv is not None:
        pieces += (b"\x1a", varint(len(prev_kv)), prev_kv)
    return length_delimited(b"\x5a", b"".join(pieces))


def fragments(parts: Sequence[bytes], id_size: int, limit: int) -> list[tuple[bytes, ...]]:
    """Split a response so that each piece stays below `limit` bytes (WCH-41).

    Args:
        parts: header, then one field for each event.
        id_size: bytes of the watch_id field that each piece will get besides.

    Returns:
        Pieces in order, all with the same header, all but the last marked as fragment. An event
        is never cut: one that is too big travels alone.
    """
    head = parts[0]
    empty_size = len(head) + id_size + len(FRAGMENT)
    pieces: list[tuple[bytes, ...]] = []
    piece, size = [head], empty_size
    for part in parts[1:]:
        if len(piece) > 1 and size + len(part) >= limit:
            pieces.append((*piece, FRAGMENT))
            piece, size = [head], empty_size
        piece.append(part)
        size += len(part)
    pieces.append(tuple(piece))
    return pieces
