"""A range read in parts is the range read at once, whatever is written between the parts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore import errors
from kvstore.apply.kv import check_range_stream
from kvstore.errors import Code, EtcdError
from kvstore.mvcc import index as index_module
from kvstore.mvcc.range import PART_BYTES, Part, range_parts
from kvstore.mvcc.steps import SLICE_KEYS
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import RangeRequest, RangeResponse
from tests.mvcc.kv_member import ALL, KvMember, memory_member

KEYS = 2 * SLICE_KEYS + 5


def everything(**fields: int) -> RangeRequest:
    return RangeRequest(key=ALL, range_end=ALL, **fields)


def fill(member: KvMember, count: int, size: int = 3) -> None:
    for n in range(count):
        member.put(b"%05d" % n, b"x" * size)


def merged(parts: list[Part]) -> RangeResponse:
    """Put parts together as a client does, but for the header."""
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(not part.more and not part.count for part in parts[:-1])
    kvs = [KeyValue.FromString(value) for part in parts for value in part.key_values]
    return RangeResponse(kvs=kvs, more=parts[-1].more, count=parts[-1].count)


def at_once(member: KvMember, request: RangeRequest) -> RangeResponse:
    answer = member.ask(request)
    answer.ClearField("header")
    return answer


@pytest.mark.parametrize("count", [0, 1, SLICE_KEYS - 1, SLICE_KEYS, SLICE_KEYS + 1, KEYS])
@pytest.mark.parametrize("limit", [-1, 0, 1, SLICE_KEYS, SLICE_KEYS + 7, KEYS, KEYS + 1])
def test_the_parts_make_the_answer(member: KvMember, count: int, limit: int) -> None:
    """RST-03, RST-05: kvs in all, more and count in the last alone; count whatever the limit."""
    fill(member, count)
    for fields in ({}, {"keys_only": True}, {"revision": max(1, count // 2)}):
        request = everything(limit=limit, **fields)
        assert merged(list(range_parts(member.store, request))) == at_once(member, request)


@settings(max_examples=60, deadline=None)
@given(
    history=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40),
    start=st.integers(0, 13),
    end=st.integers(0, 13) | st.none(),
    limit=st.integers(-1, 14),
    back=st.integers(0, 20),
    count_only=st.booleans(),
)
def test_the_parts_make_the_answer_of_any_request(
    history: list[tuple[int, bool]],
    start: int,
    end: int | None,
    limit: int,
    back: int,
    count_only: bool,
) -> None:
    """RST-03..05, RST-07: at any revision, with keys deleted and made anew since."""
    member = memory_member()
    for number, deletes in history:
        if deletes:
            member.delete(b"%02d" % number)
        else:
            member.put(b"%02d" % number)
    request = RangeRequest(
        key=b"%02d" % start,
        range_end=b"" if end is None else b"%02d" % end,
        revision=max(0, member.revision - back),
        limit=limit,
        count_only=count_only,
    )
    assert merged(list(range_parts(member.store, request))) == at_once(member, request)


@pytest.mark.parametrize("past", [0, 10])
def test_what_is_written_between_parts_is_not_seen(member: KvMember, past: int) -> None:
    """RST-04: the revision is that of the first part."""
    fill(member, KEYS)
    request = everything(revision=member.revision - past) if past else everything()
    expected = at_once(member, request)
    parts = []
    for number, part in enumerate(range_parts(member.store, request)):
        parts.append(part)
        for place in (0, KEYS // 2, KEYS - 1):
            member.put(b"%05d" % place, b"new")
            member.put(b"%05d-%d" % (place, number), b"new")
        member.delete(b"%05d" % (KEYS - 2 - number))
    assert len(parts) > 2
    assert merged(parts) == expected


def test_a_compaction_past_the_revision_ends_it(member: KvMember) -> None:
    """RST-06: after what was sent; and the compaction is held up by nothing."""
    fill(member, KEYS)
    parts = range_parts(member.store, everything())
    first = next(parts)
    assert len(first.key_values) == SLICE_KEYS
    member.put(b"later", b"")
    member.compact(member.revision)
    member.finish_compaction()
    assert member.store.finished_compact_revision == member.revision
    with pytest.raises(EtcdError) as ended:
        next(parts)
    assert ended.value is errors.COMPACTED
    assert list(parts) == []


def test_a_compaction_at_the_revision_does_not_end_it(member: KvMember) -> None:
    """RST-06, RNG-10: the compact revision itself stays readable."""
    fill(member, KEYS)
    expected = at_once(member, everything())
    parts = range_parts(member.store, everything())
    seen = [next(parts)]
    member.compact(member.revision)
    member.finish_compaction()
    assert merged(seen + list(parts)) == expected


def test_a_compaction_ends_the_count_of_what_the_limit_cut_off(
    member: KvMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RST-05, RST-06: a count that must walk the index does so in slices too."""
    monkeypatch.setattr(index_module, "CHANGES_KEPT", 1)
    fill(member, KEYS)
    at = member.revision
    for n in range(3):
        member.put(b"later %d" % n)
    for request in (everything(revision=at, limit=1), everything(revision=at, count_only=True)):
        parts = range_parts(member.store, request)
        assert next(parts) == Part([])
        assert [part.count for part in parts][-1] == KEYS
    parts = range_parts(member.store, everything(revision=at, limit=1))
    next(parts)
    member.compact(member.revision)
    with pytest.raises(EtcdError) as ended:
        list(parts)
    assert ended.value is errors.COMPACTED


