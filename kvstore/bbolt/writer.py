"""Writes a bbolt database in one go, from sorted data, bottom-up.

Pages are only ever appended, full ones; the two meta pages at the front are written last, so a file
whose writing was cut short is no database. Memory is bounded by one buffer and one page for each
level of a tree, whatever the size. The trade-off: a bucket's pairs must come in order, one bucket
after the other, and nothing can be changed afterwards (bbolt itself can).

Every branch page gets at least two children: bbolt, when it later deletes from the file, relies on
that and panics otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import BinaryIO, Final

from kvstore.bbolt.errors import BoltRefused
from kvstore.bbolt.layout import (
    BRANCH,
    BRANCH_ELEMENT,
    BUCKET,
    BUCKET_FLAG,
    FREELIST,
    LEAF,
    LEAF_ELEMENT,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    META,
    PAGE,
    PAGE_BYTES,
    Meta,
    encode_meta,
)

BUFFER_BYTES: Final = 1 << 20
"""Pages collected before they go to the file in one write."""
INLINE_PART: Final = 4
"""A bucket that takes no more than one part in this many of a page is kept in its parent."""

_FREELIST_PAGE: Final = 2
_FIRST_PAGE: Final = 3
_MIN_CHILDREN: Final = 2
_TRANSACTION: Final = 2
_HEADER: Final = PAGE.size
_ELEMENT: Final = LEAF_ELEMENT.size


class BoltWriter:
    """One database while it is written: `bucket` for each bucket, then `finish`."""

    def __init__(self, file: BinaryIO, page_bytes: int = PAGE_BYTES) -> None:
        """Write to an empty file that can seek, which stays open.

        Args:
            page_bytes: a power of two from `layout.MIN_PAGE_BYTES` to `layout.MAX_PAGE_BYTES`.

        All methods raise what writing to the file raises.
        """
        self.page_bytes = page_bytes
        self._file = file
        self._buckets: dict[bytes, bytes] = {}
        self._next_page = _FIRST_PAGE
        self._buffer: list[bytes] = []
        self._buffered = 0
        file.seek(_FIRST_PAGE * page_bytes)

    def bucket(self, name: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Write one bucket. Its pairs come with strictly ascending keys, which are never empty.

        Raises:
            BoltRefused: keys out of order, or too long a key or value.
        """
        if not name or name in self._buckets:
            raise BoltRefused(f"bucket {name!r} is there already, or its name is empty")
        self._buckets[name] = self._tree(pairs, 0, self.page_bytes // INLINE_PART)

    def finish(self) -> int:
        """Write what makes the file a database and return its size in bytes, whole pages."""
        root, _ = BUCKET.unpack_from(self._tree(sorted(self._buckets.items()), BUCKET_FLAG, 0))
        self._flush()
        front = [self._front_page(_FREELIST_PAGE, FREELIST, b"")]
        for page in (1, 0):
            # The page with the odd number holds the odd transaction; both lead to the same root.
            transaction = _TRANSACTION - page
            meta = Meta(self.page_bytes, root, 0, _FREELIST_PAGE, self._next_page, transaction)
            front.insert(0, self._front_page(page, META, encode_meta(meta)))
        self._file.seek(0)
        self._file.write(b"".join(front))
        self._file.flush()
        return self._next_page * self.page_bytes

    def append(self, kind: int, count: int, content: bytes) -> int:
        """Write a page and what it needs of further pages; return its number."""
        number, page_bytes = self._next_page, self.page_bytes
        size = _HEADER + len(content)
        pages = -(-size // page_bytes)
        self._next_page += pages
        padding = bytes(pages * page_bytes - size)
        self._buffer += (PAGE.pack(number, kind, count, pages - 1), content, padding)
        self._buffered += pages * page_bytes
        if self._buffered >= BUFFER_BYTES:
            self._flush()
        return number

    def _flush(self) -> None:
        self._file.write(b"".join(self._buffer))
        self._buffer.clear()
        self._buffered = 0

    def _front_page(self, number: int, kind: int, content: bytes) -> bytes:
        return (PAGE.pack(number, kind, 0, 0) + content).ljust(self.page_bytes, b"\0")

    def _tree(self, pairs: Iterable[tuple[bytes, bytes]], flag: int, inline_bytes: int) -> bytes:
        """Write a bucket's tree and return the bucket's header, with its content if it is small."""
        level = _Level(self)
        page_bytes = self.page_bytes
        keys: list[bytes] = []
        values: list[bytes] = []
        used, last = _HEADER, b""
        for key, value in pairs:
            if key <= last:
                raise BoltRefused(f"key {key.hex()} does not come after {last.hex()}")
            size = len(key) + len(value)
            if size > MAX_KEY_BYTES:
                _check_size(key, value)
            size += _ELEMENT
            if used + size > page_bytes and keys:
                level.add(keys[0], self.append(LEAF, len(keys), _leaf(keys, values, flag)))
                keys, values, used = [], [], _HEADER
            keys.append(key)
            values.append(value)
            used += size
            last = key
        content = _leaf(keys, values, flag)
        if level.empty and used <= inline_bytes:
            return BUCKET.pack(0, 0) + PAGE.pack(0, LEAF, len(keys), 0) + content
        level.add(last if not keys else keys[0], self.append(LEAF, len(keys), content))
        return BUCKET.pack(level.finish(), 0)


class _Level:
    """The branch pages of one level of a tree, and through `_above` those of all higher ones.

    `_entries` are the children not written yet. The first `_full` of them fill a page (0: not
    even one page is full); they are kept until two more are there, so that whatever comes, the last
    page of the level can have two children too.
    """

    def __init__(self, writer: BoltWriter) -> None:
        self._writer = writer
        self._above: _Level | None = None
        self._entries: list[tuple[bytes, int]] = []
        self._used = _HEADER
        self._full = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet."""
        return not self._entries

    def add(self, key: bytes, page: int) -> None:
        """Take the next child: its first key and its page."""
        entries = self._entries
        size = BRANCH_ELEMENT.size + len(key)
        fits = self._used + size <= self._writer.page_bytes or len(entries) < _MIN_CHILDREN
        entries.append((key, page))
        if not self._full and fits:
            self._used += size
            return
        if not self._full:
            self._full = len(entries) - 1
        if len(entries) - self._full == _MIN_CHILDREN:
            self._write(self._full)
            left = self._entries
            self._used = _HEADER + sum(BRANCH_ELEMENT.size + len(key) for key, _ in left)
            self._full = 0

    def finish(self) -> int:
        """Write what is left of this level and all above it; return the root's page."""
        if self._above is None and len(self._entries) == 1:
            return self._entries[0][1]
        if self._full > _MIN_CHILDREN:
            self._write(self._full - 1)
        self._write(len(self._entries))
        assert self._above is not None
        return self._above.finish()

    def _write(self, count: int) -> None:
        """Write a page of the first `count` children."""
        children, self._entries = self._entries[:count], self._entries[count:]
        if self._above is None:
            self._above = _Level(self._writer)
        page = self._writer.append(BRANCH, count, _branch(children))
        self._above.add(children[0][0], page)


def _leaf(keys: Sequence[bytes], values: Sequence[bytes], flag: int) -> bytes:
    """Return the content of a leaf page."""
    fields: list[int] = []
    data: list[bytes] = []
    position = _ELEMENT * len(keys)
    for key, value in zip(keys, values, strict=True):
        key_size, value_size = len(key), len(value)
        fields += (flag, position, key_size, value_size)
        data += (key, value)
        position += key_size + value_size - _ELEMENT
    return struct.pack(f"<{len(fields)}I", *fields) + b"".join(data)


def _branch(children: Sequence[tuple[bytes, int]]) -> bytes:
    """Return the content of a branch page."""
    elements: list[bytes] = []
    position = BRANCH_ELEMENT.size * len(children)
    for key, page in children:
        elements.append(BRANCH_ELEMENT.pack(position, len(key), page))
        position += len(key) - BRANCH_ELEMENT.size
    return b"".join(elements) + b"".join(key for key, _ in children)


def _check_size(key: bytes, value: bytes) -> None:
    if len(key) > MAX_KEY_BYTES:
        raise BoltRefused(f"key of {len(key)} bytes: at most {MAX_KEY_BYTES}")
    if len(value) > MAX_VALUE_BYTES:
        raise BoltRefused(f"value of {len(value)} bytes: at most {MAX_VALUE_BYTES}")
