"""What a Range promises (semantics section 2), one story each."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.mvcc.store import FIRST_REVISION
from kvstore.pb.rpc_pb2 import RangeRequest, RangeResponse
from tests.mvcc.kv_member import ALL, KvMember

NONE, ASCEND, DESCEND = RangeRequest.NONE, RangeRequest.ASCEND, RangeRequest.DESCEND
KEY, VERSION, CREATE = RangeRequest.KEY, RangeRequest.VERSION, RangeRequest.CREATE
MOD, VALUE = RangeRequest.MOD, RangeRequest.VALUE


def keys_of(response: RangeResponse) -> list[bytes]:
    return [found.key for found in response.kvs]


def test_empty_store_has_revision_one(member: KvMember) -> None:
    """GEN-03: an empty store is at 1 and the first write makes 2."""
    assert member.revision == FIRST_REVISION == 1
    assert member.put(b"a").header.revision == 2


def test_header_revision_is_the_current_one(member: KvMember) -> None:
    """GEN-04, RNG-11: a read of the past still tells the revision of now."""
    member.put(b"a", b"1")
    member.put(b"b", b"2")
    assert member.range(b"a", revision=2).header.revision == 3
    assert member.range(ALL, ALL, revision=2).header.revision == 3


@pytest.mark.parametrize("range_end", [b"", b"z", b"\0"])
def test_empty_key_is_refused(member: KvMember, range_end: bytes) -> None:
    """RNG-01: an empty key is an error whatever the range end."""
    with pytest.raises(EtcdError) as refused:
        member.range(b"", range_end)
    assert refused.value is errors.EMPTY_KEY


def test_everything_is_zero_to_zero(member: KvMember) -> None:
    """RNG-01, RNG-30: from `\\0` on, all keys, whatever bytes they are made of."""
    names = [b"\0", b"\0\xff", b"a", b"\xff\xfe", b"\xff\xff\xff"]
    for name in names:
        member.put(name, name)
    response = member.range(ALL, ALL)
    assert [(found.key, found.value) for found in response.kvs] == [(n, n) for n in names]


def test_no_range_end_means_the_single_key(member: KvMember) -> None:
    """RNG-02: neighbours, a longer key among them, stay out."""
    for name in (b"a", b"a\0", b"aa", b"b"):
        member.put(name)
    assert keys_of(member.range(b"a")) == [b"a"]
    assert keys_of(member.range(b"a", sort_target=MOD)) == [b"a"]
    assert member.range(b"a", count_only=True).count == 1


def test_range_end_zero_means_from_key_on(member: KvMember) -> None:
    """RNG-03."""
    for name in (b"a", b"b", b"\xff"):
        member.put(name)
    assert keys_of(member.range(b"b", b"\0")) == [b"b", b"\xff"]


def test_interval_is_half_open_in_byte_order(member: KvMember) -> None:
    """RNG-04: start in, end out, bytes unsigned."""
    for name in (b"a", b"b", b"c", b"\x80"):
        member.put(name)
    assert keys_of(member.range(b"a", b"c")) == [b"a", b"b"]
    assert keys_of(member.range(b"c", b"\x81")) == [b"c", b"\x80"]


@pytest.mark.parametrize("range_end", [b"b", b"a", b"\0\0"])
@pytest.mark.parametrize("fields", [{}, {"count_only": True}, {"limit": 1}, {"sort_target": MOD}])
def test_inverted_interval_is_empty(
    member: KvMember, range_end: bytes, fields: dict[str, int]
) -> None:
    """RNG-05: no keys and no error."""
    member.put(b"a")
    member.put(b"b")
    response = member.range(b"b", range_end, **fields)
    assert (len(response.kvs), response.count, response.more) == (0, 0, False)
    assert response.header.revision == 3


def test_prefix_range_takes_all_keys_with_the_prefix(member: KvMember) -> None:
    """RNG-06: the end that clients compute, one past the prefix."""
    for name in (b"fo", b"foo", b"foo/a", b"foo\xff", b"fop"):
        member.put(name)
    assert keys_of(member.range(b"foo", b"fop")) == [b"foo", b"foo/a", b"foo\xff"]


def test_pages_in_key_order_meet_without_gap(member: KvMember) -> None:
    """RNG-07, KUB-02, KUB-03: the next page starts at the last key and a zero byte."""
    names = [b"k%02d" % n for n in range(7)]
    for name in reversed(names):
        member.put(name)
    pin, start, seen = member.revision, b"k", []
    while True:
        page = member.range(start, b"l", limit=3, revision=pin)
        assert page.count == len(names) - len(seen)
        seen += keys_of(page)
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"
        member.delete(names[-1])
        member.put(start + b"later")
    assert seen == names


@pytest.mark.parametrize("revision", [0, -1, -(1 << 63)])
def test_revision_zero_or_below_is_the_latest(member: KvMember, revision: int) -> None:
    """RNG-08."""
    member.put(b"a", b"1")
    member.put(b"a", b"2")
    assert member.range(b"a", revision=revision).kvs[0].value == b"2"
    assert member.range(ALL, ALL, revision=revision).kvs[0].value == b"2"


@pytest.mark.parametrize("range_end", [b"", b"z"])
def test_future_revision_is_refused(member: KvMember, range_end: bytes) -> None:
    """RNG-09, RNG-27: serializable or not."""
    member.put(b"a")
    for serializable in (False, True):
        with pytest.raises(EtcdError) as refused:
            member.range(b"a", range_end, revision=3, serializable=serializable)
        assert refused.value is errors.FUTURE_REV


@pytest.mark.parametrize("range_end", [b"", b"z"])
def test_compacted_revision_is_refused_and_the_border_is_not(
    member: KvMember, range_end: bytes
) -> None:
    """RNG-10."""
    for value in (b"1", b"2", b"3"):
        member.put(b"a", value)
    member.compact(3)
    with pytest.raises(EtcdError) as refused:
        member.range(b"a", range_end, revision=2)
    assert refused.value is errors.COMPACTED
    assert member.range(b"a", range_end, revision=3).kvs[0].value == b"2"


def test_historical_read_shows_the_state_of_then(member: KvMember) -> None:
    """RNG-11, DEL-06: keys deleted since are there, keys created since are not."""
    member.put(b"a", b"1")
    member.put(b"b", b"2")
    member.delete(b"a")
    member.put(b"c", b"4")
    member.put(b"b", b"5")
    then = member.range(ALL, ALL, revision=3)
    assert [(found.key, found.value) for found in then.kvs] == [(b"a", b"1"), (b"b", b"2")]
    assert then.count == 2
    assert member.keys(revision=4) == [b"b"]
    assert member.keys() == [b"b", b"c"]


@pytest.mark.parametrize("limit", [0, -1, 5, 6])
def test_limit_that_does_not_cut_leaves_more_false(member: KvMember, limit: int) -> None:
    """RNG-12, RNG-13: no limit, or one that is exactly reached."""
    for n in range(5):
        member.put(b"%d" % n)
    response = member.range(ALL, ALL, limit=limit)
    assert (len(response.kvs), response.more, response.count) == (5, False, 5)


@pytest.mark.parametrize("revision", [0, 6])
def test_limit_that_cuts_sets_more_and_keeps_the_count(member: KvMember, revision: int) -> None:
    """RNG-12..14, now and in the past."""
    for n in range(5):
        member.put(b"%d" % n)
    member.delete(b"5") if revision == 0 else member.delete(b"0", b"3")
    response = member.range(ALL, ALL, limit=2, revision=revision)
    assert keys_of(response) == [b"0", b"1"]
    assert (response.more, response.count) == (True, 5)


def test_count_ignores_filters_and_more_does_not(member: KvMember) -> None:
    """RNG-13, RNG-14, RNG-16: filters come before the limit."""
    for n in range(5):
        member.put(b"%d" % n)
    response = member.range(ALL, ALL, min_mod_revision=3, max_mod_revision=5, limit=2)
    assert (keys_of(response), response.more, response.count) == ([b"1", b"2"], True, 5)
    response = member.range(ALL, ALL, min_mod_revision=3, max_mod_revision=4, limit=2)
    assert (keys_of(response), response.more, response.count) == ([b"1", b"2"], False, 5)


def test_count_only_ignores_everything_else(member: KvMember) -> None:
    """RNG-15."""
    for n in range(5):
        member.put(b"%d" % n)
    response = member.range(
        ALL, ALL, count_only=True, limit=1, min_mod_revision=99, sort_order=DESCEND, keys_only=True
    )
    assert (len(response.kvs), response.more, response.count) == (0, False, 5)


def test_filters_are_inclusive_and_all_must_hold(member: KvMember) -> None:
    """RNG-16: modification and creation revisions, also as they were in the past."""
    for name in (b"a", b"b", b"c"):
        member.put(name)
    member.put(b"a")
    assert keys_of(member.range(ALL, ALL, min_mod_revision=4)) == [b"a", b"c"]
    assert keys_of(member.range(ALL, ALL, max_mod_revision=4)) == [b"b", b"c"]
    assert keys_of(member.range(ALL, ALL, min_create_revision=3)) == [b"b", b"c"]
    assert keys_of(member.range(ALL, ALL, max_create_revision=2)) == [b"a"]
    assert keys_of(member.range(ALL, ALL, min_mod_revision=4, max_create_revision=3)) == [b"a"]
    assert keys_of(member.range(b"a", max_mod_revision=4)) == []
    assert member.range(b"a", max_mod_revision=4).count == 1
    then = member.range(ALL, ALL, revision=4, max_mod_revision=2, max_create_revision=2)
    assert keys_of(then) == [b"a"]


@pytest.fixture
def sortable(member: KvMember) -> KvMember:
    """Keys a, b, c whose creation, modification, version and value orders all differ.

    a: create 4, mod 5, version 2, value y. b: create 2, mod 7, version 3, value x.
    c: create 3, mod 3, version 1, value z.
    """
    for name, value in (
        (b"b", b""),
        (b"c", b"z"),
        (b"a", b""),
        (b"a", b"y"),
        (b"b", b""),
        (b"b", b"x"),
    ):
        member.put(name, value)
    return member


@pytest.mark.parametrize(
    ("target", "ascending"),
    [(KEY, b"abc"), (VERSION, b"cab"), (CREATE, b"bca"), (MOD, b"cab"), (VALUE, b"bac")],
)
@pytest.mark.parametrize("past", [False, True])
def test_sorts_by_every_target_in_every_order(
    sortable: KvMember, target: RangeRequest.SortTarget, ascending: bytes, past: bool
) -> None:
    """RNG-17..20, RNG-22: NONE sorts ascending; the limit cuts after sorting."""
    revision = 0
    if past:
        revision = sortable.revision
        for name in (b"c", b"a", b"b", b"a"):
            sortable.put(name, b"later")
    for order in (NONE, ASCEND, DESCEND):
        expected = ascending if order != DESCEND else ascending[::-1]
        for limit in (0, 1, 2):
            response = sortable.range(
                ALL, ALL, sort_target=target, sort_order=order, limit=limit, revision=revision
            )
            assert b"".join(keys_of(response)) == expected[: limit or 3]
            assert (response.more, response.count) == (limit > 0, 3)


def test_equal_sort_keys_stay_in_key_order(member: KvMember) -> None:
    """RNG-21: in DESCEND too."""
    for name in (b"c", b"a", b"b"):
        member.put(name, b"same")
    for target in (VERSION, VALUE):
        for order in (ASCEND, DESCEND):
            response = member.range(ALL, ALL, sort_target=target, sort_order=order)
            assert keys_of(response) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("field", ["sort_order", "sort_target"])
def test_unknown_sort_option_is_refused(member: KvMember, field: str) -> None:
    """RNG-22."""
    for number in (-1, 9):
        with pytest.raises(EtcdError) as refused:
            member.range(b"a", **{field: number})
        assert refused.value is errors.INVALID_SORT_OPTION


@pytest.mark.parametrize("range_end", [b"", b"z"])
def test_keys_only_keeps_all_but_the_value(member: KvMember, range_end: bytes) -> None:
    """RNG-23: the lease is there, as up to 3.6."""
    member.grant(7)
    member.put(b"a", b"1")
    member.put(b"a", b"long value", lease=7)
    (found,) = member.range(b"a", range_end, keys_only=True).kvs
    assert (found.key, found.value, found.version, found.lease) == (b"a", b"", 2, 7)
    assert (found.create_revision, found.mod_revision) == (2, 3)


def test_keys_only_sorted_by_value_sorts_by_real_values(sortable: KvMember) -> None:
    """RNG-24."""
    response = sortable.range(ALL, ALL, keys_only=True, sort_target=VALUE)
    assert keys_of(response) == [b"b", b"a", b"c"]
    assert [found.value for found in response.kvs] == [b""] * 3


@pytest.mark.parametrize("range_end", [b"", b"z"])
def test_missing_key_is_success(member: KvMember, range_end: bytes) -> None:
    """RNG-25: the reply carries the current revision."""
    member.put(b"a")
    response = member.range(b"b", range_end)
    assert (len(response.kvs), response.count, response.header.revision) == (0, 0, 2)


def test_key_value_has_all_fields(member: KvMember) -> None:
    """RNG-30: negative lease ids and empty values included."""
    member.grant(-5)
    member.put(b"a", b"1")
    member.put(b"a", b"", lease=-5)
    (found,) = member.range(b"a").kvs
    assert (found.key, found.value, found.version, found.lease) == (b"a", b"", 2, -5)
    assert (found.create_revision, found.mod_revision) == (2, 3)


def test_reads_change_nothing(member: KvMember) -> None:
    """RNG-28: no revision, no event, nothing to write."""
    member.put(b"a")
    member.backend.commit()
    member.range(ALL, ALL, sort_target=VALUE)
    member.range(b"a", revision=2)
    assert (member.revision, len(member.events)) == (2, 1)
    assert member.backend.pending_ops == 0
