"""What leases promise, one story each; `test_lessor_model.py` plays them at random."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from kvstore import errors
from kvstore.errors import EtcdError
from kvstore.lease import lessor as lessor_module
from kvstore.lease import wire
from kvstore.lease.lessor import (
    EXPIRED_LIMIT,
    MAX_TTL_S,
    RENEW_EXPIRED,
    RENEW_UNKNOWN,
    REVOKE_RETRY_S,
    SPREAD_MIN_LEASES,
    SPREAD_PER_SECOND,
    Lessor,
)
from kvstore.storage.backend import LEASES
from kvstore.storage.memory_backend import MemoryBackend

ELECTION_TIMEOUT_S = 1.0


def new_lessor(backend: MemoryBackend | None = None) -> Lessor:
    lessor = Lessor(backend or MemoryBackend(), min_ttl=2)
    lessor.restore([])
    return lessor


def new_leader(now: float = 0.0) -> Lessor:
    lessor = new_lessor()
    lessor.promote(now, ELECTION_TIMEOUT_S)
    return lessor


def assert_raises(error: EtcdError, call: Callable[..., object], *args: object) -> None:
    with pytest.raises(EtcdError) as caught:
        call(*args)
    assert (caught.value.code, caught.value.message) == (error.code, error.message)


@pytest.mark.parametrize("lease_id", [1, -1, 2**63 - 1, -(2**63)])
def test_any_nonzero_id_is_used_as_given_and_survives_a_restart(lease_id: int) -> None:
    """LSE-01."""
    backend = MemoryBackend()
    assert new_lessor(backend).grant(lease_id, 60, 0.0) == 60
    restarted = new_lessor(backend)
    assert restarted.ids() == [lease_id]
    assert restarted.ttl(lease_id) == 60


def test_id_zero_must_be_picked_before_it_comes_here() -> None:
    """LSE-01."""
    assert_raises(errors.LEASE_NOT_FOUND, new_lessor().grant, 0, 60, 0.0)


class Draws:
    """Gives out prepared numbers."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def getrandbits(self, _bits: int, /) -> int:
        return self.numbers.pop(0)


def test_a_picked_id_is_positive_and_not_in_use() -> None:
    """LSE-01."""
    lessor = new_lessor()
    lessor.grant(7, 60, 0.0)
    assert lessor.pick_id(Draws(0, 7, 8)) == 8
    assert 0 < lessor.pick_id(random.Random(1)) < 2**63


def test_an_id_in_use_is_refused() -> None:
    """LSE-02."""
    lessor = new_lessor()
    lessor.grant(7, 60, 0.0)
    assert_raises(errors.LEASE_EXIST, lessor.grant, 7, 90, 0.0)
    assert lessor.ttl(7) == 60


def test_the_longest_ttl_is_granted_and_one_more_is_refused() -> None:
    """LSE-02."""
    lessor = new_lessor()
    assert lessor.grant(1, MAX_TTL_S, 0.0) == MAX_TTL_S
    assert_raises(errors.LEASE_TTL_TOO_LARGE, lessor.grant, 2, MAX_TTL_S + 1, 0.0)
    assert not lessor.exists(2)


@pytest.mark.parametrize("ttl", [-5, 0, 1, 2])
def test_a_short_ttl_is_raised_to_the_minimum(ttl: int) -> None:
    """LSE-03."""
    lessor = new_lessor()
    assert lessor.grant(1, ttl, 0.0) == 2
    assert lessor.ttl(1) == 2


def test_a_minimum_ttl_below_one_second_is_refused() -> None:
    """LSE-03."""
    with pytest.raises(ValueError, match="min_ttl: 0"):
        Lessor(MemoryBackend(), min_ttl=0)


