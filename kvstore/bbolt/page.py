"""One page of a bbolt database, every number in it checked before it is used.

What a page says about others (children, free pages) is handed out as it stands: whether these exist
is for `reader` to check.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.layout import BRANCH_ELEMENT, BUCKET_FLAG, LEAF_ELEMENT, LONG_FREELIST

LeafElement = tuple[bytes, bytes, int]
"""Key, value, flags; with `BUCKET_FLAG` the value is a bucket's header and perhaps its content."""

_PAGE_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Page:
    """A page as its header describes it."""

    number: int
    """Of an inline bucket's page: that of the leaf it lies in."""
    kind: int
    count: int
    pages: int
    """How many pages it takes, 1 without overflow; 0 for one that lies inside of another."""
    content: bytes
    """What follows the header, overflow included."""

    def leaf_elements(self, low: bytes = b"", high: bytes | None = None) -> list[LeafElement]:
        """Elements ascending by key; all keys lie in [low, high). Raises `BoltDamaged`."""
        content, end, at, last = self.content, len(self.content), 0, b""
        elements: list[LeafElement] = []
        table = self._table(LEAF_ELEMENT)
        for flags, position, key_size, value_size in LEAF_ELEMENT.iter_unpack(table):
            key_at = at + position
            value_at = key_at + key_size
            value_end = value_at + value_size
            if value_end > end:
                raise BoltDamaged(self.number, "an element reaches beyond the page")
            key = content[key_at:value_at]
            if key <= last:
                raise self._out_of_order(key, last)
            if flags > BUCKET_FLAG:
                raise BoltDamaged(self.number, f"an element has unknown flags {flags:#x}")
            elements.append((key, content[value_at:value_end], flags))
            last = key
            at += LEAF_ELEMENT.size
        if elements:
            self._check_bounds(elements[0][0], last, low, high)
        return elements

    def branch_elements(
        self, low: bytes = b"", high: bytes | None = None
    ) -> list[tuple[bytes, int]]:
        """First key and page of each child, at least one; as `leaf_elements` otherwise."""
        content, end, at, last = self.content, len(self.content), 0, b""
        elements: list[tuple[bytes, int]] = []
        for position, key_size, child in BRANCH_ELEMENT.iter_unpack(self._table(BRANCH_ELEMENT)):
            key_at = at + position
            if key_at + key_size > end:
                raise BoltDamaged(self.number, "an element reaches beyond the page")
            key = content[key_at : key_at + key_size]
            if key <= last:
                raise self._out_of_order(key, last)
            elements.append((key, child))
            last = key
            at += BRANCH_ELEMENT.size
        if not elements:
            raise BoltDamaged(self.number, "a branch page without children")
        self._check_bounds(elements[0][0], last, low, high)
        return elements

    def free_pages(self) -> tuple[int, ...]:
        """The numbers on a freelist page. Raises `BoltDamaged`."""
        count, at = self.count, 0
        if count == LONG_FREELIST:
            count, at = int.from_bytes(self.content[:_PAGE_ID_BYTES], "little"), _PAGE_ID_BYTES
        if at + count * _PAGE_ID_BYTES > len(self.content):
            raise BoltDamaged(self.number, f"a freelist of {count} pages does not fit on the page")
        return struct.unpack_from(f"<{count}Q", self.content, at)

    def _table(self, element: struct.Struct) -> bytes:
        size = self.count * element.size
        if size > len(self.content):
            raise BoltDamaged(self.number, f"{self.count} elements do not fit on the page")
        return self.content[:size]

    def _out_of_order(self, key: bytes, last: bytes) -> BoltDamaged:
        return BoltDamaged(self.number, f"key {_short(key)} does not come after {_short(last)}")

    def _check_bounds(self, first: bytes, last: bytes, low: bytes, high: bytes | None) -> None:
        if first < low or (high is not None and last >= high):
            raise BoltDamaged(self.number, "keys are outside of what the page above it promises")


def _short(key: bytes) -> str:
    """Damage can make a key as long as the file; its beginning says enough."""
    return key[:64].hex() + ("..." if len(key) > 64 else "")
