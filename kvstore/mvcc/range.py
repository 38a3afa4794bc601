"""Ranges: which keys a RangeRequest selects, in which order, and their serialized KeyValues.

Everything here reads one revision, in slices, so that a huge range neither blocks the loop nor
mixes revisions (RNG-29): all of it at once (`range_steps`), or in parts that are handed out as they
are read (`range_parts`). The trade-off: selection works on the index alone and values are
fetched for what is returned; only VALUE sorts, and version or creation revision of keys changed
since the read revision, need values earlier.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kvstore import errors
from kvstore.mvcc.keyvalue import without_value
from kvstore.mvcc.steps import SLICE_BYTES, SLICE_KEYS, Steps
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import RangeRequest

if TYPE_CHECKING:
    from kvstore.mvcc.store import Store

Result = TypeVar("Result")

Found = tuple[bytes, int, int]
"""A selected key and the (main, sub) of what is read of it."""


FETCH_KEYS = 128
"""Most values read at a time."""

PART_BYTES = 1 << 18
"""Bytes of values that fill a part: a stream whose client does not read holds about two of them."""

PART_FETCH_KEYS = 16
"""Most values read at a time for a part: what a stream holds in memory is bounded by them."""


@dataclass(frozen=True, slots=True)
class Range:
    """The answer to a range."""

    key_values: list[bytes]
    """Serialized KeyValues, in the order asked for."""
    more: bool
    count: int
    revision: int
    """The store's revision when the read began: the reply's header revision (GEN-04)."""


def interval(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """Return the half-open interval [start, end) that is meant; None = no end (RNG-02..04)."""
    if not range_end:
        return key, key + b"\0"
    return key, None if range_end == b"\0" else range_end


def range_steps(store: Store, request: RangeRequest, now: int | None = None) -> Steps[Range]:
    """Answer a range in slices; each slice looks at up to SLICE_KEYS keys or SLICE_BYTES of values.

    Checks happen in the first slice. Between slices anything may be written or compacted.

    Args:
        now: the revision to take for the latest. The caller has then checked and pinned what the
            request reads.

    Raises:
        EtcdError: FUTURE_REV, COMPACTED.
    """
    if now is None:
        at, revision = store.read_revision(request.revision), store.newest
    else:
        at, revision = request.revision if request.revision > 0 else now, now
    start, end = interval(request.key, request.range_end)
    if end is not None and end <= start:
        return Range([], False, 0, revision)
    with store.pinned(at):
        if request.count_only:
            count = yield from _count(store, start, end, at)
            return Range([], False, count, revision)
        if _natural_order(request) and not is_filtered(request):
            key_values, count = yield from _in_order(store, request, start, end, at)
        else:
            key_values, count = yield from _sorted(store, request, start, end, at)
        # `count` so far is that of the selected keys; RNG-13 is about them, RNG-14 is not.
        more = 0 < request.limit < count
        if is_filtered(request):
            count = yield from _count(store, start, end, at)
    return Range(key_values, more, count, revision)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a streamed range: at most PART_BYTES and one value, or none at all: a pause."""

    key_values: list[bytes]
    """Serialized KeyValues, ascending by key over all parts."""
    last: bool = False
    more: bool = False
    """Of the last part: the limit cut something off."""
    count: int = 0
    """Of the last part: all keys of the interval (RST-05)."""


Parts = Generator[Part, None, Result]


def range_parts(store: Store, request: RangeRequest) -> Parts[None]:
    """Read in parts at the revision of the first, the `last` one included (RST-03..07).

    Order and filters of the request are not looked at. Between parts anything may be written.
    Nothing is pinned: a slow reader does not hold up a compaction, it is ended by it.

    Raises:
        EtcdError: FUTURE_REV; COMPACTED, also between parts (RST-06).
    """
    at = store.read_revision(request.revision)
    start, end = interval(request.key, request.range_end)
    if end is not None and end <= start:
        yield Part([], last=True)
        return
    limit, sent, cursor = max(request.limit, 0), 0, start
    if request.count_only:
        count = yield from _while_readable(store, at, _count(store, start, end, at))
        yield Part([], last=True, count=count)
        return
    while True:
        wanted = min(SLICE_KEYS, limit - sent) if limit else SLICE_KEYS
        found, rest_start = _slice(store, cursor, end, at, wanted)
        sent += len(found)
        key_values = yield from _fetch_parts(store, at, found, request.keys_only)
        if rest_start is None:
            yield Part(key_values, last=True, count=sent)
            return
        cursor = rest_start
        if limit and sent >= limit:
            rest = yield from _while_readable(store, at, _count(store, cursor, end, at))
            yield Part(key_values, last=True, more=rest > 0, count=sent + rest)
            return
        yield Part(key_values)
        _check_readable(store, at)


def _fetch_parts(store: Store, at: int, found: list[Found], keys_only: bool) -> Parts[list[bytes]]:
    """Yield full parts of the KeyValues of `found`; return those left over."""
    key_values: list[bytes] = []
    size = read = 0
    for first in range(0, len(found), PART_FETCH_KEYS):
        batch = [entry[1:] for entry in found[first : first + PART_FETCH_KEYS]]
        for value in store.values_at(batch):
            key_values.append(without_value(value) if keys_only else value)
            size += len(key_values[-1])
            read += len(value)
            if size >= PART_BYTES or read >= SLICE_BYTES:
                yield Part(key_values)
                _check_readable(store, at)
                key_values, size, read = [], 0, 0
    return key_values