def test_renewal_answers_the_granted_ttl_and_starts_it_again() -> None:
    """LSE-05."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    assert leader.renew(1, 9.0) == 10
    assert leader.remaining(1, 9.0) == 10
    assert leader.expired(18.9) == []
    assert leader.expired(19.0) == [1]


def test_renewal_of_an_unknown_lease_says_so() -> None:
    """LSE-06."""
    assert new_leader().renew(99, 0.0) == RENEW_UNKNOWN == 0


def test_only_the_leader_renews() -> None:
    """LSE-08."""
    follower = new_lessor()
    follower.grant(1, 10, 0.0)
    assert_raises(errors.NOT_PRIMARY_LESSOR, follower.renew, 1, 0.0)
    assert_raises(errors.NOT_PRIMARY_LESSOR, follower.remaining, 1, 0.0)


def test_an_expired_lease_is_never_revived() -> None:
    """LSE-11: from the very moment of expiry on, until the revocation lands."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    assert leader.renew(1, 10.0) == RENEW_EXPIRED
    assert leader.expired(10.0) == [1]
    assert leader.renew(1, 10.1) == RENEW_EXPIRED
    leader.revoke(1)
    assert leader.renew(1, 10.2) == RENEW_UNKNOWN


def test_revoke_hands_out_all_keys_in_byte_order_and_forgets_the_lease() -> None:
    """LSE-12."""
    backend = MemoryBackend()
    lessor = new_lessor(backend)
    lessor.grant(1, 10, 0.0)
    for key in (b"b", b"a\xff", b"a", b"\x00"):
        lessor.attach(1, key)
    assert lessor.revoke(1) == [b"\x00", b"a", b"a\xff", b"b"]
    assert not lessor.exists(1)
    assert lessor.lease_of(b"a") == 0
    assert list(backend.scan(LEASES, b"", None)) == []


def test_revoking_an_unknown_lease_is_refused() -> None:
    """LSE-13."""
    assert_raises(errors.LEASE_NOT_FOUND, new_lessor().revoke, 5)


def test_keys_moved_to_another_lease_or_to_none_survive_the_revocation() -> None:
    """LSE-14."""
    lessor = new_lessor()
    lessor.grant(1, 10, 0.0)
    lessor.grant(2, 10, 0.0)
    for key in (b"stays", b"moved", b"freed"):
        lessor.attach(1, key)
    lessor.attach(2, b"moved")
    lessor.detach(b"freed")
    lessor.detach(b"never attached")
    assert lessor.revoke(1) == [b"stays"]
    assert lessor.keys(2) == [b"moved"]
    assert lessor.lease_of(b"moved") == 2


def test_attaching_to_a_missing_lease_is_refused_and_changes_nothing() -> None:
    """LSE-25."""
    lessor = new_lessor()
    lessor.grant(1, 10, 0.0)
    lessor.attach(1, b"k")
    assert_raises(errors.LEASE_NOT_FOUND, lessor.attach, 2, b"k")
    assert lessor.lease_of(b"k") == 1


def test_remaining_time_is_whole_seconds_rounded_down() -> None:
    """LSE-16, LSE-17: an expired lease that is not yet revoked shows 0 or below."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    assert leader.remaining(1, 0.5) == 9
    assert leader.remaining(1, 9.9) == 0
    assert leader.remaining(1, 12.5) == -2
    assert leader.ttl(1) == 10


def test_questions_about_an_unknown_lease_find_none() -> None:
    """LSE-17: the caller turns it into TTL −1."""
    leader = new_leader()
    assert_raises(errors.LEASE_NOT_FOUND, leader.remaining, 5, 0.0)
    assert_raises(errors.LEASE_NOT_FOUND, leader.ttl, 5)
    assert_raises(errors.LEASE_NOT_FOUND, leader.keys, 5)
    assert_raises(errors.LEASE_NOT_FOUND, leader.checkpoint, 5, 1, 0.0)


def test_the_leader_lists_the_soonest_expiry_first() -> None:
    """LSE-19."""
    lessor = new_lessor()
    for lease_id, ttl in ((1, 30), (2, 10), (3, 20)):
        lessor.grant(lease_id, ttl, 0.0)
    assert lessor.ids() == [1, 2, 3]
    lessor.promote(0.0, ELECTION_TIMEOUT_S)
    assert lessor.ids() == [2, 3, 1]
    lessor.renew(2, 10.9)
    lessor.grant(4, 5, 10.9)
    assert lessor.ids() == [4, 2, 3, 1]


def test_a_lease_is_never_due_early_and_is_due_on_time() -> None:
    """LSE-20."""
    leader = new_leader()
    leader.grant(1, 10, 5.0)
    assert leader.expired(math.nextafter(15.0, 0.0)) == []
    assert leader.expired(15.0) == [1]


def test_an_expired_lease_is_handed_out_again_until_it_is_revoked() -> None:
    """LSE-20: the proposal may have been lost."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    assert leader.expired(10.0) == [1]
    assert leader.expired(10.0 + REVOKE_RETRY_S - 0.1) == []
    assert leader.expired(10.0 + REVOKE_RETRY_S) == [1]
    leader.revoke(1)
    assert leader.expired(100.0) == []


