"""Databases for the tests: written into memory, read back into plain dicts."""

from __future__ import annotations

import io
from collections.abc import Mapping

from kvstore.bbolt.check import check
from kvstore.bbolt.layout import BUCKET, LEAF, LEAF_ELEMENT, PAGE, PAGE_BYTES
from kvstore.bbolt.reader import Bucket, Database
from kvstore.bbolt.writer import BoltWriter

Content = dict[bytes, "bytes | Content"]


def write(buckets: Mapping[bytes, Mapping[bytes, bytes]], page_bytes: int = PAGE_BYTES) -> bytes:
    """A database with these buckets, keys sorted here."""
    file = io.BytesIO()
    writer = BoltWriter(file, page_bytes)
    for name, pairs in buckets.items():
        writer.bucket(name, sorted(pairs.items()))
    size = writer.finish()
    assert size == len(file.getvalue())
    return file.getvalue()


def read(data: bytes) -> Content:
    """Everything in a database that passes the check, buckets inside of buckets too."""
    database = Database(data)
    check(database)
    return {name: content_of(bucket) for name, bucket in database.buckets()}


def content_of(bucket: Bucket) -> Content:
    """Everything in a bucket."""
    return {
        key: content_of(value) if isinstance(value, Bucket) else value
        for key, value in bucket.items()
    }


def inline_bucket(pairs: Mapping[bytes, bytes], flag: int = 0) -> bytes:
    """The value under which a leaf holds a small bucket."""
    elements, data = b"", b""
    for left, (key, value) in zip(range(len(pairs), 0, -1), sorted(pairs.items()), strict=True):
        position = left * LEAF_ELEMENT.size + len(data)
        elements += LEAF_ELEMENT.pack(flag, position, len(key), len(value))
        data += key + value
    return BUCKET.pack(0, 0) + PAGE.pack(0, LEAF, len(pairs), 0) + elements + data
