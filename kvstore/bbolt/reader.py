"""Reads a bbolt database out of memory (a mapped file, say), and trusts nothing in it.

Every number that leads elsewhere is checked before it is followed, keys must ascend through a whole
tree, and trees have a greatest depth: damage is a `BoltDamaged` that names the page, never a crash,
an endless loop or memory without bound. bbolt's pages have no checksums, so a changed byte *inside*
of a key or value cannot be seen here; for that a snapshot file has its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.layout import (
    BRANCH,
    BUCKET,
    BUCKET_FLAG,
    FREELIST,
    LEAF,
    MAX_PAGE_BYTES,
    META,
    META_BYTES,
    MIN_PAGE_BYTES,
    NO_FREELIST,
    PAGE,
    Meta,
    decode_meta,
)
from kvstore.bbolt.page import LeafElement, Page

MAX_DEPTH: Final = 64
"""Most pages and nested buckets below each other. No tree whose branch pages have two children or
more comes near that."""

Visit = Callable[[Page], None]


class Buffer(Protocol):
    """What a database is read from: `bytes`, or an `mmap` of a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> bytes: ...


class Database:
    """A database. Bytes behind its last page (a digest) are left alone.

    Attributes:
        meta: the meta page that counts.
        root: the bucket that holds all others.
    """

    def __init__(self, data: Buffer) -> None:
        """Find the valid meta page with the higher transaction id. Raises `BoltDamaged`."""
        self._data = data
        self.meta = _choose_meta(data)
        size = self.meta.high_water * self.meta.page_bytes
        if size > len(data):
            raise BoltDamaged(None, f"the file is cut short: {len(data)} bytes of at least {size}")
        self.root = Bucket(self, self.meta.root, None, 0)

    def page(self, number: int) -> Page:
        """Return a page by its number. Raises `BoltDamaged`."""
        meta = self.meta
        if not 0 <= number < meta.high_water:
            raise BoltDamaged(number, f"outside of the file's {meta.high_water} pages")
        start = number * meta.page_bytes
        own, kind, count, overflow = PAGE.unpack(self._data[start : start + PAGE.size])
        if own != number:
            raise BoltDamaged(number, f"it says that it is page {own}")
        if number + overflow >= meta.high_water:
            raise BoltDamaged(number, f"its {overflow} overflow pages reach beyond the file")
        end = start + (overflow + 1) * meta.page_bytes
        return Page(number, kind, count, overflow + 1, self._data[start + PAGE.size : end])

    def free_pages(self) -> tuple[int, ...] | None:
        """Return the numbers on the freelist, None when the file has none. Raises `BoltDamaged`."""
        if self.meta.freelist == NO_FREELIST:
            return None
        return self.freelist_page().free_pages()

    def freelist_page(self) -> Page:
        """Return the freelist's page; there must be one. Raises `BoltDamaged`."""
        page = self.page(self.meta.freelist)
        if page.kind != FREELIST:
            raise BoltDamaged(page.number, f"not a freelist page (kind {page.kind:#x})")
        return page

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """The buckets of the root, by name. Raises `BoltDamaged`."""
        for name, value in self.root.items():
            if isinstance(value, bytes):
                raise BoltDamaged(None, f"{name!r} in the root is a value, not a bucket")
            yield name, value


class Bucket:
    """One bucket: a tree of pages, or a leaf page inside of the bucket above."""

    __slots__ = ("_database", "_depth", "_inline", "_root")

    def __init__(self, database: Database, root: int, inline: Page | None, depth: int) -> None:
        self._database = database
        self._root = root
        self._inline = inline
        self._depth = depth

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Keys ascending, each with its value or with the bucket that it names.

        Raises `BoltDamaged`.
        """
        for page, elements in self.leaves():
            for key, value, flags in elements:
                yield key, self.nested(page, value) if flags & BUCKET_FLAG else value

    def leaves(self, visit: Visit | None = None) -> Iterator[tuple[Page, list[LeafElement]]]:
        """The leaf pages in the order of their keys; cheaper than `items` for many keys.

        Args:
            visit: called with every page of the tree before it is looked into.

        Raises `BoltDamaged`.
        """
        if self._inline is not None:
            return iter([(self._inline, self._inline.leaf_elements())])
        return self._below(self._root, b"", None, self._depth, visit)

    def _below(
        self, number: int, low: bytes, high: bytes | None, depth: int, visit: Visit | None
    ) -> Iterator[tuple[Page, list[LeafElement]]]:
        """The leaves at and below a page, whose keys must all lie in [low, high)."""
        page = self._database.page(number)
        if visit is not None:
            visit(page)
        if depth > MAX_DEPTH:
            raise BoltDamaged(number, f"more than {MAX_DEPTH} pages and buckets below each other")
        if page.kind == LEAF:
            elements = page.leaf_elements(low, high)
            if not elements and number != self._root:
                raise BoltDamaged(number, "a leaf page without elements")
            yield page, elements
        elif page.kind == BRANCH:
            children = page.branch_elements(low, high)
            ends = [*(key for key, _ in children[1:]), high]
            for (key, child), end in zip(children, ends, strict=True):
                yield from self._below(child, key, end, depth + 1, visit)
        else:
            raise BoltDamaged(number, f"neither a branch nor a leaf page (kind {page.kind:#x})")

    def nested(self, page: Page, value: bytes) -> Bucket:
        """Return the bucket that an element of one of this bucket's leaves holds as its value.

        Raises `BoltDamaged`.
        """
        depth = self._depth + 1
        if depth > MAX_DEPTH:
            raise BoltDamaged(page.number, f"more than {MAX_DEPTH} buckets inside of each other")
        if len(value) < BUCKET.size:
            raise BoltDamaged(page.number, f"{len(value)} bytes are no bucket")
        root, _sequence = BUCKET.unpack_from(value)
        if root:
            return Bucket(self._database, root, None, depth)
        if len(value) < BUCKET.size + PAGE.size:
            raise BoltDamaged(page.number, "a bucket without root and without content")
        _, kind, count, _ = PAGE.unpack_from(value, BUCKET.size)
        if kind != LEAF:
            raise BoltDamaged(page.number, f"a bucket inside is not a leaf page (kind {kind:#x})")
        content = value[BUCKET.size + PAGE.size :]
        return Bucket(self._database, 0, Page(page.number, kind, count, 0, content), depth)


def _choose_meta(data: Buffer) -> Meta:
    """Return the valid meta page with the higher transaction id."""
    first = _meta_at(data, 0, 0)
    if isinstance(first, Meta):
        second = _meta_at(data, first.page_bytes, 1)
        if isinstance(second, Meta) and second.transaction > first.transaction:
            return second
        return first
    # Without page 0 the page size, and so the place of page 1, has to be tried out.
    size = MIN_PAGE_BYTES
    while size <= MAX_PAGE_BYTES and size < len(data):
        second = _meta_at(data, size, 1)
        if isinstance(second, Meta) and second.page_bytes == size:
            return second
        size *= 2
    raise BoltDamaged(None, f"no valid meta page: {first}")


def _meta_at(data: Buffer, start: int, number: int) -> Meta | str:
    raw = data[start : start + PAGE.size + META_BYTES]
    if len(raw) < PAGE.size:
        return "the file is too short for a meta page"
    own, kind, _, _ = PAGE.unpack_from(raw)
    if own != number or kind != META:
        return "it is no bbolt database (page 0 is no meta page)"
    return decode_meta(raw[PAGE.size :])