def test_no_more_than_the_limit_expire_at_once_and_the_rest_follow() -> None:
    """LSE-20."""
    leader = new_leader()
    for lease_id in range(1, EXPIRED_LIMIT + 3):
        leader.grant(lease_id, 10, 0.0)
    first = leader.expired(10.0)
    assert len(first) == EXPIRED_LIMIT
    rest = leader.expired(10.0)
    assert sorted(first + rest) == list(range(1, EXPIRED_LIMIT + 3))


def test_a_call_looks_at_a_bounded_number_of_leases_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LSE-20."""
    monkeypatch.setattr(lessor_module, "EXPIRY_CHECKS", 3)
    leader = new_leader()
    for lease_id in range(1, 6):
        leader.grant(lease_id, 10, 0.0)
        leader.renew(lease_id, 5.0)
    leader.grant(6, 12, 0.0)
    assert leader.expired(12.0) == []
    assert leader.expired(12.0) == [6]


def test_an_id_granted_anew_does_not_inherit_the_old_expiry() -> None:
    """LSE-20."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    leader.revoke(1)
    leader.grant(1, 60, 5.0)
    assert leader.expired(10.0) == []
    assert leader.expired(65.0) == [1]


def test_a_new_leader_gives_every_lease_its_full_ttl_and_an_election_timeout() -> None:
    """LSE-21."""
    lessor = new_lessor()
    lessor.grant(1, 10, 0.0)
    assert lessor.expired(1000.0) == []
    lessor.promote(1000.0, ELECTION_TIMEOUT_S)
    assert lessor.is_primary
    assert lessor.expired(1010.9) == []
    assert lessor.expired(1011.0) == [1]


def test_renewal_right_after_a_promotion_does_not_shorten_the_lease() -> None:
    """LSE-21."""
    lessor = new_lessor()
    lessor.grant(1, 10, 0.0)
    lessor.promote(100.0, ELECTION_TIMEOUT_S)
    lessor.renew(1, 100.5)
    assert lessor.expired(110.9) == []
    assert lessor.expired(111.0) == [1]


