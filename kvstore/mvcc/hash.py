"""Hashes of the store's contents, for comparing members (MNT-19..22).

The CRC-32C comes from `google-crc32c` (a C extension). The trade-off: a hash reads every revision,
so it runs in slices and pins what it needs; it costs a full scan of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import google_crc32c

from kvstore.mvcc.keyvalue import (
    TOMBSTONE_KEY_SIZE,
    TOMBSTONE_MARK,
    decode_revision_key,
    key_of,
    key_span,
    revision_key,
)
from kvstore.mvcc.scan import scan_slice
from kvstore.mvcc.steps import SLICE_KEYS, Steps
from kvstore.storage.backend import ALARMS, AUTH, LEASES, MEMBERS, REVISIONS, Backend

if TYPE_CHECKING:
    from kvstore.mvcc.store import Store

HASHED_TABLES = (REVISIONS, LEASES, MEMBERS, ALARMS, AUTH)
"""What `hash_backend_steps` covers: all but META, which holds applied index and term (MNT-19)."""


_BUCKET = b"key"
"""What etcd's hash begins with: the name of its table."""


class HashKV(NamedTuple):
    """The answer to HashKV; comparable between members with equal `compact_revision` (MNT-21)."""

    hash: int
    compact_revision: int
    """-1 if never compacted."""
    hash_revision: int


def crc32c(crc: int, data: bytes) -> int:
    """Return the CRC-32C of what gave `crc` followed by `data`; start with 0."""
    return int(google_crc32c.extend(crc, data))


def hash_kv_steps(store: Store, revision: int) -> Steps[HashKV]:
    """Hash all revisions up to `revision` (0: the latest, below: none), in slices (MNT-20..22).

    The result does not depend on how far physical removal has got, nor on what is written or
    compacted between slices. Where a compaction was at exactly `revision`, its remembered hash is
    the answer (MNT-23). The bytes are etcd's: bucket name "key", then for each revision
    `main | "_" | sub`, a "t" on tombstones, and the stored KeyValue, which for a tombstone is the
    key alone.

    Raises:
        EtcdError: FUTURE_REV, COMPACTED.
    """
    # 0 is never looked for there: in etcd a compaction at 0 answers all further requests for the
    # current hash.
    known = store.compaction_hashes.get(revision) if revision else None
    if known is not None:
        return known
    compact = store.compact_revision
    if revision < 0:
        # As in etcd, which takes it for a revision before the first: nothing is hashed.
        return HashKV(crc32c(0, _BUCKET), compact, revision)
    return (yield from _hash_steps(store, compact, store.read_revision(revision)))


def compaction_hash_steps(store: Store, previous: int, revision: int) -> Steps[HashKV]:
    """Hash a compaction at `revision`, the one before being at `previous`, in slices (MNT-23).

    What it will remove must still be there, and stay until the hash is known.
    """
    # What was written at just this revision is kept, tombstones too (CMP-05).
    written = store.backend.scan(
        REVISIONS, revision_key(revision, 0), revision_key(revision + 1, 0)
    )
    return _hash_steps(store, previous, revision, keeps=next(written, None) is not None)


def _hash_steps(store: Store, compact: int, at: int, keeps: bool = False) -> Steps[HashKV]:
    """Hash revisions up to `at`, passing over those up to `compact` that it drops.

    Args:
        keeps: whether a compaction at `at` keeps something even if no key is live there.
    """
    with store.pinned(max(compact, 0)):
        # A compaction that keeps nothing skips nothing in etcd, removed or not; here what a
        # compaction at `compact` drops is skipped all the same.
        keep_at = at if keeps or (yield from _any_key(store, at)) else compact
        crc = crc32c(0, _BUCKET)
        cursor: bytes | None = revision_key(0, 0)
        end = revision_key(at + 1, 0)
        while cursor is not None:
            scanned, cursor = scan_slice(store.backend, REVISIONS, cursor, end)
            pieces: list[bytes] = []
            for stored, value in scanned:
                if decode_revision_key(stored)[0] > compact or _kept(store, stored, value, keep_at):
                    pieces += _hashed(stored, value)
            crc = crc32c(crc, b"".join(pieces))
            if cursor is not None:
                yield
        return HashKV(crc, compact, at)


def _any_key(store: Store, at: int) -> Steps[bool]:
    cursor: bytes | None = b""
    while cursor is not None:
        count = store.index.count_at(cursor, None, at)
        if count is not None:
            return count > 0
        found, cursor = store.index.slice_at(cursor, None, at, 1, SLICE_KEYS)
        if found:
            return True
        yield
    return False


def _kept(store: Store, stored: bytes, value: bytes, keep_at: int) -> bool:
    """Tell whether a revision at or below the compact revision counts; a tombstone never does."""
    record = store.index.records.get(key_of(value))
    return record is not None and record.live_at(keep_at) == decode_revision_key(stored)


def _hashed(stored: bytes, value: bytes) -> tuple[bytes, ...]:
    if len(stored) == TOMBSTONE_KEY_SIZE:
        return stored[:8], b"_", stored[8:16], TOMBSTONE_MARK, value[: key_span(value)[1]]
    return stored[:8], b"_", stored[8:], value


def hash_backend_steps(backend: Backend) -> Steps[int]:
    """Hash all tables but META, in slices; a test aid only (MNT-19).

    It shows how far physical removal has got, and writes between slices may or may not show.
    """
    crc = 0
    for table in HASHED_TABLES:
        crc = crc32c(crc, str(table).encode())
        cursor: bytes | None = b""
        while cursor is not None:
            scanned, cursor = scan_slice(backend, table, cursor, None)
            crc = crc32c(crc, b"".join(piece for pair in scanned for piece in pair))
            yield
    return crc
