"""What watchers read back: `Store.events`."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from tests.mvcc.kv_member import ALL, KvMember, delete_op, put_op


def test_history_equals_what_was_announced(member: KvMember) -> None:
    """WCH-11, WCH-20, WCH-22: same events, same order, previous values included."""
    member.put(b"a", b"1")
    member.txn(success=[put_op(b"b"), put_op(b"c"), delete_op(b"a")])
    member.put(b"a", b"2")
    member.put(b"a", b"3")
    member.txn(success=[put_op(b"a"), delete_op(b"b", b"d")])
    member.delete(ALL, ALL)
    for _ in range(2):
        assert member.store.events(1, member.revision + 1, 1000) == member.events
        member.backend.commit()


def test_start_is_inclusive_and_stop_exclusive(member: KvMember) -> None:
    for _ in range(6):
        member.put(b"a")
    assert [revision for revision, _ in member.store.events(3, 6, 1000)] == [3, 4, 5]
    assert member.store.events(3, 3, 1000) == []
    assert member.store.events(8, 3, 1000) == []
    assert member.store.events(8, 99, 1000) == []


def test_limits_cut_between_revisions(member: KvMember) -> None:
    """WCH-21, WCH-23: a revision is never split, and one always comes."""
    for n in range(4):
        member.txn(success=[put_op(b"a%d" % n, bytes(100)), put_op(b"b%d" % n, bytes(100))])
    two = member.store.events(2, 6, 2)
    assert [(revision, len(events)) for revision, events in two] == [(2, 2), (3, 2)]
    for max_bytes, revisions in ((1, 1), (220, 1), (250, 2), (10000, 4)):
        assert len(member.store.events(2, 6, 1000, max_bytes)) == revisions


def test_compacted_history_is_refused_and_the_border_is_not(member: KvMember) -> None:
    """WCH-14, WCH-15."""
    for _ in range(4):
        member.put(b"a")
    member.compact(4)
    with pytest.raises(EtcdError) as refused:
        member.store.events(3, 6, 1000)
    assert refused.value is errors.COMPACTED
    assert [revision for revision, _ in member.store.events(4, 6, 1000)] == [4, 5]


@pytest.mark.parametrize("removed", [False, True])
def test_previous_value_goes_with_the_revision_before(member: KvMember, removed: bool) -> None:
    """WCH-27, WCH-28: no previous value at the compact revision itself, one right after it."""
    member.put(b"a", b"1")
    member.put(b"b", b"1")
    member.put(b"a", b"2")
    member.put(b"a", b"3")
    member.delete(b"b")
    member.store.compact(4)
    if removed:
        member.finish_compaction()
    found = {revision: events[0][3:] for revision, events in member.store.events(4, 7, 1000)}
    assert found == {4: (0, 0), 5: (4, 0), 6: (3, 0)}
    assert member.store.value_at(3, 0) != b""
    assert (member.store.value_at(2, 0) == b"") == removed


def test_creation_has_no_previous_value(member: KvMember) -> None:
    """WCH-27: after a delete too."""
    member.put(b"a")
    member.delete(b"a")
    member.put(b"a")
    assert [event[0][3] for _, event in member.store.events(2, 5, 9)] == [0, 2, 0]


def test_history_survives_a_restart(member: KvMember) -> None:
    """What was announced before the crash and committed is read back equal."""
    member.put(b"a")
    member.txn(success=[put_op(b"b"), put_op(b"a")])
    member.delete(ALL, ALL)
    member.backend.commit()
    announced = list(member.events)
    member.put(b"lost")
    member.crash()
    assert member.revision == 4
    assert member.store.events(1, 99, 1000) == announced
