"""Range, Put and DeleteRange: from a request message to the bytes of its response.

A body is the response message without its header field, so the caller puts its own header in front
(concatenating protobuf fields is valid). Nothing here waits, proposes or knows transactions. The
trade-off: bodies are joined from stored bytes, which is fast and leaves no message to inspect.

Everything raises EtcdError before it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvstore import errors
from kvstore.apply.ports import Lessor
from kvstore.mvcc.keyvalue import length_delimited, varint, without_value
from kvstore.mvcc.range import Range, interval, is_filtered, range_steps
from kvstore.mvcc.steps import Steps, drain
from kvstore.mvcc.store import Store, WriteTxn
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest

Answer = tuple[int, bytes]
"""(header revision, body)."""


# Range.


def range_body(store: Store, request: RangeRequest) -> Answer:
    """Answer a Range in one go. Raises FUTURE_REV or COMPACTED."""
    return drain(range_body_steps(store, request))


def range_body_steps(store: Store, request: RangeRequest) -> Steps[Answer]:
    """Answer a Range in slices (see `kvstore.mvcc.steps`), all from one revision (RNG-29).

    The checks and, for short ranges, all the work are in the first slice.

    Raises:
        EtcdError: FUTURE_REV or COMPACTED.
    """
    store.ranges += 1
    if request.range_end or request.count_only or is_filtered(request):
        found = yield from range_steps(store, request)
        return found.revision, encode_range(found)
    key_value = store.get(request.key, request.revision)
    if key_value is None:
        return store.newest, b""
    if request.keys_only:
        key_value = without_value(key_value)
    return store.newest, b"".join((b"\x12", varint(len(key_value)), key_value, b"\x20\x01"))


def encode_range(found: Range) -> bytes:
    """Return a RangeResponse without header."""
    parts: list[bytes] = []
    for key_value in found.key_values:
        parts += (b"\x12", varint(len(key_value)), key_value)
    if found.more:
        parts.append(b"\x18\x01")
    if found.count:
        parts += (b"\x20", varint(found.count))
    return b"".join(parts)


# Put.


def apply_put(store: Store, lessor: Lessor, request: PutRequest) -> Answer:
    """Write one key. Raises LEASE_NOT_FOUND (PUT-05) or KEY_NOT_FOUND (PUT-08)."""
    check_put_state(store, lessor, request)
    txn = store.begin()
    body = put_in(txn, store, lessor, request)
    return txn.commit(), body


def check_put_state(store: Store, lessor: Lessor, request: PutRequest) -> None:
    """Check what of a Put depends on leases and store. Raises LEASE_NOT_FOUND, KEY_NOT_FOUND."""
    if request.lease and not lessor.exists(request.lease):
        raise errors.LEASE_NOT_FOUND
    if request.ignore_value or request.ignore_lease:
        record = store.index.records.get(request.key)
        if record is None or not record.version:
            raise errors.KEY_NOT_FOUND


def put_in(txn: WriteTxn, store: Store, lessor: Lessor, request: PutRequest) -> bytes:
    """Write a checked Put in an open transaction; return the PutResponse without header."""
    key, value, lease = request.key, request.value, request.lease
    body = b""
    if request.prev_kv or request.ignore_value or request.ignore_lease:
        previous = store.get(key)
        if previous is not None:
            if request.prev_kv:
                body = length_delimited(b"\x12", previous)
            if request.ignore_value or request.ignore_lease:
                old = KeyValue.FromString(previous)
                value = old.value if request.ignore_value else value
                lease = old.lease if request.ignore_lease else lease
    txn.put(key, value, lease)
    if lease:
        lessor.attach(lease, key)
    else:
        lessor.detach(key)
    return body


# DeleteRange.


def apply_delete_range(store: Store, lessor: Lessor, request: DeleteRangeRequest) -> Answer:
    """Delete all keys of an interval in one revision; none there: no revision (DEL-02)."""
    txn = store.begin()
    body = delete_range_in(txn, store, lessor, request)
    return txn.commit(), body


def delete_range_in(
    txn: WriteTxn, store: Store, lessor: Lessor, request: DeleteRangeRequest
) -> bytes:
    """Delete in an open transaction; return the DeleteRangeResponse without header."""
    store.deletes += 1
    start, end = interval(request.key, request.range_end)
    keys = list(store.index.live.irange(start, end, (True, False)))
    if not keys:
        return b""
    parts = [b"\x10", varint(len(keys))]
    for key in keys:
        if request.prev_kv:
            previous = store.get(key) or b""
            parts += (b"\x1a", varint(len(previous)), previous)
        txn.delete(key)
        lessor.detach(key)
    return b"".join(parts)


def apply_delete_keys(store: Store, lessor: Lessor, sorted_keys: Iterable[bytes]) -> int:
    """Delete the keys of a revoked lease in one revision, in the order given (LSE-12).

    Args:
        sorted_keys: ascending, so that all members agree on the sub-revisions; keys that are not
            there are passed over.

    Returns:
        The new revision, or the unchanged one if nothing was deleted.
    """
    txn = store.begin()
    records = store.index.records
    for key in sorted_keys:
        record = records.get(key)
        if record is not None and record.version:
            store.deletes += 1
            txn.delete(key)
            lessor.detach(key)
    return txn.commit()
