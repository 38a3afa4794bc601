"""Stores with a history, and what can be seen of them."""

from __future__ import annotations

import io
import random
from typing import Any

from kvstore.apply.alarms import Alarms
from kvstore.bbolt.reader import Database
from kvstore.membership.cluster import Cluster
from kvstore.node.member import store_applied
from kvstore.pb import rpc_pb2
from kvstore.snapshot import schema
from kvstore.snapshot.export import export
from kvstore.storage.backend import AUTH, LEASES, Backend, Readable
from raft import ConfState, SnapshotMeta
from tests.mvcc.kv_member import KvMember, delete_op, memory_member, put_op

NOSPACE, CORRUPT = rpc_pb2.NOSPACE, rpc_pb2.CORRUPT
POSITION = SnapshotMeta(1234, 7, ConfState(voters=(1, 1 << 63), learners=(5,)))


def lived_in(seed: int, steps: int = 120) -> KvMember:
    """A member with puts, deletes, transactions, leases and compactions behind it."""
    chance = random.Random(seed)
    member = memory_member()
    keys = [b"k%d" % i for i in range(12)] + [b"\0", b"\xff" * 300]
    leases = [1, 77, -5]
    for lease in leases:
        member.grant(lease)
    for _ in range(steps):
        key, other = chance.sample(keys, 2)
        match chance.randrange(8):
            case 0:
                member.delete(key, b"z" if chance.random() < 0.2 else b"")
            case 1:
                member.txn(success=[put_op(key, b"t"), delete_op(other), put_op(b"x" + key)])
            case 2 if member.revision > 8:
                target = member.revision - chance.randrange(6)
                if target > member.store.compact_revision:
                    member.store.compact(target)
                    if chance.random() < 0.7:
                        member.finish_compaction()
            case 3:
                member.put(key, bytes(chance.randrange(9000)), lease=chance.choice(leases))
            case _:
                member.put(key, b"%d" % chance.randrange(99))
    return member


def furnish(backend: Backend) -> None:
    """Add what a server keeps besides keys and leases: position, members, alarms, users."""
    store_applied(backend, POSITION)
    Cluster.bootstrap(backend, {"a": ("http://a:1",), "b": ("http://b:1", "http://b:2")}, "t")
    alarms = Alarms(backend)
    for member_id, alarm in ((0, CORRUPT), (9, NOSPACE)):
        action = rpc_pb2.AlarmRequest.ACTIVATE
        request = rpc_pb2.AlarmRequest(action=action, memberID=member_id, alarm=alarm)
        alarms.apply(request)
    for bucket, key, value in ((b"auth", b"authRevision", bytes(8)), (b"authUsers", b"u", b"U")):
        backend.put(AUTH, schema.auth_key(bucket, key), value)


def exported(tables: Readable) -> bytes:
    """The etcd database that a backend is exported to."""
    file = io.BytesIO()
    size = export(tables, file)
    assert size == len(file.getvalue())
    return file.getvalue()


def buckets_of(data: bytes) -> dict[bytes, dict[bytes, Any]]:
    """What is in a database."""
    return {name: dict(bucket.items()) for name, bucket in Database(data).buckets()}


def view(member: KvMember) -> dict[str, Any]:
    """Everything a client can ask about the key space, from the compact revision on."""
    store = member.store
    first = max(store.compact_revision, 1)
    return {
        "revision": store.revision,
        "compact revision": store.compact_revision,
        "ranges": [
            member.range(b"\0", b"\0", revision=revision).SerializeToString(deterministic=True)
            for revision in range(first, store.revision + 1)
        ],
        "history": store.events(first, store.revision + 1, 1_000_000),
        "hash": store.hash_kv(store.revision),
        "leases": list(member.backend.scan(LEASES, b"", None)),
        "attachments": {i: sorted(member.lessor.keys(i)) for i in member.lessor.ids()},
    }
