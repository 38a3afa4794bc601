"""Who was created first, and who last before a revision: right whatever is written meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.mvcc.creation import created, first_created_steps, last_created_before_steps
from kvstore.mvcc.steps import SLICE_KEYS, Steps, drain
from tests.mvcc.kv_member import KvMember, memory_member

END = b"line0"
Search = Steps[bytes | None]


def key_of(number: int) -> bytes:
    return b"line/%04d" % number


def live(member: KvMember) -> list[tuple[int, bytes]]:
    """(creation revision, key) of the line's live keys, sorted."""
    kvs = member.range(b"line/", END).kvs
    return sorted((kv.create_revision, kv.key) for kv in kvs)


@settings(max_examples=80, deadline=None)
@given(
    history=st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=40),
    back=st.integers(0, 40),
)
def test_searches_agree_with_a_range(history: list[tuple[int, bool]], back: int) -> None:
    """CON-04, CON-05, CON-12: keys put again keep their place, those created anew go behind."""
    member = memory_member()
    member.put(b"line")
    member.put(END)
    for number, deletes in history:
        if deletes:
            member.delete(key_of(number))
        else:
            member.put(key_of(number))
    order = live(member)
    store = member.store
    assert drain(first_created_steps(store, b"line/", END)) == (order[0][1] if order else None)
    before = max(0, member.revision - back)
    older = [key for create, key in order if create < before]
    found = drain(last_created_before_steps(store, b"line/", END, before))
    assert found == (older[-1] if older else None)
    for create, key in order:
        assert created(store, key) == create
    assert created(store, b"line/none") == 0


KEYS = 3 * SLICE_KEYS


def searched(steps: Search, between: Callable[[int], None]) -> bytes | None:
    """Run a search, calling `between` after each slice with its number."""
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: bytes | None = end.value
            return found
        between(number)
        number += 1


@pytest.fixture
def line(member: KvMember) -> KvMember:
    """A line of more keys than three slices, created in the order of the keys."""
    for number in range(KEYS):
        member.put(key_of(number))
    return member


def test_the_first_is_first_when_the_search_ends(line: KvMember) -> None:
    """CON-12, CON-13: it is deleted and created anew while others are looked at."""

    def between(number: int) -> None:
        if number == 0:
            line.delete(key_of(0))
            line.put(key_of(0))

    found = searched(first_created_steps(line.store, b"line/", END), between)
    assert found == live(line)[0][1] == key_of(1)


def test_no_older_key_is_overlooked(line: KvMember) -> None:
    """CON-05: all but one go while the search is under way, and new ones come."""
    revision = line.revision + 1
    survivor = key_of(SLICE_KEYS + 7)

    def between(number: int) -> None:
        for n in range(number * SLICE_KEYS, (number + 1) * SLICE_KEYS):
            if key_of(n) != survivor:
                line.delete(key_of(n))
                line.put(key_of(n) + b"/new")

    search = last_created_before_steps(line.store, b"line/", END, revision)
    found = searched(search, between)
    assert found is not None
    assert created(line.store, survivor) < revision
    for n in range(2 * SLICE_KEYS, KEYS):
        line.delete(key_of(n))
    again = last_created_before_steps(line.store, b"line/", END, revision)
    assert drain(again) == survivor
    line.delete(survivor)
    assert drain(last_created_before_steps(line.store, b"line/", END, revision)) is None


def test_none_is_true_when_the_search_ends(line: KvMember) -> None:
    """CON-05: whoever came after the searcher does not count, wherever its key stands."""
    mine = line.put(b"line/mine").header.revision
    for n in range(KEYS):
        line.delete(key_of(n))
    for n in range(KEYS):
        line.put(key_of(n))
    search = last_created_before_steps(line.store, b"line/", END, mine)
    assert searched(search, lambda number: None) is None
    assert drain(first_created_steps(line.store, b"line/", END)) == b"line/mine"
