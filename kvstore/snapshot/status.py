"""What is in a snapshot file, as ``etcdutl snapshot status`` tells it, with the same hash."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import google_crc32c
from google.protobuf.message import DecodeError

from kvstore.bbolt.check import check
from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.layout import BUCKET_FLAG
from kvstore.bbolt.page import LeafElement
from kvstore.bbolt.reader import Bucket, Database
from kvstore.mvcc.keyvalue import TOMBSTONE_KEY_SIZE, decode_revision_key
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.snapshot import schema
from kvstore.snapshot.errors import SnapshotError

_VERSION: Final = re.compile(rb"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Status:
    """The facts about one snapshot file."""

    hash: int
    """CRC-32C over all buckets: each name, then all its keys and values."""
    revision: int
    """The newest main revision, 0 without any."""
    total_key: int
    """Keys that are there at that revision."""
    total_size: int
    """Bytes of the database, without what follows it in the file."""
    version: str
    """etcd's storage version ("3.6.0"), empty in files of etcd 3.5 and older."""


def status(database: Database) -> Status:
    """Check a whole snapshot and sum it up; holds its live keys in memory, as etcdutl does.

    Raises:
        SnapshotError: it is damaged, or no database of etcd.
    """
    checksum, revision, version = 0, 0, b""
    live: set[bytes] = set()
    try:
        check(database)
        for name, bucket in database.buckets():
            checksum = google_crc32c.extend(checksum, name)
            for page, elements in bucket.leaves():
                if any(flags & BUCKET_FLAG for _, _, flags in elements):
                    raise BoltDamaged(page.number, f"there is a bucket inside of bucket {name!r}")
                joined = b"".join([part for key, value, _ in elements for part in (key, value)])
                checksum = google_crc32c.extend(checksum, joined)
                if name == schema.KEY:
                    revision = _follow(elements, live, revision)
            if name == schema.META:
                version = _find(bucket, schema.STORAGE_VERSION_KEY)
    except BoltDamaged as error:
        raise SnapshotError(f"snapshot file integrity check failed: {error}") from error
    meta = database.meta
    return Status(
        checksum,
        revision,
        len(live),
        meta.high_water * meta.page_bytes,
        version.decode() if _VERSION.fullmatch(version) else "",
    )


def _follow(elements: list[LeafElement], live: set[bytes], revision: int) -> int:
    """Take a page of revisions into the set of live keys; return the newest revision."""
    for stored, value, _ in elements:
        try:
            own = schema.own_revision_key(stored)
            key = KeyValue.FromString(value).key
        except (ValueError, DecodeError) as error:
            raise SnapshotError(f"bucket 'key', key {stored.hex()}: {error}") from error
        revision = decode_revision_key(own)[0]
        if len(own) == TOMBSTONE_KEY_SIZE:
            live.discard(key)
        else:
            live.add(key)
    return revision


def _find(bucket: Bucket, key: bytes) -> bytes:
    return next((v for k, v in bucket.items() if k == key and isinstance(v, bytes)), b"")