def test_a_part_holds_no_more_than_a_slice_and_one_value(member: KvMember) -> None:
    """RST-07: small values then large ones, so that no guess from the last ones helps."""
    fill(member, 300)
    large = 400_000
    for n in range(12):
        member.put(b"9%04d" % n, b"x" * large)
    parts = list(range_parts(member.store, everything()))
    assert max(sum(map(len, part.key_values)) for part in parts) < PART_BYTES + large + 100
    assert all(part.key_values for part in parts[:-1])
    assert merged(parts) == at_once(member, everything())


def test_count_only_is_one_part(member: KvMember) -> None:
    """RST-07: limit and keys_only change nothing."""
    fill(member, KEYS)
    for fields in ({}, {"limit": 3}, {"keys_only": True}):
        parts = list(range_parts(member.store, everything(count_only=True, **fields)))
        assert parts == [Part([], last=True, count=KEYS)]


@pytest.mark.parametrize(("revision", "error"), [(99, errors.FUTURE_REV), (2, errors.COMPACTED)])
def test_a_revision_that_cannot_be_read_is_refused(
    member: KvMember, revision: int, error: EtcdError
) -> None:
    """RST-01: as for Range."""
    fill(member, 5)
    member.compact(4)
    with pytest.raises(EtcdError) as refused:
        next(range_parts(member.store, everything(revision=revision)))
    assert refused.value is error


REFUSED: list[tuple[dict[str, int], str]] = [
    ({"sort_order": RangeRequest.DESCEND}, "RangeStream does not support custom sort orders"),
    (
        {"sort_order": RangeRequest.ASCEND, "sort_target": RangeRequest.MOD},
        "RangeStream does not support custom sort orders",
    ),
    ({"min_mod_revision": 1}, "RangeStream does not support revision filters"),
    ({"max_mod_revision": 1}, "RangeStream does not support revision filters"),
    ({"min_create_revision": -1}, "RangeStream does not support revision filters"),
    ({"max_create_revision": 1}, "RangeStream does not support revision filters"),
]


@pytest.mark.parametrize(("fields", "text"), REFUSED)
def test_other_orders_and_filters_are_unimplemented(fields: dict[str, int], text: str) -> None:
    """RST-02."""
    with pytest.raises(EtcdError) as refused:
        check_range_stream(everything(**fields))
    assert (refused.value.code, refused.value.message) == (Code.UNIMPLEMENTED, text)


def test_orders_that_are_the_natural_one_are_accepted() -> None:
    """RST-02: no order with any target, and ascending keys."""
    for target in RangeRequest.SortTarget.values():
        check_range_stream(everything(sort_target=target))
    check_range_stream(everything(sort_order=RangeRequest.ASCEND))


def test_key_and_sort_options_are_checked_as_for_a_range() -> None:
    """RST-01."""
    wrong = [
        (RangeRequest(range_end=ALL), errors.EMPTY_KEY),
        (everything(sort_order=7), errors.INVALID_SORT_OPTION),
        (everything(sort_target=7), errors.INVALID_SORT_OPTION),
    ]
    for request, error in wrong:
        with pytest.raises(EtcdError) as refused:
            check_range_stream(request)
        assert refused.value is error
