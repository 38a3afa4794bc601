"""When a removed member ends: once enough of the others cannot forget that it was removed."""

from __future__ import annotations

from kvstore.node.retirement import STAY_LIMIT_S, STAY_S, TOLD_LIMIT_S, Retirement


def test_member_that_was_not_removed_stays() -> None:
    retirement = Retirement()
    assert not retirement.due([1, 2], 1e9)
    assert retirement.serves(1e9)
    assert not retirement.noticed


def test_removed_member_serves_for_a_second_and_ends_when_a_majority_knows() -> None:
    """CLU-11."""
    retirement = Retirement()
    retirement.applied(10.0)
    for teller in (2, 3):
        retirement.told(teller, 10.1)
    assert retirement.serves(10.0 + STAY_S / 2)
    assert not retirement.due([2, 3, 4], 10.0 + STAY_S / 2)
    assert retirement.due([2, 3, 4], 10.0 + STAY_S)
    assert not retirement.serves(10.0 + STAY_S)


def test_removed_member_stays_for_those_that_may_need_its_vote() -> None:
    retirement = Retirement()
    retirement.applied(10.0)
    retirement.told(2, 10.0)
    retirement.told(9, 10.0)  # no voter any more: it does not count
    assert not retirement.due([2, 3], 10.0 + STAY_S)
    retirement.told(3, 12.0)
    assert retirement.due([2, 3], 12.0)


def test_stay_is_bounded() -> None:
    retirement = Retirement()
    retirement.applied(10.0)
    assert not retirement.due([2], 10.0 + STAY_LIMIT_S - 0.1)
    retirement.applied(11.0)  # a second time, after a snapshot: changes nothing
    assert retirement.due([2], 10.0 + STAY_LIMIT_S)


def test_member_that_only_heard_of_its_removal_ends_soon() -> None:
    """Its list of voters may be stale: it does not wait for long."""
    retirement = Retirement()
    retirement.told(2, 10.0)
    assert not retirement.due([2, 3, 4], 10.0)
    assert retirement.due([2, 3, 4], 10.0 + TOLD_LIMIT_S)
    retirement.told(3, 10.2)
    assert retirement.due([2, 3, 4], 10.2)
