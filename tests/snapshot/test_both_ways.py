"""Out to etcd's form and back: nothing that a client can see is lost, at any revision."""

from __future__ import annotations

import json

import pytest

from kvstore.apply.alarms import Alarms
from kvstore.bbolt.check import check
from kvstore.bbolt.reader import Database
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.lease_pb2 import Lease
from kvstore.snapshot import schema
from kvstore.snapshot.load import load
from kvstore.storage.backend import AUTH, LEASES, MEMBERS, META, REVISIONS
from kvstore.storage.memory_backend import MemoryBackend
from tests.mvcc.kv_member import KvMember, memory_member
from tests.snapshot.stores import (
    CORRUPT,
    NOSPACE,
    POSITION,
    buckets_of,
    exported,
    furnish,
    lived_in,
    view,
)


def reloaded(data: bytes, bump: int = 0) -> KvMember:
    """A member whose state comes from a database."""
    backend = MemoryBackend()
    load(Database(data), backend, bump)
    return KvMember(lambda _: backend)


@pytest.mark.parametrize("seed", range(25))
def test_there_and_back_again(seed: int) -> None:
    """Ranges at all revisions, history, HashKV, leases with their keys, alarms, users."""
    member = lived_in(seed)
    member.finish_compaction()
    furnish(member.backend)
    data = exported(member.backend)
    check(Database(data))
    again = reloaded(data)
    again.finish_compaction()
    assert view(again) == view(member)
    for table in (REVISIONS, LEASES, AUTH):
        assert list(again.backend.scan(table, b"", None)) == list(
            member.backend.scan(table, b"", None)
        )
    assert Alarms(again.backend).active() == [(9, NOSPACE), (0, CORRUPT)]
    assert list(again.backend.scan(MEMBERS, b"", None)) == []
    again.put(b"next")
    assert again.revision == member.revision + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_compaction_under_way_is_carried_on(seed: int) -> None:
    """Logically compacted, removed in part or not at all: reads are the same on both sides."""
    member = lived_in(seed)
    target = member.revision - 3
    if target > member.store.compact_revision:
        member.store.compact(target)
    member.store.compact_step(5)
    again = reloaded(exported(member.backend))
    assert view(again) == view(member)
    member.finish_compaction()
    again.finish_compaction()
    assert view(again) == view(member)


def test_the_buckets_are_etcd_s() -> None:
    member = memory_member()
    member.grant(0x1234)
    member.put(b"k", b"v", lease=0x1234)
    member.delete(b"k")
    furnish(member.backend)
    found = buckets_of(exported(member.backend))
    revision = b"\0\0\0\0\0\0\0%c_\0\0\0\0\0\0\0\0"
    assert sorted(found) == [
        b"alarm", b"auth", b"authRoles", b"authUsers", b"cluster",
        b"key", b"lease", b"members", b"members_removed", b"meta",
    ]  # fmt: skip
    assert list(found[b"key"]) == [revision % 2, revision % 3 + b"t"]
    stored, tombstone = found[b"key"].values()
    assert KeyValue.FromString(stored) == KeyValue(
        key=b"k", value=b"v", create_revision=2, mod_revision=2, version=1, lease=0x1234
    )
    assert tombstone == KeyValue(key=b"k").SerializeToString(), "a tombstone holds only its key"
    assert found[b"lease"] == {
        (0x1234).to_bytes(8, "big"): Lease(ID=0x1234, TTL=60).SerializeToString()
    }
    assert found[b"meta"] == {
        b"consistent_index": POSITION.index.to_bytes(8, "big"),
        b"term": POSITION.term.to_bytes(8, "big"),
        b"confState": b'{"voters":[1,9223372036854775808],"learners":[5],"auto_leave":false}',
        b"storageVersion": b"3.6.0",
    }
    assert found[b"auth"] == {b"authRevision": bytes(8)}
    assert found[b"authUsers"] == {b"u": b"U"}
    assert found[b"cluster"] == found[b"members_removed"] == found[b"authRoles"] == {}
    for key, value in found[b"members"].items():
        record = json.loads(value)
        assert b"%016x" % record["id"] == key
        assert record["peerURLs"] in (["http://a:1"], ["http://b:1", "http://b:2"])


def test_compact_revisions_are_in_the_meta_bucket() -> None:
    member = memory_member()
    for i in range(5):
        member.put(b"k", b"%d" % i)
    member.compact(4)
    member.store.compact(5)
    meta = buckets_of(exported(member.backend))[b"meta"]
    assert meta[b"finishedCompactRev"] == schema.etcd_revision(4)
    assert meta[b"scheduledCompactRev"] == schema.etcd_revision(5)


def test_a_revision_that_only_the_compaction_remembers_is_told_to_every_etcd() -> None:
    """After a bump no revision is as new as the store. etcd 3.5 takes over how far it had got only
    from a finished compaction, so the one that is not finished yet is told as if it were."""
    bumped = reloaded(exported(lived_in(2).backend), bump=1000)
    assert bumped.store.finished_compact_revision < bumped.revision
    meta = buckets_of(exported(bumped.backend))[b"meta"]
    assert meta[b"finishedCompactRev"] == schema.etcd_revision(bumped.revision)
    assert reloaded(exported(bumped.backend)).revision == bumped.revision


def test_a_bumped_revision_hides_all_that_was_before() -> None:
    member = lived_in(3)
    newest = member.revision
    live = member.range(b"\0", b"\0").kvs
    again = reloaded(exported(member.backend), bump=1_000_000)
    assert again.revision == again.store.compact_revision == newest + 1_000_000
    assert list(again.range(b"\0", b"\0").kvs) == list(live)
    again.finish_compaction()
    assert list(again.range(b"\0", b"\0").kvs) == list(live)
    assert len(list(again.backend.scan(REVISIONS, b"", None))) == len(live)
    again.put(b"next")
    assert again.revision == newest + 1_000_001


def test_an_empty_store_goes_there_and_back() -> None:
    member = memory_member()
    again = reloaded(exported(member.backend))
    assert view(again) == view(member)
    assert again.revision == 1
    assert again.backend.get(META, b"mvcc.scheduled_compact_revision") is None