def _while_readable(store: Store, at: int, steps: Steps[Result]) -> Parts[Result]:
    """Run steps that read at a revision, with a pause between them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield Part([])
        _check_readable(store, at)


def _check_readable(store: Store, at: int) -> None:
    if at < store.compact_revision:
        raise errors.COMPACTED


def _natural_order(request: RangeRequest) -> bool:
    if request.sort_target == RangeRequest.KEY:
        return request.sort_order != RangeRequest.DESCEND
    return False


def is_filtered(request: RangeRequest) -> bool:
    """Tell whether a revision filter is set (RNG-16)."""
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _slice(
    store: Store, start: bytes, end: bytes | None, at: int, limit: int
) -> tuple[list[Found], bytes | None]:
    if at == store.newest:
        return store.index.live_slice(start, end, limit)
    return store.index.slice_at(start, end, at, limit, SLICE_KEYS)


def _count(store: Store, start: bytes, end: bytes | None, at: int) -> Steps[int]:
    """Count the keys of [start, end) at a pinned revision, by arithmetic where possible."""
    counted = 0
    cursor: bytes | None = start
    while cursor is not None:
        rest = store.index.count_at(cursor, end, at)
        if rest is not None:
            return counted + rest
        found, cursor = _slice(store, cursor, end, at, SLICE_KEYS)
        counted += len(found)
        if cursor is not None:
            yield
    return counted


def _in_order(
    store: Store, request: RangeRequest, start: bytes, end: bytes | None, at: int
) -> Steps[tuple[list[bytes], int]]:
    """Read in key order, no further than the limit; return (KeyValues, count of all)."""
    limit = max(request.limit, 0)
    key_values: list[bytes] = []
    cursor: bytes = start
    while True:
        wanted = min(SLICE_KEYS, limit - len(key_values)) if limit else SLICE_KEYS
        found, rest_start = _slice(store, cursor, end, at, wanted)
        yield from _fetch(store, found, request.keys_only, key_values)
        if rest_start is None:
            return key_values, len(key_values)
        cursor = rest_start
        if limit and len(key_values) >= limit:
            rest = yield from _count(store, cursor, end, at)
            return key_values, len(key_values) + rest
        yield


def _fetch(store: Store, found: list[Found], keys_only: bool, out: list[bytes]) -> Steps[None]:
    """Append the KeyValues of `found` to `out`."""
    size, start, number = 0, 0, 1
    while start < len(found):
        values = store.values_at([entry[1:] for entry in found[start : start + number]])
        start += number
        out += map(without_value, values) if keys_only else values
        read = sum(map(len, values))
        size += read
        # As many as fit in the slice if the next ones are like these.
        number = min(FETCH_KEYS, 2 * number, 1 + max(SLICE_BYTES - size, 0) * number // (read + 1))
        if size >= SLICE_BYTES:
            size = 0
            yield


def _sorted(
    store: Store, request: RangeRequest, start: bytes, end: bytes | None, at: int
) -> Steps[tuple[list[bytes], int]]:
    """Select, filter and sort the whole interval, then cut (RNG-16..22).

    Returns (KeyValues, count of the selected keys).
    """
    selected: list[tuple[int | bytes, Found]] = []
    reader = _Reader(store)
    cursor: bytes | None = start
    while cursor is not None:
        found, cursor = _slice(store, cursor, end, at, SLICE_KEYS)
        for entry in found:
            if reader.size >= SLICE_BYTES:
                reader.size = 0
                yield
            if is_filtered(request) and not _passes(reader, request, entry):
                continue
            selected.append((_sort_key(reader, request.sort_target, entry), entry))
        if cursor is not None:
            yield
    # The sort is stable, reversed too, so equal ones stay in ascending key order (RNG-21).
    selected.sort(key=lambda pair: pair[0], reverse=request.sort_order == RangeRequest.DESCEND)
    limit = request.limit if request.limit > 0 else len(selected)
    key_values: list[bytes] = []
    for first in range(0, min(limit, len(selected)), SLICE_KEYS):
        if first:
            yield
        last = min(first + SLICE_KEYS, limit)
        entries = [entry for _, entry in selected[first:last]]
        yield from _fetch(store, entries, request.keys_only, key_values)
    return key_values, len(selected)


class _Reader:
    """Reads the KeyValues that filters and orders look into, and counts their bytes."""

    __slots__ = ("size", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.size = 0

    def read(self, main: int, sub: int) -> KeyValue:
        value = self.store.value_at(main, sub)
        self.size += len(value)
        return KeyValue.FromString(value)


def _passes(reader: _Reader, request: RangeRequest, found: Found) -> bool:
    mod = found[1]
    if request.min_mod_revision and mod < request.min_mod_revision:
        return False
    if request.max_mod_revision and mod > request.max_mod_revision:
        return False
    if not (request.min_create_revision or request.max_create_revision):
        return True
    create = _create_and_version(reader, found)[0]
    if request.min_create_revision and create < request.min_create_revision:
        return False
    return not (request.max_create_revision and create > request.max_create_revision)


def _sort_key(reader: _Reader, target: RangeRequest.SortTarget, found: Found) -> int | bytes:
    if target == RangeRequest.KEY:
        return found[0]
    if target == RangeRequest.MOD:
        return found[1]
    if target == RangeRequest.VALUE:
        return reader.read(found[1], found[2]).value
    create, version = _create_and_version(reader, found)
    return create if target == RangeRequest.CREATE else version


def _create_and_version(reader: _Reader, found: Found) -> tuple[int, int]:
    key, main, sub = found
    record = reader.store.index.records[key]
    if record.revisions[-1] == main << 1 and record.sub(-1) == sub:
        return record.create, record.version
    message = reader.read(main, sub)
    return message.create_revision, message.version
