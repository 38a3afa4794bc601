"""Whom a comparison of hashes blames."""

from __future__ import annotations

import pytest

from kvstore.mvcc.hash import HashKV
from kvstore.node.corruption import (
    WHOLE_CLUSTER,
    Answer,
    Verdict,
    compare,
    differing,
    suspects_of_periodic_check,
)

GOOD, BAD, WORSE = 0xA, 0xB, 0xC
LEADER = 1


def hashed(value: int, compact: int = 5, revision: int = 9) -> HashKV:
    return HashKV(value, compact, revision)


def answer(value: int, compact: int = 5, revision: int = 9) -> Answer:
    return Answer(hashed(value, compact), revision)


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ({2: answer(GOOD), 3: answer(GOOD)}, Verdict([], True)),
        ({2: answer(GOOD), 3: None}, Verdict([], False)),
        ({2: None, 3: None}, Verdict([], False)),
        ({}, Verdict([], True)),
        ({2: answer(GOOD), 3: answer(BAD)}, Verdict([3], True)),
        ({2: answer(BAD), 3: answer(BAD)}, Verdict([LEADER], True)),
        ({2: answer(BAD), 3: None}, Verdict([WHOLE_CLUSTER], True)),
        ({2: answer(BAD), 3: answer(WORSE)}, Verdict([WHOLE_CLUSTER], True)),
        ({2: answer(BAD)}, Verdict([WHOLE_CLUSTER], True)),
        # Another compact revision proves nothing.
        ({2: answer(BAD, compact=4), 3: answer(GOOD)}, Verdict([], False)),
        (
            {2: answer(GOOD), 3: answer(GOOD), 4: answer(BAD), 5: answer(WORSE)},
            Verdict([4, 5], True),
        ),
    ],
)
def test_minority_is_blamed_and_nobody_without_a_majority(
    answers: dict[int, Answer | None], verdict: Verdict
) -> None:
    """MNT-23: the majority is of all members; without one it is member 0."""
    assert compare(LEADER, hashed(GOOD), answers) == verdict


def test_start_is_refused_for_another_hash_at_an_equal_compact_revision_only() -> None:
    """MNT-24: who is away, behind or compacted otherwise does not count."""
    others = {2: None, 3: answer(BAD, compact=4), 4: answer(GOOD), 5: answer(BAD)}
    assert differing(hashed(GOOD), others) == [5]
    assert differing(hashed(GOOD), {2: None, 3: answer(GOOD)}) == []


def test_periodic_check_blames_the_minority() -> None:
    """MNT-24: the leader too, where etcd would blame a follower."""
    before, after = hashed(GOOD), answer(GOOD, revision=12)
    assert suspects_of_periodic_check(LEADER, before, after, {2: answer(GOOD), 3: None}) == []
    assert suspects_of_periodic_check(LEADER, before, after, {2: answer(GOOD), 3: answer(BAD)}) == [
        3
    ]
    others = {2: answer(BAD), 3: answer(BAD)}
    assert suspects_of_periodic_check(LEADER, before, after, others) == [LEADER]


def test_periodic_check_blames_who_is_ahead_of_the_leader() -> None:
    """MNT-24: after the leader has applied all that was acknowledged nobody can be."""
    before, after = hashed(GOOD), answer(GOOD, revision=12)
    ahead = {2: answer(GOOD, revision=13), 3: answer(GOOD, revision=14)}
    assert suspects_of_periodic_check(LEADER, before, after, ahead) == [2]
    compacted_further = {2: answer(GOOD), 3: answer(BAD, compact=6)}
    assert suspects_of_periodic_check(LEADER, before, after, compacted_further) == [3]


def test_leader_whose_own_hash_changes_blames_itself() -> None:
    """MNT-24: equal revisions, another hash."""
    others = {2: answer(GOOD), 3: answer(GOOD)}
    assert suspects_of_periodic_check(LEADER, hashed(GOOD), answer(BAD), others) == [LEADER]
