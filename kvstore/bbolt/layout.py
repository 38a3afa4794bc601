"""The byte layout of a bbolt database, version 2.

Only layouts live here. All numbers are little-endian (bbolt writes the machine's own order, which
is little-endian on every machine etcd is released for).

    file    pages of one size; pages 0 and 1 are meta pages, the valid one with the higher
            transaction id counts
    page    id u64 | flags u16 | count u16 | overflow u32, then its content; `overflow` further
            pages belong to it
    meta    magic u32 | version u32 | page size u32 | flags u32 | root bucket | freelist page u64 |
            high water mark u64 (pages from there on are not in use) | transaction id u64 |
            FNV-1a over all of this, u64
    branch  `count` times: position u32 | key size u32 | child page u64; then the keys
    leaf    `count` times: flags u32 | position u32 | key size u32 | value size u32; then key and
            value of each
    free    `count` page numbers u64; with count 0xFFFF the first number is the real count
    bucket  root page u64 | sequence u64; with root page 0 a whole leaf page follows (inline)

A position counts from the start of its own element. A leaf element with flag 1 is a bucket.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

MAGIC: Final = 0xED0CDAED
VERSION: Final = 2
PAGE_BYTES: Final = 4096
"""Page size of files written here, etcd's on most machines."""
MIN_PAGE_BYTES: Final = 1024
MAX_PAGE_BYTES: Final = 1 << 24
"""bbolt looks for the second meta page at page sizes in this range."""

BRANCH: Final = 0x01
LEAF: Final = 0x02
META: Final = 0x04
FREELIST: Final = 0x10
BUCKET_FLAG: Final = 0x01
NO_FREELIST: Final = (1 << 64) - 1
"""Freelist page of a database that keeps its free pages to itself (etcd's own setting)."""
LONG_FREELIST: Final = 0xFFFF

MAX_KEY_BYTES: Final = 32_768
MAX_VALUE_BYTES: Final = (1 << 31) - 2

PAGE: Final = struct.Struct("<QHHI")
BRANCH_ELEMENT: Final = struct.Struct("<IIQ")
LEAF_ELEMENT: Final = struct.Struct("<IIII")
BUCKET: Final = struct.Struct("<QQ")
_META: Final = struct.Struct("<IIII QQ QQQ")
_CHECKSUM: Final = struct.Struct("<Q")
META_BYTES: Final = _META.size + _CHECKSUM.size


class Meta(NamedTuple):
    """What a meta page says."""

    page_bytes: int
    root: int
    """Page of the root bucket."""
    sequence: int
    """Of the root bucket; nobody uses it."""
    freelist: int
    high_water: int
    """Number of pages, free ones included."""
    transaction: int


def fnv1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def encode_meta(meta: Meta) -> bytes:
    """Return a meta page's content (without the page header)."""
    body = _META.pack(MAGIC, VERSION, meta.page_bytes, 0, *meta[1:])
    return body + _CHECKSUM.pack(fnv1a(body))


def decode_meta(content: bytes) -> Meta | str:
    """Return what a meta page's content says, or in words why it is none."""
    if len(content) < META_BYTES:
        return "the file is too short for a meta page"
    magic, version, page_bytes, _flags, *rest = _META.unpack_from(content)
    if magic != MAGIC:
        return "it is no bbolt database (wrong magic number)"
    if version != VERSION:
        return f"format version {version} is not {VERSION}"
    if _CHECKSUM.unpack_from(content, _META.size)[0] != fnv1a(content[: _META.size]):
        return "the meta page does not match its checksum"
    meta = Meta(page_bytes, *rest)
    if page_bytes & (page_bytes - 1) or not MIN_PAGE_BYTES <= page_bytes <= MAX_PAGE_BYTES:
        return f"page size {page_bytes} is not a power of two from {MIN_PAGE_BYTES} on"
    if not 2 <= meta.root < meta.high_water:
        return f"root page {meta.root} is outside of the file's {meta.high_water} pages"
    if meta.freelist != NO_FREELIST and not 2 <= meta.freelist < meta.high_water:
        return f"freelist page {meta.freelist} is outside of the file's {meta.high_water} pages"
    return meta
