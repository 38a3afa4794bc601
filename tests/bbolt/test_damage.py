"""Damaged databases: an error that says what and where, never a crash, never without an end."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.bbolt.errors import BoltDamaged
from kvstore.bbolt.layout import (
    BRANCH,
    BRANCH_ELEMENT,
    FREELIST,
    LEAF,
    META,
    NO_FREELIST,
    PAGE,
    PAGE_BYTES,
    Meta,
    decode_meta,
    encode_meta,
)
from kvstore.bbolt.reader import MAX_DEPTH, Database
from kvstore.bbolt.writer import BoltWriter
from tests.bbolt.databases import inline_bucket, read, write

SMALL = write(
    {
        b"inline": {b"a": b"b"},
        b"tree": {b"%03d" % i: b"v" * 90 for i in range(40)},
        b"empty": {},
    },
    page_bytes=1024,
)
CONTENT = read(SMALL)


def test_every_flipped_byte_is_an_error_or_only_other_content() -> None:
    """Each byte of a small database inverted: no other exception, and the read always ends.

    Padding and one of two meta pages may be damaged without harm; a byte inside of a value is
    beyond what bbolt's pages can show.
    """
    outcomes = {"error": 0, "same": 0, "other": 0}
    for at in range(len(SMALL)):
        damaged = bytearray(SMALL)
        damaged[at] ^= 0xFF
        try:
            found = read(bytes(damaged))
        except BoltDamaged:
            outcomes["error"] += 1
        else:
            outcomes["same" if found == CONTENT else "other"] += 1
    assert all(outcomes.values()), outcomes


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=12))
def test_scattered_damage_is_an_error_or_readable(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(SMALL)
    for at, byte in changes:
        damaged[at] = byte
    try:
        found = read(bytes(damaged))
    except BoltDamaged as error:
        assert str(error)
    else:
        assert isinstance(found, dict)


@given(st.binary(max_size=3000))
def test_random_bytes_are_no_database(data: bytes) -> None:
    with pytest.raises(BoltDamaged, match="no valid meta page"):
        Database(data)


@pytest.mark.parametrize("size", [0, 10, 100, 1024, 3000, len(SMALL) - 1])
def test_a_file_cut_short_is_refused(size: int) -> None:
    with pytest.raises(BoltDamaged, match=r"cut short|too short"):
        Database(SMALL[:size])


def test_a_file_whose_writing_was_cut_short_is_refused() -> None:
    file = io.BytesIO()
    writer = BoltWriter(file)
    writer.bucket(b"b", ((b"%07d" % i, bytes(100)) for i in range(30_000)))
    assert len(file.getvalue()) > 2_000_000
    with pytest.raises(BoltDamaged, match="no valid meta page"):
        Database(file.getvalue())


def test_bytes_behind_the_last_page_are_left_alone() -> None:
    assert read(SMALL + bytes(32)) == CONTENT


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("page_bytes", [1024, 4096, 65536])
def test_one_valid_meta_page_is_enough(page: int, page_bytes: int) -> None:
    """Also page 1 alone, whose place depends on the page size that page 0 would have told."""
    content = {b"b": {b"k": b"v"}}
    damaged = bytearray(write(content, page_bytes))
    start = page * page_bytes + PAGE.size
    damaged[start : start + 64] = bytes(64)
    assert read(bytes(damaged)) == content


def test_the_newer_of_two_meta_pages_counts() -> None:
    data = bytearray(write({b"b": {b"k": b"v"}}))
    meta = decode_meta(bytes(data[PAGE.size : PAGE.size + 64]))
    assert isinstance(meta, Meta)
    for number, transaction in ((0, 8), (1, 9)):
        start = number * PAGE_BYTES + PAGE.size
        data[start : start + 64] = encode_meta(meta._replace(transaction=transaction))
    assert Database(bytes(data)).meta.transaction == 9


def database(*pages: tuple[int, int, bytes], root: int = 3, freelist: int = 2) -> bytes:
    """Pages 2 and on with these (kind, count, content), under valid meta pages."""
    high_water = 2 + len(pages)
    front = []
    for number in (0, 1):
        meta = encode_meta(Meta(1024, root, 0, freelist, high_water, 2 + number))
        front.append(PAGE.pack(number, META, 0, 0) + meta)
    rest = [
        PAGE.pack(number, kind, count, 0) + content
        for number, (kind, count, content) in enumerate(pages, 2)
    ]
    return b"".join(page.ljust(1024, b"\0") for page in (*front, *rest))


def branch(*children: tuple[bytes, int]) -> tuple[int, int, bytes]:
    """A branch page with these children."""
    elements, keys = b"", b""
    for left, (key, page) in zip(range(len(children), 0, -1), children, strict=True):
        elements += BRANCH_ELEMENT.pack(left * BRANCH_ELEMENT.size + len(keys), len(key), page)
        keys += key
    return BRANCH, len(children), elements + keys


def leaf(*keys: bytes, flag: int = 0, value: bytes = b"") -> tuple[int, int, bytes]:
    """A leaf page with these keys, all with the same value."""
    content = inline_bucket(dict.fromkeys(keys, value), flag)[16 + PAGE.size :]
    return LEAF, len(keys), content


NO_FREE = (FREELIST, 0, b"")


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        ([NO_FREE, branch((b"a", 3), (b"b", 3))], "page 3: it is in use twice"),
        ([NO_FREE, branch((b"a", 4), (b"b", 4)), leaf(b"a")], "page 4: it is in use twice"),
        ([NO_FREE, branch((b"a", 4), (b"b", 99)), leaf(b"a")], "page 99: outside of the file's 5"),
        ([NO_FREE, branch((b"a", 0))], "page 0: it is in use twice"),
        ([NO_FREE, branch()], "page 3: a branch page without children"),
        ([NO_FREE, branch((b"b", 4), (b"a", 5)), leaf(b"b"), leaf(b"a")], "does not come after"),
        ([NO_FREE, branch((b"b", 4)), leaf(b"a")], "page 4: keys are outside"),
        ([NO_FREE, branch((b"a", 4), (b"b", 5)), leaf(b"b"), leaf(b"c")], "page 4: keys are out"),
        ([NO_FREE, branch((b"a", 4)), leaf()], "page 4: a leaf page without elements"),
        ([NO_FREE, leaf(b"x", flag=1)], "page 3: 0 bytes are no bucket"),
        ([NO_FREE, leaf(b"x", flag=1, value=bytes(16))], "page 3: a bucket without root"),
        ([NO_FREE, leaf(b"x", flag=1, value=bytes(40))], "page 3: a bucket inside is not a leaf"),
        ([NO_FREE, leaf(b"x", flag=1, value=struct.pack("<QQ", 7, 0))], "page 7: outside"),
        ([NO_FREE, leaf(b"x", flag=1, value=struct.pack("<QQ", 3, 0))], "page 3: it is in use tw"),
        ([NO_FREE, leaf(b"x", flag=4)], "page 3: an element has unknown flags 0x4"),
        ([NO_FREE, (LEAF, 500, b"")], "page 3: 500 elements do not fit"),
        ([NO_FREE, (LEAF, 1, struct.pack("<IIII", 0, 2000, 1, 1))], "page 3: an element reaches"),
        ([NO_FREE, (BRANCH, 1, struct.pack("<IIQ", 16, 5000, 4))], "page 3: an element reaches"),
        ([NO_FREE, (0x20, 0, b"")], "page 3: neither a branch nor a leaf"),
        ([NO_FREE, leaf(), leaf()], "page 4: it is neither in use nor on the freelist"),
        ([(FREELIST, 1, struct.pack("<Q", 3)), leaf()], "page 3: it is in use and on the free"),
        ([(FREELIST, 1, struct.pack("<Q", 9)), leaf()], "page 2: page 9 cannot be free"),
        ([(FREELIST, 2, struct.pack("<QQ", 4, 4)), leaf(), leaf()], "page 4 cannot be free"),
        ([(FREELIST, 999, b""), leaf()], "page 2: a freelist of 999 pages does not fit"),
        ([(FREELIST, 0xFFFF, struct.pack("<Q", 1 << 62)), leaf()], "page 2: a freelist of 46116"),
        ([(LEAF, 0, b""), leaf()], "page 2: not a freelist page"),
    ],
)
def test_damage_is_named_with_its_page(pages: list[tuple[int, int, bytes]], text: str) -> None:
    with pytest.raises(BoltDamaged, match=text):
        read(database(*pages))


def test_reading_without_the_check_ends_too() -> None:
    """A page that is its own child: iteration alone must not run in circles."""
    looped = Database(database(NO_FREE, branch((b"a", 3))))
    with pytest.raises(BoltDamaged, match=f"more than {MAX_DEPTH} pages"):
        list(looped.root.items())


def test_buckets_nested_too_deeply_are_refused() -> None:
    value = inline_bucket({b"k": b"v"})
    for _ in range(MAX_DEPTH + 1):
        value = inline_bucket({b"b": value}, flag=1)
    data = database(NO_FREE, leaf(), root=3)
    found = Database(data)
    bucket = found.root
    page = found.page(3)
    with pytest.raises(BoltDamaged, match="buckets inside of each other"):  # noqa: PT012
        while True:
            bucket = bucket.nested(page, value)
            value = bucket_value(value)


def bucket_value(value: bytes) -> bytes:
    """The value of the only element of an inline bucket."""
    _, position, key_size, value_size = struct.unpack_from("<IIII", value, 32)
    start = 32 + position + key_size
    return value[start : start + value_size]


def test_a_value_where_a_bucket_belongs_is_named() -> None:
    with pytest.raises(BoltDamaged, match="b'x' in the root is a value"):
        list(Database(database(NO_FREE, leaf(b"x"))).buckets())


def test_without_a_freelist_no_page_counts_as_lost() -> None:
    """etcd's own files: it finds the free pages by looking at all others."""
    assert read(database(NO_FREE, leaf(), leaf(), freelist=NO_FREELIST)) == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"page_bytes": 1000}, "page size 1000"),
        ({"root": 0}, "root page 0"),
        ({"root": 50}, "root page 50"),
        ({"freelist": 50}, "freelist page 50"),
    ],
)
def test_a_meta_page_that_leads_nowhere_is_no_meta_page(change: dict[str, int], text: str) -> None:
    meta = Meta(1024, 3, 0, 2, 4, 2)._replace(**change)
    assert text in str(decode_meta(encode_meta(meta)))
