"""Writes the state of a backend as an etcd database file.

The trade-off: everything is read, checked and written once, in one pass, so that memory stays small
and a damaged value ends the export (`CorruptBackend`) instead of getting into a backup.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import BinaryIO

from kvstore.bbolt.writer import BoltWriter
from kvstore.lease.wire import decode_lease
from kvstore.membership.cluster import load_members
from kvstore.mvcc.compaction import META_FINISHED, META_SCHEDULED, NEVER, load_meta
from kvstore.mvcc.keyvalue import (
    TOMBSTONE_KEY_SIZE,
    TOMBSTONE_MARK,
    decode_revision_key,
    key_span,
)
from kvstore.node.member import load_applied
from kvstore.pb.lease_pb2 import Lease
from kvstore.snapshot import schema
from kvstore.storage.backend import ALARMS, AUTH, LEASES, REVISIONS, Readable
from kvstore.version import STORAGE_VERSION
from raft import SnapshotMeta

Pair = tuple[bytes, bytes]


def export(tables: Readable, file: BinaryIO) -> int:
    """Write an etcd database into an empty file; return its size in bytes, whole pages of 4096.

    Args:
        tables: one point in time that does not change meanwhile.

    Raises:
        CorruptBackend: a value is damaged; what is in the file by then is no database.
    """
    writer = BoltWriter(file)
    newest = 0

    def revisions() -> Iterator[Pair]:
        nonlocal newest
        key = b""
        for key, value in tables.scan(REVISIONS, b"", None):
            if len(key) == TOMBSTONE_KEY_SIZE:
                yield (
                    b"%b_%b%b" % (key[:8], key[8:16], TOMBSTONE_MARK),
                    value[: key_span(value)[1]],
                )
            else:
                yield b"%b_%b" % (key[:8], key[8:]), value
        newest = decode_revision_key(key)[0] if key else 0

    writer.bucket(schema.KEY, revisions())
    writer.bucket(schema.LEASE, _leases(tables))
    writer.bucket(schema.ALARM, sorted((value, b"") for _, value in tables.scan(ALARMS, b"", None)))
    for name, pairs in _auth(tables).items():
        writer.bucket(name, pairs)
    writer.bucket(schema.META, sorted(_meta(tables, newest).items()))
    writer.bucket(schema.MEMBERS, sorted(map(schema.member_pair, load_members(tables))))
    for name in schema.EMPTY_BUCKETS:
        writer.bucket(name, [])
    return writer.finish()


def _leases(tables: Readable) -> Iterator[Pair]:
    for key, value in tables.scan(LEASES, b"", None):
        lease_id, ttl_s, remaining_s = decode_lease(key, value)
        lease = Lease(ID=lease_id, TTL=ttl_s, RemainingTTL=remaining_s)
        yield key, lease.SerializeToString()


def _auth(tables: Readable) -> dict[bytes, list[Pair]]:
    buckets: defaultdict[bytes, list[Pair]] = defaultdict(list)
    buckets.update({name: [] for name in schema.AUTH_BUCKETS})
    for key, value in tables.scan(AUTH, b"", None):
        bucket, name = schema.split_auth_key(key)
        buckets[bucket].append((name, value))
    return buckets


def _meta(tables: Readable, newest: int) -> dict[bytes, bytes]:
    """The meta bucket. `newest` is the newest main revision in bucket `key`."""
    applied = load_applied(tables) or SnapshotMeta()
    meta = {
        schema.CONSISTENT_INDEX: applied.index.to_bytes(8, "big"),
        schema.TERM: applied.term.to_bytes(8, "big"),
        schema.CONF_STATE: schema.conf_state_json(applied.conf_state),
        schema.STORAGE_VERSION_KEY: STORAGE_VERSION.encode(),
    }
    scheduled = load_meta(tables, META_SCHEDULED, NEVER)
    finished = load_meta(tables, META_FINISHED, NEVER)
    if newest < scheduled:
        # A restore raised the revision. Only from the finished revision does every release of etcd
        # learn how far the store had got; that some removal is left over costs it nothing but
        # space until its next compaction.
        finished = scheduled
    if scheduled != NEVER:
        meta[schema.SCHEDULED_COMPACT] = schema.etcd_revision(scheduled)
    if finished != NEVER:
        meta[schema.FINISHED_COMPACT] = schema.etcd_revision(finished)
    return meta
