"""What a Txn promises (semantics section 6), one story each."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.apply.checks import MAX_NESTED_OPS
from kvstore.apply.kv import MAX_TXN_OPS, check_txn, is_read_only_txn, is_serializable_txn
from kvstore.errors import EtcdError
from kvstore.mvcc.store import PUT
from kvstore.pb.kv_pb2 import KeyValue
from kvstore.pb.rpc_pb2 import Compare, RangeRequest, RequestOp, TxnRequest
from tests.mvcc.kv_member import ALL, KvMember, delete_op, put_op, range_op, txn_op

EQUAL, GREATER, LESS, NOT_EQUAL = (
    Compare.EQUAL,
    Compare.GREATER,
    Compare.LESS,
    Compare.NOT_EQUAL,
)
NUMBERS = {
    "version": Compare.VERSION,
    "create_revision": Compare.CREATE,
    "mod_revision": Compare.MOD,
    "lease": Compare.LEASE,
}


def compare(key: bytes, field: str, result: int, wanted: int | bytes, **more: bytes) -> Compare:
    target = Compare.VALUE if field == "value" else NUMBERS[field]
    return Compare(key=key, target=target, result=result, **{field: wanted}, **more)


def holds(member: KvMember, *compares: Compare) -> bool:
    return member.txn(list(compares)).succeeded


def test_all_compares_must_hold_and_one_branch_runs(member: KvMember) -> None:
    """TXN-01: responses follow the taken branch one to one."""
    member.put(b"a", b"1")
    right = compare(b"a", "value", EQUAL, b"1")
    wrong = compare(b"a", "value", EQUAL, b"2")
    assert member.txn().succeeded
    taken = member.txn([right, right], [put_op(b"x"), range_op(b"a")], [put_op(b"y")])
    assert taken.succeeded
    kinds = [response.WhichOneof("response") for response in taken.responses]
    assert kinds == ["response_put", "response_range"]
    other = member.txn([right, wrong], [put_op(b"z")], [delete_op(b"x")])
    assert not other.succeeded
    assert other.responses[0].response_delete_range.deleted == 1
    assert member.keys() == [b"a"]


@pytest.mark.parametrize(
    ("field", "actual"),
    [("version", 2), ("create_revision", 2), ("mod_revision", 3), ("lease", 7)],
)
def test_numeric_targets_with_every_result(member: KvMember, field: str, actual: int) -> None:
    """TXN-02."""
    member.grant(7)
    member.put(b"a")
    member.put(b"a", lease=7)
    for wanted in (actual - 1, actual, actual + 1):
        assert holds(member, compare(b"a", field, EQUAL, wanted)) == (actual == wanted)
        assert holds(member, compare(b"a", field, NOT_EQUAL, wanted)) == (actual != wanted)
        assert holds(member, compare(b"a", field, GREATER, wanted)) == (actual > wanted)
        assert holds(member, compare(b"a", field, LESS, wanted)) == (actual < wanted)


def test_value_target_compares_bytes(member: KvMember) -> None:
    """TXN-02."""
    member.put(b"a", b"\x80")
    assert holds(member, compare(b"a", "value", EQUAL, b"\x80"))
    assert holds(member, compare(b"a", "value", GREATER, b"\x7f\xff"))
    assert holds(member, compare(b"a", "value", LESS, b"\x80\0"))
    assert not holds(member, compare(b"a", "value", NOT_EQUAL, b"\x80"))


def test_omitted_enums_are_version_equal(member: KvMember) -> None:
    """TXN-02: Patroni leaves `result` out."""
    member.put(b"a")
    assert holds(member, Compare(key=b"a", version=1))
    assert not holds(member, Compare(key=b"a", version=2))


def test_compare_without_its_value_compares_with_zero(member: KvMember) -> None:
    """TXN-03: nothing set, or the value of another target."""
    member.put(b"a")
    assert not holds(member, Compare(key=b"a", target=Compare.MOD))
    assert holds(member, Compare(key=b"b", target=Compare.MOD, version=5))
    assert holds(member, Compare(key=b"a", target=Compare.VALUE))


@pytest.mark.parametrize("field", sorted(NUMBERS))
@pytest.mark.parametrize("deleted", [False, True])
def test_missing_key_acts_as_zero(member: KvMember, field: str, deleted: bool) -> None:
    """TXN-04."""
    if deleted:
        member.put(b"a")
        member.delete(b"a")
    assert holds(member, compare(b"a", field, EQUAL, 0))
    assert holds(member, compare(b"a", field, LESS, 1))
    assert not holds(member, compare(b"a", field, NOT_EQUAL, 0))


@pytest.mark.parametrize("result", [EQUAL, GREATER, LESS, NOT_EQUAL])
@pytest.mark.parametrize("range_end", [b"", b"z"])
def test_missing_value_never_passes(member: KvMember, result: int, range_end: bytes) -> None:
    """TXN-05, TXN-06."""
    assert not holds(member, compare(b"a", "value", result, b"", range_end=range_end))


def test_compare_of_an_interval_needs_every_key(member: KvMember) -> None:
    """TXN-06: an empty interval acts like a missing key; `\\0` is "from key on"."""
    for name in (b"a", b"b", b"c"):
        member.put(name, b"v")
    member.put(b"c", b"w")
    assert holds(member, compare(b"a", "version", EQUAL, 1, range_end=b"c"))
    assert not holds(member, compare(b"a", "version", EQUAL, 1, range_end=b"\0"))
    assert holds(member, compare(b"a", "value", GREATER, b"u", range_end=b"\0"))
    assert holds(member, compare(b"x", "version", EQUAL, 0, range_end=b"z"))
    assert holds(member, compare(b"c", "version", EQUAL, 0, range_end=b"a"))


def test_nested_compare_sees_the_state_before_the_txn(member: KvMember) -> None:
    """TXN-07."""
    created = compare(b"a", "create_revision", GREATER, 0)
    response = member.txn(
        success=[put_op(b"a"), txn_op([created], [put_op(b"yes")], [put_op(b"no")])]
    )
    assert not response.responses[1].response_txn.succeeded
    assert member.keys() == [b"a", b"no"]


def test_ops_see_earlier_writes_of_the_txn(member: KvMember) -> None:
    """TXN-08: Ranges and prev_kv, count and historical reads too."""
    member.put(b"a", b"old")
    response = member.txn(
        success=[
            range_op(b"a"),
            put_op(b"b", b"new"),
            range_op(ALL, ALL),
            range_op(ALL, ALL, revision=2),
            delete_op(b"a", prev_kv=True),
            range_op(ALL, ALL, count_only=True),
            range_op(ALL, ALL, sort_target=RangeRequest.CREATE, sort_order=RangeRequest.DESCEND),
            delete_op(b"a", b"b", prev_kv=True),
        ]
    )
    before, _, after, past, deleted, count, by_create, again = response.responses
    assert [found.key for found in before.response_range.kvs] == [b"a"]
    assert [found.key for found in after.response_range.kvs] == [b"a", b"b"]
    assert [found.key for found in past.response_range.kvs] == [b"a"]
    assert past.response_range.count == 1
    assert deleted.response_delete_range.prev_kvs[0].value == b"old"
    assert count.response_range.count == 1
    assert [found.key for found in by_create.response_range.kvs] == [b"b"]
    assert again.response_delete_range.deleted == 0


@pytest.mark.parametrize(
    "ops",
    [
        [put_op(b"a"), put_op(b"a")],
        [put_op(b"a"), delete_op(b"a")],
        [delete_op(b"a"), put_op(b"a")],
        [delete_op(b"a", b"c"), put_op(b"b")],
        # TXN-10: a nested transaction counts with its parent and its siblings.
        [put_op(b"a"), txn_op(success=[put_op(b"a")])],
        [put_op(b"a"), txn_op(failure=[delete_op(b"a")])],
        [delete_op(b"a"), txn_op(success=[put_op(b"a")])],
        [txn_op(failure=[put_op(b"a")]), txn_op(success=[put_op(b"a")])],
        [txn_op(success=[put_op(b"a")]), txn_op(failure=[put_op(b"a")])],
        [txn_op(success=[delete_op(b"a")]), txn_op(success=[put_op(b"a")])],
        [txn_op(success=[txn_op(success=[put_op(b"a")])]), put_op(b"a")],
    ],
)
def test_writes_of_one_key_twice_are_refused_in_both_branches(
    member: KvMember, ops: list[RequestOp]
) -> None:
    """TXN-09, TXN-10: whichever branch would be taken."""
    for branches in ({"success": ops}, {"failure": ops}):
        with pytest.raises(EtcdError) as refused:
            member.txn(**branches)
        assert refused.value is errors.DUPLICATE_KEY
    assert member.revision == 1


@pytest.mark.parametrize(
    "ops",
    [
        [delete_op(b"a"), delete_op(b"a", b"c")],
        [put_op(b"c"), delete_op(b"a", b"c")],
        [put_op(b"a"), delete_op(b"c", b"a")],
        # A delete to the end of the key space meets no put.
        [put_op(b"b"), delete_op(b"a", b"\0")],
        [delete_op(b"a", b"\0"), put_op(b"b")],
        [txn_op(success=[put_op(b"a")], failure=[put_op(b"a")])],
        [txn_op(success=[put_op(b"a")], failure=[delete_op(b"a")])],
        [put_op(b"a"), range_op(b"a")],
    ],
)
def test_what_does_not_meet_is_legal(member: KvMember, ops: list[RequestOp]) -> None:
    """TXN-09, TXN-10: delete over delete, neighbours, and branches that exclude each other."""
    response = member.txn(success=ops)
    assert len(response.responses) == len(ops)


def test_a_put_and_a_later_nested_delete_of_one_revision_are_both_kept(member: KvMember) -> None:
    """TXN-10, TXN-17: what etcd lets through between siblings is stored in order."""
    member.txn(success=[txn_op(success=[put_op(b"a", b"1")]), txn_op(success=[delete_op(b"a")])])
    assert member.keys() == []
    assert [event[:2] for event in member.events[0][1]] == [(0, b"a"), (1, b"a")]
    assert member.store.events(2, 3, 9) == member.events
    member.put(b"a", b"2")
    member.compact(2)
    assert [event[0] for event in member.store.events(2, 3, 9)[0][1]] == [0, 1]
    member.backend.commit()
    member.crash()
    assert member.range(b"a").kvs[0].version == 1


def test_a_delete_and_a_put_of_one_revision_are_both_kept(member: KvMember) -> None:
    """TXN-09, PUT-02, WCH-27: a delete to the end of the key space may meet a put."""
    member.put(b"a", b"1")
    member.put(b"a", b"2")
    nested_put = txn_op(success=[put_op(b"a", b"3")])
    member.txn(success=[delete_op(ALL, ALL), nested_put, txn_op(success=[delete_op(b"a")])])
    (_, events) = member.events[-1]
    assert [event[0] for event in events] == [1, 0, 1]
    assert [event[3:] for event in events] == [(3, 0), (0, 0), (3, 0)]
    assert member.store.events(4, 5, 9) == member.events[-1:]
    member.txn(success=[put_op(b"a", b"4"), delete_op(b"a", ALL), range_op(ALL, ALL)])
    assert [event[3:] for event in member.events[-1][1]] == [(0, 0), (0, 0)]
    member.txn(success=[delete_op(ALL, ALL), put_op(b"a", b"5")])
    (found,) = member.range(b"a").kvs
    assert (found.create_revision, found.mod_revision, found.version) == (6, 6, 1)


def test_a_put_that_would_keep_what_the_txn_has_deleted_keeps_nothing(member: KvMember) -> None:
    """TXN-09, TXN-13, PUT-09: etcd's process ends on it; here all members write the same."""
    member.grant(1)
    member.put(b"a", b"old", lease=1)
    response = member.txn(
        success=[delete_op(ALL, ALL), put_op(b"a", ignore_value=True, ignore_lease=True)]
    )
    assert response.header.revision == 3
    (found,) = member.range(b"a").kvs
    assert (found.value, found.lease, found.version, found.create_revision) == (b"", 0, 1, 3)
    assert member.lessor.keys(1) == []


