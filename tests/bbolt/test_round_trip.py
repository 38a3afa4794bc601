"""What is written is read again, whatever its sizes; and etcd's own tool finds nothing wrong."""

from __future__ import annotations

import json
import mmap
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.bbolt.check import check
from kvstore.bbolt.errors import BoltRefused
from kvstore.bbolt.layout import BRANCH, MAX_KEY_BYTES, PAGE
from kvstore.bbolt.page import Page
from kvstore.bbolt.reader import Database
from kvstore.bbolt.writer import BoltWriter
from tests.bbolt.databases import inline_bucket, read, write
from tests.e2e.etcdctl import distro_binary

names = st.binary(min_size=1, max_size=12)
keys = st.binary(min_size=1, max_size=40)
values = st.binary(max_size=60) | st.integers(0, 9000).map(lambda size: b"v" * size)
buckets = st.dictionaries(names, st.dictionaries(keys, values, max_size=60), max_size=12)


@settings(max_examples=150, deadline=None)
@given(buckets, st.sampled_from([1024, 4096, 16384]))
def test_what_is_written_is_read_again(
    content: dict[bytes, dict[bytes, bytes]], page_bytes: int
) -> None:
    assert read(write(content, page_bytes)) == content


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=60),
    st.sampled_from([1024, 4096]),
)
def test_every_branch_page_has_two_children(sizes: list[int], page_bytes: int) -> None:
    """Keys up to several pages long: a branch page then cannot hold two of them without overflow.
    bbolt panics when it deletes below a branch page with one child."""
    pairs = {i.to_bytes(4, "big") + bytes(size): b"" for i, size in enumerate(sizes)}
    data = write({b"b": pairs}, page_bytes)
    assert read(data) == {b"b": pairs}
    database = Database(data)
    for number in range(2, database.meta.high_water):
        own, kind, count, _ = PAGE.unpack_from(data, number * page_bytes)
        if own == number and kind == BRANCH:
            assert count >= 2


def test_a_hundred_thousand_keys(tmp_path: Path) -> None:
    """Enough for three levels of pages; read from a mapped file, and by etcdutl."""
    count = 100_000

    def pairs() -> Iterator[tuple[bytes, bytes]]:
        return ((b"%08d_%08d" % (0, i), b"value %d" % i) for i in range(count))

    path = tmp_path / "db"
    with path.open("w+b") as file:
        writer = BoltWriter(file)
        writer.bucket(b"numbers", pairs())
        writer.bucket(b"meta", [])
        size = writer.finish()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        database = Database(data)
        check(database)
        found = dict(database.buckets())
        assert all(a == b for a, b in zip(found[b"numbers"].items(), pairs(), strict=True))
        assert list(found[b"meta"].items()) == []
    status = etcdutl_status(path)
    assert status["totalSize"] == size
    assert status["totalKey"] == count


def etcdutl_status(path: Path) -> dict[str, int]:
    """What ``etcdutl snapshot status`` says, after its own check of all pages."""
    done = subprocess.run(
        [distro_binary("etcdutl"), "snapshot", "status", str(path), "--write-out=json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    status: dict[str, int] = json.loads(done.stdout)
    return status


@pytest.mark.parametrize("value_bytes", [0, 900, 5_000, 300_000])
def test_etcdutl_accepts_all_sizes_of_values(tmp_path: Path, value_bytes: int) -> None:
    pairs = {b"k%05d" % i: bytes([i % 251]) * value_bytes for i in range(300)}
    path = tmp_path / "db"
    path.write_bytes(write({b"one": pairs, b"empty": {}, b"small": {b"a": b"b"}, b"meta": {}}))
    assert etcdutl_status(path)["totalKey"] == 301


def test_a_database_without_buckets_is_empty() -> None:
    assert read(write({})) == {}


def test_the_same_content_gives_the_same_bytes() -> None:
    content = {b"b": {b"%d" % i: b"x" * i for i in range(200)}, b"a": {}}
    assert write(content) == write(content)


def test_small_buckets_are_kept_in_their_parent() -> None:
    """As bbolt does it: an etcd snapshot's nine small buckets cost no page each."""
    small = write({b"%d" % i: {b"key": b"value"} for i in range(9)})
    assert len(small) == 4 * 4096


def test_buckets_inside_of_buckets_are_read() -> None:
    """etcd has none, bbolt can: the innermost is reached through two inline ones."""
    inner = inline_bucket({b"k": b"v", b"l": b""})
    database = Database(write({b"outer": {b"x": b"y"}}))
    outer = next(bucket for _, bucket in database.buckets())
    middle = outer.nested(page_of(database), inline_bucket({b"in": inner}, flag=1))
    [(name, found)] = middle.items()
    assert name == b"in"
    assert not isinstance(found, bytes)
    assert list(found.items()) == [(b"k", b"v"), (b"l", b"")]


def page_of(database: Database) -> Page:
    return database.page(database.meta.root)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([(b"b", b""), (b"a", b"")], "key 61 does not come after 62"),
        ([(b"a", b""), (b"a", b"")], "key 61 does not come after 61"),
        ([(b"", b"")], "does not come after"),
        ([(bytes(MAX_KEY_BYTES + 1), b"")], "key of 32769 bytes: at most 32768"),
    ],
)
def test_what_bbolt_cannot_hold_is_refused(
    tmp_path: Path, pairs: list[tuple[bytes, bytes]], text: str
) -> None:
    with (tmp_path / "db").open("w+b") as file, pytest.raises(BoltRefused, match=text):
        BoltWriter(file).bucket(b"b", pairs)


def test_the_longest_key_is_written_and_read() -> None:
    content = {b"b": {bytes(MAX_KEY_BYTES): b"", b"short": b"x"}}
    assert read(write(content)) == content


def test_a_bucket_is_written_once(tmp_path: Path) -> None:
    with (tmp_path / "db").open("w+b") as file:
        writer = BoltWriter(file)
        writer.bucket(b"b", [])
        with pytest.raises(BoltRefused, match="there already"):
            writer.bucket(b"b", [])
