"""Which leases the leader writes down, when, and what that does to their renewals (LSE-24)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.lease import wire
from kvstore.lease.checkpoints import CHECKPOINT_BATCH, CHECKPOINT_INTERVAL_S
from kvstore.lease.lessor import Lessor
from kvstore.storage.memory_backend import MemoryBackend

ELECTION_S = 1.0


def leader(interval_s: float = CHECKPOINT_INTERVAL_S) -> Lessor:
    lessor = Lessor(MemoryBackend(), min_ttl=2, checkpoint_interval_s=interval_s)
    lessor.promote(0.0, ELECTION_S)
    return lessor


def test_a_long_lease_is_written_down_every_five_minutes_until_little_is_left() -> None:
    """LSE-24."""
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    now, written = 0.0, []
    while now < 1000:
        now += 1.0
        for lease_id, rest in lessor.checkpoints_due(now):
            lessor.checkpoint(lease_id, rest, now)
            written.append((now, rest))
    assert written == [(300.0, 700), (600.0, 400), (900.0, 100)]


def test_a_lease_of_five_minutes_is_never_written_down() -> None:
    """LSE-24."""
    lessor = leader()
    lessor.grant(1, 300, 0.0)
    assert lessor.checkpoints_due(299.0) == []


def test_by_default_nothing_is_written_down() -> None:
    """LSE-24: off unless the gate LeaseCheckpoint is on."""
    lessor = Lessor(MemoryBackend(), min_ttl=2)
    lessor.promote(0.0, ELECTION_S)
    lessor.grant(1, 10**6, 0.0)
    assert lessor.checkpoints_due(10.0**5) == []


def test_a_lease_renewed_just_now_waits_for_the_next_time() -> None:
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    lessor.renew(1, 300.0)
    assert lessor.checkpoints_due(300.0) == []
    assert lessor.checkpoints_due(599.0) == []
    assert lessor.checkpoints_due(600.0) == [(1, 700)]


def test_what_is_on_its_way_stands_against_a_renewal_until_it_is_settled() -> None:
    """LSE-24: applied or not."""
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    assert not lessor.is_checkpointed(1)
    lessor.checkpoints_due(300.0)
    assert lessor.is_checkpointed(1)
    mark = lessor.checkpoint_mark(1)
    lessor.checkpoint(1, 700, 300.0)
    lessor.checkpoint(1, 0, 301.0)
    lessor.settle_checkpoints(1, mark)
    assert not lessor.is_checkpointed(1)


def test_taking_back_an_older_checkpoint_does_not_settle_a_newer_one() -> None:
    """LSE-24: the newer one was proposed after the entry that took the older one back."""
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    lessor.checkpoints_due(300.0)
    mark = lessor.checkpoint_mark(1)
    lessor.checkpoint(1, 700, 300.0)
    assert lessor.checkpoints_due(600.0) == [(1, 400)]
    lessor.checkpoint(1, 0, 600.0)
    lessor.settle_checkpoints(1, mark)
    assert lessor.is_checkpointed(1)


def test_a_new_term_settles_what_the_old_one_handed_out() -> None:
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    lessor.checkpoints_due(300.0)
    lessor.demote()
    assert lessor.checkpoints_due(900.0) == []
    lessor.promote(901.0, ELECTION_S)
    assert not lessor.is_checkpointed(1)
    assert lessor.checkpoints_due(1200.0) == []
    assert lessor.checkpoints_due(1201.0) == [(1, 701)]


def test_a_lease_is_scheduled_once_however_often_it_is_taken_back() -> None:
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    for now in range(100):
        lessor.checkpoint(1, 0, float(now))
    assert lessor.checkpoints_due(500.0) == [(1, 500)]
    assert lessor.checkpoints_due(500.0) == []


def test_one_entry_holds_a_bounded_number_of_checkpoints() -> None:
    lessor = leader()
    for lease_id in range(1, CHECKPOINT_BATCH + 2):
        lessor.grant(lease_id, 1000, 0.0)
    assert len(lessor.checkpoints_due(300.0)) == CHECKPOINT_BATCH
    assert len(lessor.checkpoints_due(300.0)) == 1


def test_a_revoked_lease_is_passed_over_and_its_successor_keeps_its_own_time() -> None:
    lessor = leader()
    lessor.grant(1, 1000, 0.0)
    lessor.revoke(1)
    lessor.grant(1, 1000, 200.0)
    assert lessor.checkpoints_due(300.0) == []
    assert lessor.checkpoints_due(500.0) == [(1, 700)]


@pytest.mark.parametrize("lease_id", [5, -5])
def test_an_unknown_lease_is_not_checkpointed(lease_id: int) -> None:
    lessor = leader()
    lessor.settle_checkpoints(lease_id, 3)
    assert not lessor.is_checkpointed(lease_id)
    assert lessor.checkpoint_mark(lease_id) == 0


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 9_000_000_000))))
@settings(max_examples=50)
def test_checkpoints_come_back_from_the_log_as_they_were(pairs: list[tuple[int, int]]) -> None:
    assert wire.decode_checkpoints(wire.encode_checkpoints(pairs)) == pairs