def test_op_count_limit(member: KvMember) -> None:
    """TXN-11: the longest of the three lists counts."""
    ops = [put_op(b"%d" % n) for n in range(MAX_TXN_OPS)]
    assert len(member.txn(success=ops).responses) == MAX_TXN_OPS
    guards = [Compare(key=b"a")] * (MAX_TXN_OPS + 1)
    for request in (
        TxnRequest(success=[*ops, put_op(b"one more")]),
        TxnRequest(failure=[*ops, put_op(b"one more")]),
        TxnRequest(compare=guards),
    ):
        with pytest.raises(EtcdError) as refused:
            member.run(request)
        assert refused.value is errors.TOO_MANY_OPS


def test_nested_txn_has_the_rest_of_the_budget() -> None:
    """TXN-11: the parent's budget minus the parent's maximum."""
    inner = txn_op(success=[range_op(b"a"), range_op(b"b")])
    check_txn(TxnRequest(success=[inner]), 3)
    check_txn(TxnRequest(success=[inner, range_op(b"c")]), 4)
    for request, budget in (
        (TxnRequest(success=[inner]), 2),
        (TxnRequest(success=[inner, range_op(b"c")]), 3),
        (TxnRequest(failure=[inner], compare=[Compare(key=b"a")] * 2), 3),
    ):
        with pytest.raises(EtcdError) as refused:
            check_txn(request, budget)
        assert refused.value is errors.TOO_MANY_OPS


