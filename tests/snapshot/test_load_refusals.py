"""Databases that are sound but not what etcd writes: an error that names bucket and key."""

from __future__ import annotations

import pytest

from kvstore.bbolt.reader import Database
from kvstore.mvcc.store import Store
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.lease_pb2 import Lease
from kvstore.snapshot.errors import SnapshotError
from kvstore.snapshot.load import load
from kvstore.snapshot.schema import MAX_REVISION, etcd_revision
from kvstore.storage.backend import AUTH, REVISIONS
from kvstore.storage.memory_backend import MemoryBackend
from tests.bbolt.databases import write

Buckets = dict[bytes, dict[bytes, bytes]]
REVISION = etcd_revision(2)
VALUE = KeyValue(key=b"k", create_revision=2, mod_revision=2, version=1).SerializeToString()


def loaded(buckets: Buckets, bump: int = 0) -> MemoryBackend:
    backend = MemoryBackend()
    load(Database(write({b"key": {}, b"meta": {}} | buckets)), backend, bump)
    return backend


@pytest.mark.parametrize(
    ("buckets", "text"),
    [
        ({b"key": {b"short": VALUE}}, "bucket 'key', key 73686f7274: a revision has 17 or 18"),
        ({b"key": {bytes(17): VALUE}}, "a revision is main, '_', sub"),
        ({b"key": {REVISION + b"x": VALUE}}, "a revision is main, '_', sub"),
        ({b"key": {b"\xff" + REVISION[1:]: VALUE}}, "a revision is not negative"),
        ({b"key": {REVISION: b"\xff\xff"}}, "bucket 'key', key 0000.*: Error parsing"),
        ({b"key": {REVISION: b"\x18\x02"}}, "the KeyValue has no key"),
        ({b"key": {etcd_revision(3): VALUE}}, "the KeyValue says mod_revision 2"),
        ({b"key": {etcd_revision(9): b""}}, "revision 9 is empty but not compacted"),
        ({b"meta": {b"finishedCompactRev": b"5"}}, "bucket 'meta', finishedCompactRev: a revis"),
        ({b"lease": {bytes(8): Lease(ID=7).SerializeToString()}}, "the lease says that its id is"),
        ({b"lease": {bytes(8): b"\xff"}}, "bucket 'lease', key 0000"),
        ({b"alarm": {b"\xff": b""}}, "bucket 'alarm', key ff"),
        ({b"authUsers": {bytes(502): b""}}, "bucket 'authUsers', key 00.*: a name of 502 bytes"),
    ],
)
def test_what_is_not_etcd_s_is_named(buckets: Buckets, text: str) -> None:
    with pytest.raises(SnapshotError, match=text):
        loaded(buckets)


def test_a_database_of_something_else_is_refused() -> None:
    with pytest.raises(SnapshotError, match="no snapshot of etcd"):
        load(Database(write({b"photos": {b"a": b"b"}})), MemoryBackend())


def test_a_bump_beyond_the_highest_revision_is_refused() -> None:
    with pytest.raises(SnapshotError, match="--bump-revision: revision 9223372036854775808 is"):
        loaded({b"key": {REVISION: VALUE}}, bump=MAX_REVISION - 1)
    loaded({b"key": {REVISION: VALUE}}, bump=MAX_REVISION - 2)


def test_buckets_that_old_releases_lack_are_not_missed() -> None:
    backend = loaded({b"key": {REVISION: VALUE}})
    assert Store(backend).revision == 2


def test_the_mark_of_etcdutl_s_bump_is_understood() -> None:
    """It puts an empty revision where the store shall be, and schedules a compaction up to it."""
    bumped = etcd_revision(1_000_000)
    backend = loaded(
        {b"key": {REVISION: VALUE, bumped: b""}, b"meta": {b"scheduledCompactRev": bumped}}
    )
    store = Store(backend)
    assert (store.revision, store.compact_revision) == (1_000_000, 1_000_000)
    assert store.get(b"k") == VALUE
    assert len(list(backend.scan(REVISIONS, b"", None))) == 1


def test_a_key_value_whose_fields_are_in_another_order_is_put_in_order() -> None:
    shuffled = VALUE[3:] + VALUE[:3]
    assert KeyValue.FromString(shuffled) == KeyValue.FromString(VALUE)
    assert Store(loaded({b"key": {REVISION: shuffled}})).get(b"k") == VALUE


def test_the_longest_user_name_is_kept() -> None:
    backend = loaded({b"authUsers": {b"u" * 501: b"U"}})
    assert backend.get(AUTH, b"authUsers\0" + b"u" * 501) == b"U"
