"""Loads an etcd database into an empty backend: what a restored member starts from.

Everything that clients see is kept: all revisions, leases, alarms, users and roles. What tells one
cluster from another (members, cluster version, log position) is left out; `datadir` gives a new
identity. The trade-off: every value is parsed although it is stored as it came, so that damage ends
a restore and not the server that is started from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from kvstore.apply.alarms import Alarms
from kvstore.bbolt.reader import Bucket, Database
from kvstore.lease.wire import encode_id, encode_lease
from kvstore.mvcc.compaction import META_SCHEDULED, NEVER, save_meta
from kvstore.mvcc.keyvalue import (
    TOMBSTONE_KEY_SIZE,
    decode_revision_key,
    encode_tombstone,
    mod_revision_field,
)
from kvstore.mvcc.store import FIRST_REVISION
from kvstore.pb import rpc_pb2
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.lease_pb2 import Lease
from kvstore.snapshot import schema
from kvstore.snapshot.errors import SnapshotError
from kvstore.storage.backend import AUTH, LEASES, MAX_KEY_BYTES, REVISIONS, Backend

COMMIT_BYTES: Final = 8 << 20
"""Bytes put before they are committed: bounds memory, whatever the size of the snapshot."""

_KEY_FIRST: Final = b"\n"
"""The tag of a KeyValue's first field; everywhere else here the key is taken to come first."""

Load = Callable[[Backend, bytes, bytes], None]


class Loaded(NamedTuple):
    """What was loaded, for whoever asked."""

    revision: int
    compact_revision: int
    """-1 if never compacted."""
    auth_enabled: bool


def load(database: Database, backend: Backend, bump: int = 0) -> Loaded:
    """Fill an empty backend; what is not committed on return is in its pending buffer.

    Args:
        bump: if > 0 the store's revision goes up by so much, and everything up to there counts as
            compacted, so that no client can take an older state for a newer one (etcdutl's
            ``--bump-revision`` with ``--mark-compacted``).

    Raises:
        SnapshotError: it is not an etcd database, or a key or value in it is not what it should be.
        BoltDamaged: its structure is damaged.
    """
    buckets = dict(database.buckets())
    if schema.KEY not in buckets or schema.META not in buckets:
        raise SnapshotError("it is no snapshot of etcd: it lacks the buckets 'key' and 'meta'")
    newest = _load_revisions(buckets[schema.KEY], backend)
    compacted = _compact_revision(buckets[schema.META])
    if newest.main > compacted and newest.is_mark:
        raise SnapshotError(
            f"bucket 'key': revision {newest.main} is empty but not compacted: a restore with"
            " --bump-revision was cut short"
        )
    revision = max(newest.main, compacted, FIRST_REVISION) + bump
    if revision > schema.MAX_REVISION:
        raise SnapshotError(f"--bump-revision: revision {revision} is above the highest possible")
    if bump:
        compacted = revision
    if compacted != NEVER:
        # Without META_FINISHED the first compaction looks at everything once: nothing is taken for
        # granted about what etcd has removed already.
        save_meta(backend, META_SCHEDULED, compacted)
    alarms = Alarms(backend)

    def load_alarm(_: Backend, key: bytes, value: bytes) -> None:
        alarm = rpc_pb2.AlarmMember.FromString(key)
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE)
        request.memberID, request.alarm = alarm.memberID, alarm.alarm
        alarms.apply(request)

    _load_bucket(buckets, schema.LEASE, backend, _load_lease)
    _load_bucket(buckets, schema.ALARM, backend, load_alarm)
    for name in schema.AUTH_BUCKETS:
        _load_bucket(buckets, name, backend, _auth_loader(name))
    bucket, key, value = schema.AUTH_ENABLED
    enabled = backend.get(AUTH, schema.auth_key(bucket, key)) == value
    return Loaded(revision, compacted, enabled)


class _Newest(NamedTuple):
    main: int
    is_mark: bool
    """The revision holds nothing: etcdutl wrote it to raise the store's revision."""


def _load_revisions(bucket: Bucket, backend: Backend) -> _Newest:
    main, is_mark = 0, False
    for page, elements in bucket.leaves():
        for stored, value, flags in elements:
            try:
                if flags:
                    raise ValueError("it is a bucket")
                key = schema.own_revision_key(stored)
                main = decode_revision_key(key)[0]
                is_mark = not value
                if value:
                    backend.put(REVISIONS, key, _key_value(key, main, value))
            except (ValueError, DecodeError) as error:
                raise SnapshotError(
                    f"page {page.number}, bucket 'key', key {stored.hex()}: {error}"
                ) from error
        if backend.pending_bytes >= COMMIT_BYTES:
            backend.commit()
    return _Newest(main, is_mark)


def _key_value(key: bytes, main: int, value: bytes) -> bytes:
    """Return the KeyValue to store. Raises ValueError, DecodeError."""
    message = KeyValue.FromString(value)
    if not message.key:
        raise ValueError("the KeyValue has no key")
    if len(key) == TOMBSTONE_KEY_SIZE:
        return encode_tombstone(message.key, mod_revision_field(main))
    if message.mod_revision != main:
        raise ValueError(f"the KeyValue says mod_revision {message.mod_revision}")
    if value.startswith(_KEY_FIRST):
        return value
    again: bytes = message.SerializeToString()
    return again


def _compact_revision(meta: Bucket) -> int:
    found = [NEVER]
    for key, value in meta.items():
        if key in (schema.SCHEDULED_COMPACT, schema.FINISHED_COMPACT) and isinstance(value, bytes):
            try:
                found.append(decode_revision_key(schema.own_revision_key(value))[0])
            except ValueError as error:
                raise SnapshotError(f"bucket 'meta', {key.decode()}: {error}") from error
    return max(found)


def _load_bucket(
    buckets: dict[bytes, Bucket], name: bytes, backend: Backend, load_pair: Load
) -> None:
    """Take one bucket, which older releases of etcd may not have."""
    if name not in buckets:
        return
    for key, value in buckets[name].items():
        try:
            if isinstance(value, Bucket):
                raise ValueError("it is a bucket")
            load_pair(backend, key, value)
        except (ValueError, DecodeError) as error:
            text = f"bucket {name.decode()!r}, key {key.hex()}: {error}"
            raise SnapshotError(text) from error
        if backend.pending_bytes >= COMMIT_BYTES:
            backend.commit()


def _load_lease(backend: Backend, key: bytes, value: bytes) -> None:
    lease = Lease.FromString(value)
    if encode_id(lease.ID) != key:
        raise ValueError(f"the lease says that its id is {lease.ID:x}")
    backend.put(LEASES, key, encode_lease(lease.TTL, lease.RemainingTTL))


def _auth_loader(bucket: bytes) -> Load:
    def load_pair(backend: Backend, key: bytes, value: bytes) -> None:
        stored = schema.auth_key(bucket, key)
        if len(stored) > MAX_KEY_BYTES:
            raise ValueError(f"a name of {len(key)} bytes: the most is {MAX_KEY_BYTES - 10}")
        backend.put(AUTH, stored, value)

    return load_pair