def nested(levels: list[int]) -> TxnRequest:
    """So many operations on each level, each with all further levels; the last are Ranges."""
    if not levels:
        return TxnRequest()
    inner = range_op(b"a") if len(levels) == 1 else RequestOp(request_txn=nested(levels[1:]))
    return TxnRequest(success=[inner] * levels[0])


def test_nested_txns_within_the_budget_are_carried_out(member: KvMember) -> None:
    """TXN-11: two levels of 64 operations, and 45 levels of one."""
    member.put(b"a", b"1")
    for levels in ([64, 64], [1] * 45):
        response = member.run(nested(levels))
        for _ in levels[1:]:
            assert len(response.responses) == levels[0]
            response = response.responses[-1].response_txn
        assert response.responses[-1].response_range.kvs[0].value == b"1"


def test_all_nested_operations_together_are_limited(member: KvMember) -> None:
    """TXN-11: what the levels' budgets alone would let grow without end is refused."""
    check_txn(nested([15, 32, 32]))
    for levels in ([16, 32, 32], [32, 32, 32], [25, 25, 25, 25]):
        with pytest.raises(EtcdError) as refused:
            check_txn(nested(levels))
        assert refused.value is errors.TOO_MANY_OPS
    check_txn(nested([MAX_NESTED_OPS + 1]), MAX_NESTED_OPS + 1)