def test_leading_again_in_a_new_term_never_shortens_a_lease() -> None:
    """LSE-21: in between another leader may have renewed it."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    leader.grant(2, 100, 0.0)
    leader.checkpoint(2, 5, 0.0)
    leader.promote(8.0, ELECTION_TIMEOUT_S)
    assert leader.expired(18.9) == []
    assert leader.expired(19.0) == [1]
    assert leader.remaining(2, 19.0) == 81


def test_many_leases_do_not_all_fall_due_together_after_a_promotion() -> None:
    """LSE-22: later, never earlier."""
    lessor = new_lessor()
    for lease_id in range(1, 2 * SPREAD_PER_SECOND + 2):
        lessor.grant(lease_id, 10, 0.0)
    lessor.promote(0.0, ELECTION_TIMEOUT_S)
    assert lessor.expired(10.99, limit=10**6) == []
    assert len(lessor.expired(11.0, limit=10**6)) == 1
    in_first_second = len(lessor.expired(11.99, limit=10**6)) + 1
    in_second_second = len(lessor.expired(12.99, limit=10**6))
    assert 0 < in_first_second <= SPREAD_PER_SECOND
    assert 0 < in_second_second <= SPREAD_PER_SECOND
    rest = len(lessor.expired(13.01, limit=10**6))
    assert in_first_second + in_second_second + rest == 2 * SPREAD_PER_SECOND + 1


def test_few_leases_keep_their_exact_time_after_a_promotion() -> None:
    """LSE-22: the spread begins at a thousand."""
    lessor = new_lessor()
    for lease_id in range(1, SPREAD_MIN_LEASES):
        lessor.grant(lease_id, 10, 0.0)
    lessor.promote(0.0, ELECTION_TIMEOUT_S)
    assert len(lessor.expired(11.0, limit=10**6)) == SPREAD_MIN_LEASES - 1


def test_a_member_that_does_not_lead_expires_nothing() -> None:
    """LSE-23."""
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    leader.demote()
    assert not leader.is_primary
    assert leader.expired(1e9) == []
    leader.grant(2, 10, 0.0)
    assert leader.expired(1e9) == []
    assert leader.ids() == [1, 2]


def test_attachments_are_rebuilt_from_the_live_keys_after_a_restart() -> None:
    """LSE-23."""
    backend = MemoryBackend()
    lessor = new_lessor(backend)
    lessor.grant(1, 10, 0.0)
    lessor.attach(1, b"forgotten")
    lessor.promote(0.0, ELECTION_TIMEOUT_S)
    assert lessor.restore([(b"a", 1), (b"b", 1)]) == []
    assert sorted(lessor.keys(1)) == [b"a", b"b"]
    assert lessor.lease_of(b"forgotten") == 0
    assert not lessor.is_primary


def test_restore_names_the_keys_whose_lease_is_missing() -> None:
    """LSE-23."""
    lessor = new_lessor()
    assert lessor.restore([(b"orphan", 9)]) == [b"orphan"]
    assert lessor.lease_of(b"orphan") == 0


def test_a_checkpoint_survives_a_restart_and_shortens_the_next_promotion() -> None:
    """LSE-24."""
    backend = MemoryBackend()
    lessor = new_lessor(backend)
    lessor.grant(1, 600, 0.0)
    lessor.checkpoint(1, 30, 0.0)
    restarted = new_lessor(backend)
    restarted.promote(0.0, ELECTION_TIMEOUT_S)
    assert restarted.remaining(1, 0.0) == 31
    assert restarted.ttl(1) == 600
    restarted.checkpoint(1, 0, 0.0)
    restarted.demote()
    restarted.promote(0.0, ELECTION_TIMEOUT_S)
    assert restarted.remaining(1, 0.0) == 601


def test_a_checkpoint_never_exceeds_the_ttl() -> None:
    """LSE-24."""
    lessor = new_lessor()
    lessor.grant(1, 600, 0.0)
    lessor.checkpoint(1, 10**6, 0.0)
    lessor.promote(0.0, ELECTION_TIMEOUT_S)
    assert lessor.remaining(1, 0.0) == 601


def test_granting_and_revoking_for_ever_does_not_grow_the_heap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outdated heap entries are bounded by `STALE_HEAP_SLACK`."""
    monkeypatch.setattr(lessor_module, "STALE_HEAP_SLACK", 10)
    leader = new_leader()
    leader.grant(1, 10, 0.0)
    for _ in range(1000):
        leader.grant(2, MAX_TTL_S, 0.0)
        leader.revoke(2)
    assert len(leader._heap) <= 2 * 2 + 10
    assert leader.expired(10.0) == [1]


def test_a_damaged_lease_record_is_named() -> None:
    with pytest.raises(ValueError, match="table leases, key 0000000000000001: 3 bytes"):
        wire.decode_lease(wire.encode_id(1), b"abc")
