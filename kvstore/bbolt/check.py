"""Checks a whole database as bbolt's own `check` does, and a little harder.

Each page up to the high water mark is reachable once, or free, never both; keys ascend everywhere
(the reader sees to that). The price is one pass over all keys.
"""

from __future__ import annotations

from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.layout import BUCKET_FLAG
from kvstore.bbolt.page import Page
from kvstore.bbolt.reader import Bucket, Database, Visit

_UNSEEN, _REACHED, _FREE = range(3)


def check(database: Database) -> None:
    """Raise `BoltDamaged` at the first thing that is wrong."""
    marks = bytearray(database.meta.high_water)
    marks[0] = marks[1] = _REACHED

    def visit(page: Page) -> None:
        for number in range(page.number, page.number + page.pages):
            if marks[number] == _FREE:
                raise BoltDamaged(number, "it is in use and on the freelist")
            if marks[number] == _REACHED:
                raise BoltDamaged(number, "it is in use twice")
            marks[number] = _REACHED

    free = database.free_pages()
    if free is not None:
        visit(database.freelist_page())
    for number in free or ():
        if number >= len(marks) or marks[number] != _UNSEEN:
            raise BoltDamaged(database.meta.freelist, f"page {number} cannot be free")
        marks[number] = _FREE
    _walk(database.root, visit)
    if free is not None and _UNSEEN in marks:
        raise BoltDamaged(marks.index(_UNSEEN), "it is neither in use nor on the freelist")


def _walk(bucket: Bucket, visit: Visit) -> None:
    for page, elements in bucket.leaves(visit):
        for _, value, flags in elements:
            if flags & BUCKET_FLAG:
                _walk(bucket.nested(page, value), visit)