def test_op_without_a_request_is_refused(member: KvMember) -> None:
    """TXN-12."""
    with pytest.raises(EtcdError) as refused:
        member.txn(failure=[RequestOp()])
    assert refused.value is errors.KEY_NOT_FOUND


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (range_op(b""), errors.EMPTY_KEY),
        (range_op(b"a", sort_order=5), errors.INVALID_SORT_OPTION),
        (put_op(b""), errors.EMPTY_KEY),
        (put_op(b"a", b"v", ignore_value=True), errors.VALUE_PROVIDED),
        (put_op(b"a", lease=1, ignore_lease=True), errors.LEASE_PROVIDED),
        (delete_op(b""), errors.EMPTY_KEY),
        (txn_op([Compare()]), errors.EMPTY_KEY),
        (txn_op(failure=[put_op(b"")]), errors.EMPTY_KEY),
    ],
)
def test_structure_is_checked_in_the_branch_not_taken_too(
    member: KvMember, op: RequestOp, error: EtcdError
) -> None:
    """TXN-13, RNG-01."""
    with pytest.raises(EtcdError) as refused:
        member.txn(success=[put_op(b"x")], failure=[op])
    assert refused.value is error
    assert member.revision == 1


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (put_op(b"b", lease=9), errors.LEASE_NOT_FOUND),
        (put_op(b"b", ignore_value=True), errors.KEY_NOT_FOUND),
        (put_op(b"b", ignore_lease=True), errors.KEY_NOT_FOUND),
        (range_op(b"b", revision=99), errors.FUTURE_REV),
        (range_op(b"b", revision=6), errors.FUTURE_REV),
        (range_op(b"b", revision=2), errors.COMPACTED),
        (range_op(b"b", revision=-1), errors.COMPACTED),
    ],
)
def test_state_is_checked_on_the_taken_path_before_the_first_write(
    member: KvMember, op: RequestOp, error: EtcdError
) -> None:
    """TXN-13..16: a failing transaction leaves no trace, and the other branch does not matter.

    Revision 6 would exist if the Put before the Range counted (TXN-15).
    """
    for name in (b"a", b"b", b"c"):
        member.put(name, b"old")
    member.delete(b"b")
    member.compact(4)
    member.grant(1)
    assert member.revision == 5
    writes = [put_op(b"a", b"new", lease=1), delete_op(b"c")]
    before = (member.range(ALL, ALL), len(member.events))
    for nested in (op, txn_op(success=[op]), txn_op([Compare(key=b"a")], failure=[op])):
        with pytest.raises(EtcdError) as refused:
            member.txn(success=[*writes, nested])
        assert refused.value is error
        assert (member.range(ALL, ALL), len(member.events)) == before
        assert member.lessor.keys(1) == []
    unused = member.txn(success=[put_op(b"d")], failure=[op])
    assert unused.header.revision == 6


