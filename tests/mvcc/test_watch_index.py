"""The index against asking every watcher."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.mvcc.watch_index import WatchIndex, interval, prefix_end


@dataclass(eq=False)
class Item:
    key: bytes
    end: bytes | None


KEYS = st.lists(st.sampled_from([0, 1, 0x61, 0x62, 0xFE, 0xFF]), max_size=4).map(bytes)
SOME_KEYS = KEYS.filter(bool)


@st.composite
def items(draw: st.DrawFn) -> Item:
    key = draw(KEYS)
    ends = [b"", b"\x00", prefix_end(key) or b"\x00", draw(KEYS)]
    start, end = interval(key, draw(st.sampled_from(ends)))
    return Item(start, end)


@settings(max_examples=300, deadline=None)
@given(st.lists(items(), max_size=12), st.lists(SOME_KEYS, min_size=1, max_size=10), st.data())
def test_groups_hold_exactly_the_items_that_watch_the_key(
    watched: list[Item], keys: list[bytes], data: st.DataObject
) -> None:
    """WCH-07."""
    index: WatchIndex[Item] = WatchIndex()
    watched = [item for item in watched if item.end is None or item.key < item.end]
    for item in watched:
        index.add(item)
    gone = data.draw(st.sets(st.integers(0, 11)))
    for position, item in enumerate(watched):
        if position in gone:
            index.remove(item)
    present = [item for position, item in enumerate(watched) if position not in gone]
    for key in keys:
        found = [id(item) for group in index.groups(key) for item in group]
        expected = [
            id(item) for item in present if item.key <= key and (item.end is None or key < item.end)
        ]
        assert sorted(found) == sorted(expected)
    assert sorted(map(id, index)) == sorted(map(id, present))
    assert bool(index) == bool(present)


@pytest.mark.parametrize(
    ("key", "end"),
    [(b"a", b"a\x00"), (b"\x00", None), (b"a", b"b"), (b"\xff", None), (b"a", b"c"), (b"b", None)],
)
def test_removing_what_is_not_there_is_an_error(key: bytes, end: bytes | None) -> None:
    index: WatchIndex[Item] = WatchIndex()
    index.add(Item(key, end))
    with pytest.raises(KeyError):
        index.remove(Item(key, end))


@given(SOME_KEYS, KEYS)
def test_the_prefix_interval_holds_exactly_the_keys_with_the_prefix(
    prefix: bytes, rest: bytes
) -> None:
    end = prefix_end(prefix)
    assert prefix <= prefix + rest
    assert end is None or prefix + rest < end
    assert end is None or not end.startswith(prefix)