def test_negative_revision_is_the_latest_in_a_never_compacted_store(member: KvMember) -> None:
    """TXN-16: -1 is not below the compact revision -1, -2 is."""
    member.put(b"a", b"1")
    for more in ([], [put_op(b"x")]):
        response = member.txn(success=[range_op(b"a", revision=-1), *more])
        assert response.responses[0].response_range.kvs[0].value == b"1"
        with pytest.raises(EtcdError) as refused:
            member.txn(success=[range_op(b"a", revision=-2), *more])
        assert refused.value is errors.COMPACTED


def test_one_txn_is_one_revision(member: KvMember) -> None:
    """TXN-17: sub-revisions count up in execution order."""
    member.put(b"d")
    response = member.txn(
        success=[put_op(b"c"), txn_op(success=[put_op(b"a")]), delete_op(b"d"), put_op(b"b")]
    )
    assert response.header.revision == 3
    assert [event[1] for event in member.events[-1][1]] == [b"c", b"a", b"d", b"b"]
    assert {found.mod_revision for found in member.range(ALL, ALL).kvs} == {3}
    member.put(b"a")
    assert member.events[-1][1][0][3:] == (3, 1)
    assert KeyValue.FromString(member.store.value_at(3, 3)).key == b"b"


@pytest.mark.parametrize(
    "ops", [[], [range_op(b"a")], [delete_op(b"x", b"z")], [txn_op(success=[delete_op(b"x")])]]
)
def test_no_change_is_no_revision(member: KvMember, ops: list[RequestOp]) -> None:
    """TXN-18."""
    member.put(b"a")
    assert member.txn(success=ops).header.revision == 2
    assert (member.revision, len(member.events)) == (2, 1)


def test_failed_guard_with_empty_else_changes_nothing(member: KvMember) -> None:
    """TXN-18, KUB-09."""
    member.put(b"a")
    response = member.txn([compare(b"a", "mod_revision", EQUAL, 0)], [put_op(b"a", b"2")])
    assert (response.succeeded, list(response.responses)) == (False, [])
    assert response.header.revision == 2


def test_inner_headers_carry_only_the_revision(member: KvMember) -> None:
    """TXN-19, TXN-20: the new one from the first change on; a nested reply's header is empty."""
    member.put(b"a")
    response = member.txn(
        success=[
            range_op(b"a"),
            delete_op(b"missing"),
            put_op(b"b"),
            range_op(b"a"),
            delete_op(b"missing"),
            delete_op(b"a"),
            txn_op(success=[put_op(b"c")]),
        ]
    )
    inner = [getattr(r, r.WhichOneof("response")).header for r in response.responses]
    assert [header.revision for header in inner] == [2, 2, 3, 3, 3, 3, 0]
    assert all(len(header.ListFields()) <= 1 for header in inner)
    nested = response.responses[-1].response_txn
    assert nested.HasField("header")
    assert nested.responses[0].response_put.header.revision == 3


def test_kube_update_conflict_returns_the_current_object(member: KvMember) -> None:
    """KUB-10, KUB-11."""
    member.put(b"a", b"1")
    guard = compare(b"a", "mod_revision", EQUAL, 2)
    update = [guard], [put_op(b"a", b"2")], [range_op(b"a")]
    won = member.txn(*update)
    assert (won.succeeded, won.header.revision) == (True, 3)
    lost = member.txn(*update)
    assert not lost.succeeded
    assert lost.responses[0].response_range.kvs[0].mod_revision == 3
    member.delete(b"a")
    assert list(member.txn(*update).responses[0].response_range.kvs) == []


def test_read_only_is_ranges_only_in_both_branches() -> None:
    """TXN-21, TXN-23: any nested transaction goes through the log."""
    read = range_op(b"a")
    assert is_read_only_txn(TxnRequest(success=[read], failure=[read]))
    assert is_read_only_txn(TxnRequest(compare=[Compare(key=b"a")]))
    assert not is_read_only_txn(TxnRequest(success=[read], failure=[put_op(b"a")]))
    assert not is_read_only_txn(TxnRequest(failure=[delete_op(b"a")]))
    assert not is_read_only_txn(TxnRequest(success=[txn_op(success=[read])]))


def test_serializable_needs_all_ranges_and_at_least_one() -> None:
    """TXN-21, TXN-22: compares alone are served linearizable."""
    local, fresh = range_op(b"a", serializable=True), range_op(b"a")
    assert is_serializable_txn(TxnRequest(success=[local], failure=[local]))
    assert not is_serializable_txn(TxnRequest(success=[local], failure=[fresh]))
    assert not is_serializable_txn(TxnRequest(compare=[Compare(key=b"a")]))
    assert not is_serializable_txn(TxnRequest(success=[local, put_op(b"a")]))


def test_inner_ranges_follow_the_rules_of_range(member: KvMember) -> None:
    """TXN-24: limit, more, count, sort, filters, keys_only, in reading and writing ones."""
    for n in range(4):
        member.put(b"%d" % n, b"v")
    ops = [
        range_op(ALL, ALL, limit=2),
        range_op(ALL, ALL, sort_order=RangeRequest.DESCEND, limit=1, keys_only=True),
        range_op(ALL, ALL, min_mod_revision=4),
    ]
    for more in ([], [put_op(b"x")]):
        response = member.txn(success=[*ops, *more])
        first, last, filtered = (r.response_range for r in response.responses[:3])
        assert ([found.key for found in first.kvs], first.more) == ([b"0", b"1"], True)
        assert (first.count, last.count, filtered.count) == (4, 4, 4)
        assert (last.kvs[0].key, last.kvs[0].value) == (b"3", b"")
        assert [found.key for found in filtered.kvs] == [b"2", b"3"]


def test_read_only_txn_is_of_one_instant(member: KvMember) -> None:
    """TXN-25: header, guard and ranges agree."""
    member.put(b"a", b"1")
    response = member.txn([compare(b"a", "mod_revision", EQUAL, 2)], [range_op(b"a")])
    assert (response.succeeded, response.header.revision) == (True, 2)
    assert response.responses[0].response_range.header.revision == 2
    assert member.backend.pending_ops == 1
    assert member.events[0][1][0][0] == PUT
